"""What may enter a metric: finite scores of one length with bool labels; anything else is an error, never repaired."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from anomaly_lightning.metrics.ranking import Array


def finite_array(values: Tensor, what: str) -> npt.NDArray[np.floating]:
    """Bring raw scores to numpy without changing their order.

    Args:
        values: any shape, any real dtype, any device. float64 stays; everything else becomes float32, which is exact
            for half precision.
        what: the name used in the error.

    Returns:
        The same shape, float32 or float64.

    Raises:
        ValueError: some values are NaN or infinite; says how many.
    """
    kept = values.detach().cpu()
    array = (kept if kept.dtype == torch.float64 else kept.float()).numpy()
    bad = int(array.size - np.count_nonzero(np.isfinite(array)))
    if bad:
        raise ValueError(f"Expected finite {what}, got {bad} of {array.size} that are NaN or infinite.")
    return array


def scores_and_labels(scores: Tensor, labels: Tensor) -> tuple[Array, npt.NDArray[np.bool_]]:
    """Check image scores (N,) float and labels (N,) bool, and give them as float64 and bool arrays.

    Raises:
        ValueError: another shape or dtype, or scores that are not finite.
    """
    if scores.ndim != 1 or scores.shape != labels.shape or labels.dtype != torch.bool:
        raise ValueError(
            "Expected scores (N,) and labels (N,) bool, "
            f"got scores {tuple(scores.shape)} and labels {tuple(labels.shape)} {labels.dtype}."
        )
    return finite_array(scores, "scores").astype(np.float64), labels.detach().cpu().numpy()


def usable_threshold(threshold: float | None) -> float | None:
    """NaN means "not calibrated" in a module's buffer; here that is None."""
    return None if threshold is None or np.isnan(threshold) else float(threshold)
