"""The threshold rules: what conf/threshold/*.yaml names. Each takes plain keyword values and fits on scores of normals.

With `log` a rule works on the logarithm of the scores: errors are positive and skewed to the right, where a standard
deviation of the raw scores is ruled by the largest of them. The threshold is then raised back to the scores' unit.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from anomaly_lightning.calibration.base import Rule, calibrate
from anomaly_lightning.calibration.result import Calibration
from anomaly_lightning.calibration.scores import Scores, as_scores, exact, require
from anomaly_lightning.errors import CalibrationError
from anomaly_lightning.runtime.decision import MARGIN, exceeds

if TYPE_CHECKING:
    import torch

MAD_TO_STD = 1.4826  # 1 / Phi^-1(3/4): the median absolute deviation of a Gaussian times this is its std


def _on_scale(scores: Scores, log: bool, place: Callable[[Scores], float]) -> float:
    """Place a threshold on the scores or on their logarithm; overflow is infinity, which `calibrate` refuses."""
    with np.errstate(over="ignore"):
        if not log:
            return place(scores)
        if (low := float(scores.min())) <= 0:
            raise CalibrationError(
                f"threshold.log=true needs scores above 0; the lowest of {len(scores)} is {low:g}. "
                "Use threshold.log=false."
            )
        return float(np.exp(place(np.log(scores))))


@dataclass(frozen=True, kw_only=True)
class Deviations(Rule):
    """What the rules share that add a number of deviations to a middle.

    Attributes:
        k: Number of (robust) standard deviations, >= 0.
        log: Whether to work on the logarithm of the scores.
    """

    k: float = 3.0
    log: bool = False

    def __post_init__(self) -> None:
        """Raise CalibrationError for an invalid option."""
        super().__post_init__()
        require("k", self.k, lambda k: 0 <= k < math.inf, "a number of standard deviations, 0 or more")


@dataclass(frozen=True, kw_only=True)
class MeanStd(Deviations):
    """Mean + k sample standard deviations (n - 1 in the denominator)."""

    method: ClassVar[str] = "mean_std"

    def place(self, scores: Scores) -> float:
        """Threshold for scores (n,)."""
        return _on_scale(scores, self.log, lambda values: float(values.mean() + self.k * values.std(ddof=1)))


@dataclass(frozen=True, kw_only=True)
class Highest(MeanStd):
    """Highest score of the normals, but no more than mean + k sample standard deviations.

    With few normals, mean + 3 std lies far above all of them and misses defects that rank perfectly; the highest normal
    is the most that was ever seen of a good part. Of n + 1 normals alike the new one is the highest with probability
    1 / (n + 1), so about that share of good parts is called defective. The cap limits what an
    outlier among many can do. docs/quality.md compares the rules.
    """

    method: ClassVar[str] = "highest"

    def place(self, scores: Scores) -> float:
        """Threshold for scores (n,)."""
        return min(float(scores.max()), super().place(scores))


@dataclass(frozen=True, kw_only=True)
class Robust(Deviations):
    """Median + k * 1.4826 * median absolute deviation: `k` standard deviations of a Gaussian, robust to outliers."""

    method: ClassVar[str] = "robust"

    def place(self, scores: Scores) -> float:
        """Threshold for scores (n,)."""

        def median_mad(values: Scores) -> float:
            middle = np.median(values)
            return float(middle + self.k * MAD_TO_STD * np.median(np.abs(values - middle)))

        return _on_scale(scores, self.log, median_mad)


@dataclass(frozen=True, kw_only=True)
class StudentT(Rule):
    """Upper prediction limit: mean + t * s * sqrt(1 + 1 / n), t the 1 - alpha quantile of Student's t, n - 1 degrees.

    Where scores (or their logarithms) are Gaussian, a new normal exceeds it with probability exactly alpha, however
    few normals there are (Geisser 1993, section 2.1.1): k grows by itself where n is small.

    Attributes:
        alpha: Wanted share of false alarms, in (0, 1).
        log: Whether to work on the logarithm of the scores.
    """

    alpha: float = 0.01
    log: bool = False
    method: ClassVar[str] = "student_t"

    def __post_init__(self) -> None:
        """Raise CalibrationError for an invalid option."""
        super().__post_init__()
        require("alpha", self.alpha, lambda a: 0 < a < 1, "a share between 0 and 1 (0.01: 1 good part in 100)")

    def place(self, scores: Scores) -> float:
        """Threshold for scores (n,)."""
        n = len(scores)
        k = float(stats.t.ppf(1 - self.alpha, n - 1)) * math.sqrt(1 + 1 / n)
        return _on_scale(scores, self.log, lambda values: float(values.mean() + k * values.std(ddof=1)))


@dataclass(frozen=True, kw_only=True)
class Quantile(Rule):
    """Plain quantile of the normals' scores, interpolated linearly between neighbours.

    Attributes:
        q: Which quantile, in (0, 1].
    """

    q: float = 0.99
    method: ClassVar[str] = "quantile"

    def __post_init__(self) -> None:
        """Raise CalibrationError for an invalid option."""
        super().__post_init__()
        require("q", self.q, lambda q: 0 < q <= 1, "above 0 and at most 1 (1: the largest score)")

    def place(self, scores: Scores) -> float:
        """Threshold for scores (n,)."""
        return float(np.quantile(scores, self.q))

    def rank(self, normals: int) -> Fraction:
        """Rank of the quantile among the normals' scores, between two of them in general."""
        return (normals - 1) * exact(self.q) + 1


