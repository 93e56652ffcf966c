"""From histograms of pixels to curves and the areas under them.

AUPRO is the area under mean region overlap over the false-alarm rate of normal pixels (Bergmann et al. 2021, section
5.2). The mean over regions of the share found is a recall in which each anomalous pixel weighs 1 / (regions * size of
its region); so one sweep over the distinct values of the anomalous pixels gives ROC, precision-recall and overlap.
"""

from dataclasses import dataclass

import numpy as np

from anomaly_lightning.metrics import ranking as r
from anomaly_lightning.metrics.histogram import HIGHEST, LOWEST, Bins, Histogram
from anomaly_lightning.metrics.ranking import Array

AUPRO_LIMITS = {"aupro": 0.3, "aupro_005": 0.05}
AUPIMO_RATES = (1e-5, 1e-4)


@dataclass(frozen=True)
class Curve:
    """Cumulative sums (..., K) while the threshold falls: normal, anomalous pixels, overlap summed over regions."""

    normal: Array
    anomalous: Array
    overlap: Array

    @classmethod
    def of(cls, normal: Histogram, anomalous: Histogram) -> "Curve":
        """Every corner of the curve over the pixels of two histograms: rows count; count, overlap."""
        falling = anomalous.bins[::-1].astype(np.int64)
        # Before a value its ties with normal pixels are not called yet, behind it they are: a slanted line between.
        alarms = np.stack([normal.at_least(falling + 1)[0], normal.at_least(falling)[0]], 1).ravel()
        hits = np.concatenate([np.zeros((2, 1)), np.cumsum(anomalous.weights[:, ::-1], axis=1)], axis=1)
        before_and_behind = np.repeat(hits, 2, axis=1)[:, 1:-1]
        sums = np.concatenate([alarms[None], before_and_behind])
        end = [[normal.weights.sum()], *hits[:, -1:]]
        return cls(*np.concatenate([np.zeros((3, 1)), sums, end], axis=1))

    def areas(self, binned: bool) -> dict[str, Array]:
        """AUROC, average precision, AUPRO and the best F1 (...); `binned` as in `ranking.average_precision`."""
        x = r.share(self.normal)
        return {
            "auroc": r.auroc(self.normal, self.anomalous),
            "average_precision": r.average_precision(self.normal, self.anomalous, binned),
            **{name: r.area_until(x, r.share(self.overlap), limit) for name, limit in AUPRO_LIMITS.items()},
            "f1_oracle": r.best_f1(self.normal, self.anomalous)[0],
        }


def aupimo(rate: Array, overlap: Array) -> Array:
    """Area under the per-image overlap curve (AUPIMO, Bertoldo et al. 2024, arXiv 2401.01984, section 3).

    The mean overlap of an image's mask with what is called defective, over the logarithm of the false-alarm rate from
    1e-5 to 1e-4, divided by the width of that range. Between two rates the overlap is that of the lower one.

    Args:
        rate: mean over good images of the share of their pixels called defective, from 0 and never falling, (..., K).
        overlap: mean over defective images of the share of their defect pixels called defective, (..., K).

    Returns:
        (...) float64 in [0, 1].
    """
    low, high = AUPIMO_RATES
    places = np.log(np.clip(rate, low, high))
    width = np.diff(places, axis=-1, append=np.log(high))
    area: Array = np.sum(width * overlap, axis=-1) / np.log(high / low)
    return area


def even_edges(histogram: Histogram, points: int) -> Bins:
    """Bins that are about evenly filled, half of them crowding at the high end, (<= points,) in any order.

    The high end is where false alarms are rare, so where AUPRO and precision are decided.
    """
    called = np.cumsum(histogram.weights[0, ::-1])
    ranks = np.append(np.linspace(1, called[-1], points // 2), np.geomspace(1, called[-1], points - points // 2))
    return histogram.bins[::-1][np.minimum(np.searchsorted(called, ranks), len(called) - 1)]


def falling_edges(*edges: Bins) -> Bins:
    """Edges without doubles, one above all bins first and one below all last."""
    ends = np.array([LOWEST, HIGHEST], np.int32)
    return np.unique(np.concatenate([*edges, ends]))[::-1]


def decision(called: Array, anomalous: Array) -> dict[str, Array]:
    """F1 and IoU (...) from normal and anomalous pixels called defective (2, ...) and all anomalous ones (...)."""
    alarms, hits = called
    return {"f1": 2 * hits / (hits + alarms + anomalous), "iou": hits / (alarms + anomalous)}
