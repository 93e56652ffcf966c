"""A rule for few normals: their own deviation, shrunk towards a usual one."""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from scipy import stats

from anomaly_lightning.calibration.base import Rule
from anomaly_lightning.calibration.scores import Scores, require
from anomaly_lightning.errors import CalibrationError


@dataclass(frozen=True, kw_only=True)
class ShrunkT(Rule):
    """Prediction limit for one more normal, from logarithms of scores whose variance is shrunk towards a usual one.

    The posterior predictive limit of Gaussian logarithms with a flat prior for the mean and a scaled inverse
    chi-squared one for the variance (Gelman et al., Bayesian Data Analysis, 3rd ed., section 3.3): with s^2 the
    variance of n logarithms, theirs is (weight * spread^2 + (n - 1) s^2) / (weight + n - 1), with weight + n - 1
    degrees of freedom. Six normals say little about their deviation; that of most parts' scores is about a tenth of
    their mean. Hundreds of normals overrule the prior. docs/decisions.md says how `weight` and `spread` were chosen.

    Attributes:
        alpha: Wanted share of false alarms, in (0, 1).
        weight: Normals that the usual deviation is worth, above 0.
        spread: The usual standard deviation of the logarithm, about that of a score over the mean score, above 0.
    """

    alpha: float = 0.05
    weight: float = 10.0
    spread: float = 0.1
    method: ClassVar[str] = "shrunk_t"

    def __post_init__(self) -> None:
        """Raise CalibrationError for an invalid option."""
        super().__post_init__()
        require("alpha", self.alpha, lambda a: 0 < a < 1, "a share between 0 and 1 (0.01: 1 good part in 100)")
        require("weight", self.weight, lambda w: 0 < w < math.inf, "a number of normals above 0")
        require("spread", self.spread, lambda s: 0 < s < math.inf, "a standard deviation of logarithms above 0")

    def place(self, scores: Scores) -> float:
        """Threshold for scores (n,)."""
        if (low := float(scores.min())) <= 0:
            raise CalibrationError(
                f"threshold=shrunk_t works on logarithms and needs scores above 0; the lowest of {len(scores)} is "
                f"{low:g}. Look at that image, or use threshold=highest."
            )
        own, values = len(scores) - 1, np.log(scores)
        degrees = self.weight + own
        variance = (self.weight * self.spread**2 + own * values.var(ddof=1)) / degrees
        k = float(stats.t.ppf(1 - self.alpha, degrees)) * math.sqrt(1 + 1 / len(scores))
        with np.errstate(over="ignore"):  # infinity is refused by `calibrate`
            return float(np.exp(values.mean() + k * math.sqrt(variance)))
