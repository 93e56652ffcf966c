"""Are more good parts called defective than the calibration and the test set's size explain?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from anomaly_lightning.calibration.base import Rule
from anomaly_lightning.calibration.scores import as_scores
from anomaly_lightning.errors import CalibrationError

if TYPE_CHECKING:
    import torch

DRAWS = 400  # calibration sets; the standard error of a share of .025 is below .008


def chance_of_alarms(
    rule: Rule, scores: ArrayLike | torch.Tensor, alarms: int, good: int, draws: int = DRAWS, seed: int = 0
) -> float:
    """Probability of at least so many false alarms where good test parts are drawn like the normals calibrated on.

    A rule's promise is an average over calibration sets. The rate of the one threshold at hand is random, too: the
    highest of 20 normals is exceeded by 5 % of good parts on average, and by 14 % or more in one calibration of 20.
    An interval of the test set's counts alone takes that for a broken promise. Here both are drawn anew: calibration
    sets of as many normals, whose scores' logarithms (the scores where some are not above 0) are Gaussian with mean and
    deviation of the given ones, and the count of false alarms given the threshold's rate. Rules that take a rank do
    not depend on the distribution.

    Args:
        rule: That gave the threshold.
        scores: (n,) of the normals that it was fitted on.
        alarms: Good test images that were called defective.
        good: Good test images.
        draws: Calibration sets.
        seed: Of the draws.

    Returns:
        The probability, in [0, 1]; below .025 good test parts are hardly drawn like the normals.

    Raises:
        CalibrationError: Scores that the rule refuses, or more alarms than images.
    """
    if not 0 <= alarms <= good:
        raise CalibrationError(f"Expected 0 to {good} false alarms among {good} good images; got {alarms}.")
    normals = as_scores(scores, rule.least)
    logs = bool((normals > 0).all())
    values = np.log(normals) if logs else normals
    middle, spread = float(values.mean()), float(values.std(ddof=1))
    drawn = np.random.default_rng(seed).normal(middle, spread, (draws, len(values)))
    limits = np.array([rule.place(np.exp(row) if logs else row) for row in drawn])
    if spread == 0:
        return float(alarms == 0)
    with np.errstate(divide="ignore", invalid="ignore"):  # a limit below 0 lets nothing through
        heights = np.where(limits > 0, np.log(limits), -np.inf) if logs else limits
    rates = stats.norm.sf(heights, middle, spread)
    return float(np.mean(stats.binom.sf(alarms - 1, good, rates)))
