"""Do the images at hand look like the normals the threshold was fitted on?"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from anomaly_lightning.calibration.scores import as_scores, require

if TYPE_CHECKING:
    import torch

LEVEL = 0.005  # of each of the two tests, so that both together warn falsely at most once in a hundred sets


def shift_warning(
    calibration_scores: ArrayLike | torch.Tensor, scores_at_hand: ArrayLike | torch.Tensor, good_share: float = 0.25
) -> str | None:
    """Sentence for the user where calibration normals and the images at hand differ beyond chance, else None.

    Two one-sided Mann-Whitney tests, neither of which defects among the images at hand can set off:
    the lowest `good_share` of the scores at hand against all calibration scores (higher: the good parts at hand look
    more anomalous than those calibrated on), and all scores at hand against them (lower: the threshold is too lenient).
    False warnings: at most 1 in 100 sets where calibration normals and good parts at hand are drawn alike and at
    least `good_share` of the images are good (simulated in tests/test_calibration.py).

    Args:
        calibration_scores: (n,) of normals.
        scores_at_hand: (m,) of images of any kind, unlabelled.
        good_share: Least share of good parts among the images at hand, in (0, 1]; where all are known to be good, 1
            finds smaller shifts.

    Raises:
        CalibrationError: NaN or infinite scores, an empty set, or a share outside (0, 1].
    """
    require("good_share", good_share, lambda share: 0 < share <= 1, "above 0 and at most 1 (1: all are good)")
    normals = as_scores(calibration_scores, least=1)
    at_hand = np.sort(as_scores(scores_at_hand, least=1, where="scores at hand"))
    lowest = at_hand[: max(1, math.floor(good_share * len(at_hand)))]
    if stats.mannwhitneyu(lowest, normals, alternative="greater").pvalue < LEVEL:
        return (
            f"Even the lowest {len(lowest)} of {len(at_hand)} scores at hand are higher than those of the "
            f"{len(normals)} normals calibrated on: under {good_share:.0%} of these images are good, or good parts "
            "look different now (other positions, light, product), and then the given false-alarm rate does not hold. "
            "Calibrate on normals like them."
        )
    if stats.mannwhitneyu(at_hand, normals, alternative="less").pvalue < LEVEL:
        return (
            f"The {len(at_hand)} scores at hand are lower than those of the {len(normals)} normals calibrated on: the "
            "threshold is too lenient for these images and will miss defects. Calibrate on normals like them."
        )
    return None