@dataclass(frozen=True, kw_only=True)
class Conformal(Rule):
    """Split conformal: the ceil((n + 1)(1 - alpha))-th smallest of n scores (Vovk 2005; Lei et al. 2018, section 2.2).

    A new normal exceeds it with probability at most alpha, whatever the distribution, on average over calibration
    sets; ties only lower the probability. This takes normals and new parts drawn alike and a detector that has not seen
    these normals. With cross-fitted scores it holds approximately (at worst 2 alpha: Barber et al. 2021).

    Attributes:
        alpha: Budget of false alarms, in (0, 1).
    """

    alpha: float = 0.01
    method: ClassVar[str] = "conformal"

    def __post_init__(self) -> None:
        """Raise CalibrationError for an invalid option."""
        super().__post_init__()
        require("alpha", self.alpha, lambda a: 0 < a < 1, "a share between 0 and 1 (0.01: 1 good part in 100)")

    @property
    def least(self) -> int:
        """Fewest normals that can promise alpha: ceil(1 / alpha) - 1."""
        return max(math.ceil(1 / exact(self.alpha)) - 1, 2)

    def rank(self, normals: int) -> int:
        """Rank k of the threshold among the normals' scores; leave-one-out may come one short and takes the largest."""
        return min(math.ceil((normals + 1) * (1 - exact(self.alpha))), normals)

    def place(self, scores: Scores) -> float:
        """Threshold for scores (n,)."""
        k = self.rank(len(scores)) - 1
        return float(np.partition(scores, k)[k])


@dataclass(frozen=True, kw_only=True)
class F1(Rule):
    """Best F1 on labelled validation images that the user names; never on the test set: that would be an oracle."""

    method: ClassVar[str] = "f1"
    labelled: ClassVar[bool] = True

    def fit(self, scores: ArrayLike | torch.Tensor, defects: ArrayLike | torch.Tensor | None = None) -> Calibration:
        """Threshold from scores (n,) of normals and (m,) of labelled defects.

        Raises:
            CalibrationError: No defects, fewer than two normals, or NaN or infinite scores.
        """
        normals = as_scores(scores, self.least)
        defective = as_scores([] if defects is None else defects, least=1, where="scores of labelled defects")
        labels = np.ones(len(defective), dtype=bool)

        def place(values: Scores) -> float:
            together = np.concatenate((values, defective))
            return best_f1_threshold(together, np.concatenate((np.zeros(len(values), dtype=bool), labels)))

        return calibrate(self, normals, place)


def best_f1_threshold(scores: ArrayLike | torch.Tensor, labels: ArrayLike | torch.Tensor) -> float:
    """Threshold with the best F1 of `exceeds(score, threshold)`, halfway between two scores; of several, the highest.

    Args:
        scores: (n,) finite.
        labels: (n,) bool or 0 and 1; True = defective. At least one of each kind.

    Raises:
        CalibrationError: One kind only, other shapes, or NaN or infinite scores.
    """
    values = as_scores(scores, where="labelled scores")
    given: Any = labels
    truth = np.asarray(given.cpu().numpy() if hasattr(given, "detach") else given).astype(bool)
    if truth.shape != values.shape or truth.all() or not truth.any():
        raise CalibrationError(
            f"The best F1 needs one label a score, good and defective both; got {len(values)} scores, labels of shape "
            f"{truth.shape} with {int(truth.sum())} defective. Name a validation set that holds both kinds."
        )
    order = np.argsort(-values, kind="stable")
    ordered, hits = values[order], np.cumsum(truth[order])
    f1 = 2 * hits / (np.arange(1, len(values) + 1) + truth.sum())
    lowest = ordered[-1] - 2 * MARGIN * abs(ordered[-1])  # what calls everything defective
    middles = np.append((ordered[1:] + ordered[:-1]) / 2, lowest or np.nextafter(0, -np.inf))
    cuts = np.flatnonzero(exceeds(ordered, middles))  # never between scores that the margin can't tell apart
    return float(middles[cuts[np.argmax(f1[cuts])]])
