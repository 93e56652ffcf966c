"""The pixels of one test image, ready to be counted."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from anomaly_lightning.metrics.histogram import Bins, Histogram, bins_of
from anomaly_lightning.metrics.ranking import Array

ROWS = ("normal", "anomalous", "overlap", "rate", "found")
_EIGHT_NEIGHBOURS = np.ones((3, 3), dtype=int)


@dataclass(frozen=True)
class Image:
    """Histograms of an image's pixels.

    Overlap is the per-region overlap of Bergmann et al. 2021 (MVTec AD, section 5.2): every connected region of a mask
    weighs the same, so that each of its pixels weighs 1 / (size of its region).

    Attributes:
        defect: name of its defect type; "" when none was given.
        regions: connected regions of its mask.
        normal: its normal pixels, one row: how many.
        anomalous: its anomalous pixels, two rows: how many, and the sum of their overlap weights.
        called: how many normal and how many anomalous pixels the predicted mask holds, (2,) float64.
    """

    defect: str
    regions: int
    normal: Histogram
    anomalous: Histogram
    called: Array

    @classmethod
    def of(
        cls,
        anomaly_map: npt.NDArray[np.floating[Any]],
        mask: npt.NDArray[np.bool_],
        inside: npt.NDArray[np.bool_],
        defect: str,
        predicted: npt.NDArray[np.bool_],
        exact: bool,
    ) -> "Image":
        """Count the pixels inside of a map (H, W) by its mask and the predicted one, (H, W) bool each."""
        mask, normal = mask & inside, inside & ~mask
        labels, regions = ndimage.label(mask, structure=_EIGHT_NEIGHBOURS)
        members = labels[mask]
        overlap = 1.0 / np.bincount(members)[members] if regions else np.zeros(0)
        bins = bins_of(anomaly_map, exact)
        return cls(
            defect,
            int(regions),
            Histogram.of(bins[normal], np.ones((1, np.count_nonzero(normal)))),
            Histogram.of(bins[mask], np.stack([np.ones(len(overlap)), overlap])),
            np.array([np.count_nonzero(predicted & kind) for kind in (normal, mask)], np.float64),
        )

    def coarser(self) -> "Image":
        """The same with coarser histograms."""
        return replace(self, normal=self.normal.coarser(), anomalous=self.anomalous.coarser())

    def counts(self, edges: Bins) -> Array:
        """What is called defective at each edge (E,), so that sums over images make curves: (5, E) float64.

        Normal pixels; anomalous pixels; their overlap weights; of a good image the share of its pixels; of a defective
        image the share of its defect pixels.
        """
        normal, (anomalous, overlap) = self.normal.at_least(edges)[0], self.anomalous.at_least(edges)
        size, defective = self.normal.weights.sum(), self.anomalous.weights[0].sum()
        rate = normal / size if size and not defective else np.zeros(len(edges))
        found = anomalous / defective if defective else np.zeros(len(edges))
        return np.stack([normal, anomalous, overlap, rate, found])
