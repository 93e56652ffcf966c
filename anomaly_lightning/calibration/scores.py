"""What every statistic of the decision needs of its scores: checked float64 arrays, exact ranks, binomial bounds."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from anomaly_lightning.errors import CalibrationError

if TYPE_CHECKING:
    import torch

Scores = NDArray[np.float64]


def as_scores(scores: ArrayLike | torch.Tensor, least: int = 1, where: str = "scores of normals") -> Scores:
    """Scores as a float64 array (n,), checked.

    Raises:
        CalibrationError: Not one-dimensional, fewer than `least`, or any of them NaN or infinite.
    """
    # Told by its methods: where a line calibrates anew there need be no torch.
    plain: Any = scores.detach().cpu().double().numpy() if hasattr(scores, "detach") else scores
    values = np.asarray(plain, dtype=np.float64)
    if values.ndim != 1:
        raise CalibrationError(f"The {where} must be one number an image, shape (n,); got shape {values.shape}.")
    if bad := np.flatnonzero(~np.isfinite(values)).tolist():
        raise CalibrationError(
            f"The {where} must be finite numbers; {len(bad)} of {len(values)} are NaN or infinite, the first at "
            f"number {bad[0]} (from 0). Look at that image and at whether the training diverged."
        )
    if len(values) < least:
        raise CalibrationError(
            f"At least {least} {where} are needed, {len(values)} came: {least - len(values)} more to go. "
            "Add images, calibrate on more of them (cross-fitting), or choose another threshold rule."
        )
    return values


def binomial_upper(count: int, total: int, confidence: float = 0.95) -> float:
    """Upper bound of a rate from `count` events in `total` trials: one-sided Clopper-Pearson interval (1934)."""
    return 1.0 if count >= total else float(stats.beta.ppf(confidence, count + 1, total - count))


def exact(value: float) -> Fraction:
    """The decimal number that was typed: 0.01 is 1/100, so that ranks never slip by a rounding error."""
    return Fraction(str(value))


def require(name: str, value: object, fits: Callable[[float], bool], wanted: str) -> None:
    """Refuse an option that is no number or out of range; `wanted` ends "threshold.<name> must be ..."."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not fits(value):
        raise CalibrationError(f"threshold.{name} must be {wanted}; got {value!r}.")
