"""From scores of normals and a way to place a threshold to a `Calibration`: leave-one-out, bounds, review band."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from anomaly_lightning.calibration.result import Calibration, Influence
from anomaly_lightning.calibration.scores import Scores, as_scores, binomial_upper, exact, require
from anomaly_lightning.errors import CalibrationError
from anomaly_lightning.runtime.decision import exceeds

if TYPE_CHECKING:
    import torch

FEW_NORMALS = 10
LEAVE_ONE_OUT_LIMIT = 2000  # refits; past it, a normal in the middle no longer moves any of the thresholds here


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What the threshold rules share; a rule is a frozen dataclass of plain values.

    Attributes:
        review_budget: Share of good parts, in (0, 1), that may be sent to an operator; None: no review band.
    """

    review_budget: float | None = None
    method: ClassVar[str]
    labelled: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Raise CalibrationError for an invalid option."""
        if self.review_budget is not None:
            require(
                "review_budget", self.review_budget, lambda b: 0 < b < 1, "null or a share between 0 and 1 (0.05: 5 %)"
            )

    @property
    def least(self) -> int:
        """Fewest normals the rule works with."""
        return 2

    def place(self, scores: Scores) -> float:
        """The threshold for scores (n,) that passed `as_scores`."""
        raise NotImplementedError

    def rank(self, normals: int) -> Fraction | int | None:
        """Rank k of the threshold among the n normals' scores where n alone decides it, else None.

        A fraction where the threshold is interpolated between two of them.
        """
        return None

    def fit(self, scores: ArrayLike | torch.Tensor) -> Calibration:
        """Threshold from scores (n,) of normals, with its promise.

        Raises:
            CalibrationError: Too few scores (the message says how many more), NaN or infinite ones, or ones that the
                rule can't take.
        """
        return calibrate(self, as_scores(scores, self.least, f"scores of normals for {self}"), self.place)


def calibrate(rule: Rule, scores: Scores, place: Callable[[Scores], float]) -> Calibration:
    """Calibration of a rule on checked scores (n,), n >= 2, of normals; `place` gives the threshold for any of them."""
    n, threshold, rank = len(scores), place(scores), rule.rank(len(scores))
    if not math.isfinite(threshold):
        raise CalibrationError(f"{rule} gives the threshold {threshold} on {n} normals: use a milder setting.")
    others = _leave_one_out(scores, place, threshold) if n > 2 else None
    rate, upper = _false_alarms(scores, others, rank)
    band = _review_band(scores, threshold, rule.review_budget)
    return Calibration(
        threshold=threshold,
        method=rule.method,
        parameters=asdict(rule),
        normals=n,
        mean=float(scores.mean()),
        std=float(scores.std(ddof=1)),
        false_alarm_rate=rate,
        false_alarm_upper=upper,
        warnings=_warnings(scores, upper),
        review=band[0] if band else None,
        review_share=band[1] if band else None,
        influence=None if others is None else _influence(others, threshold, float(scores.std())),
    )


def _leave_one_out(scores: Scores, place: Callable[[Scores], float], threshold: float) -> Scores:
    """Threshold refitted without each normal: (n,); of very many, the extreme ones alone are left out in turn."""
    order, half = np.argsort(scores, kind="stable"), LEAVE_ONE_OUT_LIMIT // 2
    extremes = order if len(order) <= 2 * half else np.concatenate((order[:half], order[-half:]))
    others = np.full(len(scores), threshold)
    others[extremes] = [place(np.delete(scores, index)) for index in extremes]
    return others


def _false_alarms(scores: Scores, others: Scores | None, rank: Fraction | int | None) -> tuple[float | None, float]:
    """Expected share of false alarms and its upper bound; see `Calibration`."""
    n = len(scores)
    if rank is not None:
        return float((n + 1 - rank) / (n + 1)), binomial_upper(n - math.floor(rank), n)
    if others is None:
        return None, 1.0
    above = int(exceeds(scores, others).sum())
    return above / n, binomial_upper(above, n)


def _review_band(scores: Scores, threshold: float, budget: float | None) -> tuple[float, float] | None:
    """Lower threshold and predicted share of the review band.

    A new normal falls into each of the n + 1 gaps between the ordered scores with probability 1 / (n + 1). The band
    spans whole gaps below the threshold, and where the threshold lies inside a gap, that gap counts in full.
    """
    if budget is None:
        return None
    n, ordered = len(scores), np.sort(scores)
    below = int((scores <= threshold).sum())
    partial = 0 if below and ordered[below - 1] == threshold else 1
    gaps = min(math.floor(exact(budget) * (n + 1)) - partial, below - 1)
    if gaps < 1:
        needed = math.ceil((1 + partial) / exact(budget)) - 1
        raise CalibrationError(
            f"threshold.review_budget={budget} needs at least {needed} normals, {n} came: {max(needed - n, 1)} more "
            "to go. Add good images, allow a larger share, or leave the review band out (null)."
        )
    return float(ordered[below - gaps - 1]), (gaps + partial) / (n + 1)


def _influence(others: Scores, threshold: float, spread: float) -> Influence:
    index = int(np.abs(others - threshold).argmax())
    scale = abs(threshold) or spread or 1.0
    return Influence(index=index, shift=float((others[index] - threshold) / scale))


def _warnings(scores: Scores, upper: float) -> tuple[str, ...]:
    found = []
    if len(scores) < FEW_NORMALS:
        found.append(
            f"The threshold rests on {len(scores)} normals only: of new good parts up to {upper:.0%} may be called "
            "defective (95 % confidence). Calibrate on more normals before you rely on it."
        )
    if float(np.ptp(scores)) == 0:
        found.append("All normals have the same score: their spread says nothing about new parts.")
    return tuple(found)
