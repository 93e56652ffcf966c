"""From images to one curve over all their pixels, exactly or within a bound that is worked out.

AUPRO is the area under mean region overlap over the false-alarm rate of normal pixels. The mean over regions of the
share found is a recall in which each anomalous pixel weighs 1 / (regions * size of its region); so one sweep over the
distinct values of the anomalous pixels gives ROC, precision-recall and overlap alike, and no threshold is left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from anomaly_lightning.metrics import ranking as r
from anomaly_lightning.metrics.per_image import ExactImage, Image, chosen_values
from anomaly_lightning.metrics.ranking import Array

AUPRO_LIMITS = {"aupro": 0.3, "aupro_005": 0.05}
_POOLED = 2_000_000  # values of a kind that edges are chosen from, of all images together: 16 MB an array


@dataclass(frozen=True)
class Curve:
    """Cumulative counts (..., K) while the threshold falls: normal, anomalous pixels, overlap summed over regions."""

    normal: Array
    anomalous: Array
    overlap: Array

    def areas(self, binned: bool) -> dict[str, Array]:
        """AUROC, average precision and AUPRO (...); `binned` as in `ranking.average_precision`."""
        x = r.share(self.normal)
        areas = {
            "auroc": r.auroc(self.normal, self.anomalous),
            "average_precision": r.average_precision(self.normal, self.anomalous, binned),
        }
        return areas | {name: r.area_until(x, r.share(self.overlap), limit) for name, limit in AUPRO_LIMITS.items()}


def exact_curve(images: Sequence[ExactImage]) -> Curve:
    """Every corner of the curve over all pixels; needs one sort of the normal pixels."""
    normal = np.concatenate([image.normal for image in images])
    normal.sort(kind="stable")  # merges sorted runs; in place, for there may be many
    anomalous = np.concatenate([image.anomalous for image in images])
    order = np.argsort(-anomalous, kind="stable")
    values = anomalous[order]
    weights = np.concatenate([image.overlap for image in images])[order]
    last = np.append(np.flatnonzero(np.diff(values)), len(values) - 1) if len(values) else np.zeros(0, int)
    hits, overlap = (last + 1).astype(np.float64), np.cumsum(weights)[last]
    # Before a value its ties with normal pixels are not called yet, behind it they are: a slanted line between.
    before = len(normal) - np.searchsorted(normal, values[last], side="right")
    behind = len(normal) - np.searchsorted(normal, values[last], side="left")
    return Curve(
        np.concatenate([[0.0], np.stack([before, behind], 1).ravel(), [len(normal)]]),
        np.concatenate([[0.0], np.repeat(np.append(0.0, hits), 2)[1:-1], hits[-1:] if len(hits) else [0.0]]),
        np.concatenate([[0.0], np.repeat(np.append(0.0, overlap), 2)[1:-1], overlap[-1:] if len(hits) else [0.0]]),
    )


def pooled_normal(images: Sequence[ExactImage]) -> ExactImage:
    """Good images as one, sorted once for all the curves that they stand in."""
    normal = [image.normal for image in images] or [np.zeros(0, np.float32)]
    together, empty = np.concatenate(normal), np.zeros(0, normal[0].dtype)
    together.sort(kind="stable")
    return ExactImage("", 0, together, empty, np.zeros(0))


def shared_edges(images: Sequence[Image], points: int) -> Array:
    """Falling edges that are about evenly filled, by normal pixels and by anomalous ones, (<= 2 * points,)."""
    share = max(64, _POOLED // max(1, len(images)))  # of each: what is sorted together stays bounded
    thinned = ([chosen_values(values, share) for values in image.spread()] for image in images)
    kinds = zip(*thinned, strict=True)
    halves = [chosen_values(np.sort(np.concatenate(kind)), points) for kind in kinds]
    return np.unique(np.concatenate(halves))[::-1]


def with_ends(edges: Array) -> Array:
    """Falling edges with an edge above all values and one below all."""
    return np.concatenate([[np.inf], edges, [-np.inf]])


def decision(called: Array, anomalous: Array) -> dict[str, Array]:
    """F1 and IoU (...) from normal and anomalous pixels called defective (2, ...) and all anomalous ones (...)."""
    alarms, hits = called
    return {"f1": 2 * hits / (hits + alarms + anomalous), "iou": hits / (alarms + anomalous)}


def area_bounds(low: Array, high: Array) -> dict[str, tuple[float, float]]:
    """The lowest and highest areas that any pixels with such counts could have.

    Args:
        low: lowest possible cumulative counts at falling edges, ends included, (3, K) float64.
        high: the highest, (3, K) float64.

    Returns:
        (lowest, highest) by the names of `Curve.areas`.
    """
    bounds = {"auroc": _staircases(low[0], high[0], low[1], high[1], 1.0)}
    for name, limit in AUPRO_LIMITS.items():
        bounds[name] = _staircases(low[0], high[0], low[2], high[2], limit)
    return bounds | {"average_precision": _average_precision_bounds(low, high)}


def _staircases(x_low: Array, x_high: Array, y_low: Array, y_high: Array, limit: float) -> tuple[float, float]:
    """Area up to `limit` of the curve that rises as late, and of the one that rises as early as the counts allow."""
    x_late, x_early = np.minimum(x_high / x_high[-1], limit), np.minimum(x_low / x_low[-1], limit)
    late = np.sum(np.diff(x_late) * y_low[:-1]) / y_low[-1] / limit
    early = np.sum(np.diff(x_early) * y_high[1:]) / y_high[-1] / limit
    return float(late), float(early)


def _average_precision_bounds(low: Array, high: Array) -> tuple[float, float]:
    """Precision at the j-th anomalous pixel lies between two edges: take the worse, and the better end of both."""
    levels = np.unique(np.concatenate([low[1], high[1]]))
    first, last = levels[:-1], levels[1:]
    behind = np.searchsorted(low[1], last)  # the first edge that has surely called the j-th
    before = np.searchsorted(high[1], first, side="right") - 1  # the last edge that has surely not
    best = high[1][behind] / np.maximum(high[1][behind] + low[0][before], 1.0)
    alarms = high[0][behind]
    # Sum of j / (j + alarms) over first < j <= last is at least its integral.
    logs = np.log((last + alarms) / np.maximum(first + alarms, 1e-300), where=alarms > 0, out=np.zeros_like(alarms))
    worst = (last - first) - alarms * logs
    total = high[1][-1]
    return float(worst.sum() / total), float(np.minimum((last - first) * best, last - first).sum() / total)
