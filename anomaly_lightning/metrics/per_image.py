"""The pixels of one test image, ready to be counted: all of them, or a sketch of bounded size.

Overlap is the per-region overlap of Bergmann et al. 2021 (MVTec AD, section 5.2): every connected region of a mask
weighs the same, so that each of its pixels weighs 1 / (size of its region).
"""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from anomaly_lightning.metrics.ranking import Array

Values = npt.NDArray[np.floating[Any]]
SKETCH_POINTS = 4096
_EIGHT_NEIGHBOURS = np.ones((3, 3), dtype=int)


class Image(Protocol):
    """What the pixel figures need of one image; counts come as (3, E): normal, anomalous, overlap."""

    @property
    def defect(self) -> str:
        """The name of its defect type; "" when none was given."""

    @property
    def regions(self) -> int:
        """Connected regions of its mask."""

    def spread(self) -> tuple[Array, Array]:
        """Some of its normal and of its anomalous values, rising, the extremes among them: (<= SKETCH_POINTS,) each."""

    def counts(self, edges: Array) -> Array:
        """Pixels with a value >= each edge (E,), and the sum of their overlap weights: (3, E) float64."""

    def bracket(self, edges: Array) -> tuple[Array, Array]:
        """The lowest and the highest that `counts` (3, E) can truly be."""


@dataclass(frozen=True)
class ExactImage:
    """All pixels of an image.

    Attributes:
        defect: see Image.
        regions: see Image.
        normal: values of normal pixels, rising, (n,) float32 or float64.
        anomalous: values of anomalous pixels, rising, (p,), same dtype.
        overlap: 1 / (size of its region) for each anomalous pixel, (p,) float64.
    """

    defect: str
    regions: int
    normal: Values
    anomalous: Values
    overlap: Array

    @classmethod
    def of(
        cls, anomaly_map: Values, mask: npt.NDArray[np.bool_], defect: str, inside: npt.NDArray[np.bool_] | None = None
    ) -> "ExactImage":
        """Sort the pixels of a map (H, W) by its mask (H, W), those inside alone; regions are 8-connected."""
        if inside is not None:
            mask, normal = mask & inside, anomaly_map[inside & ~mask]
            if not mask.any():
                return cls(defect, 0, np.sort(normal), anomaly_map[mask], np.zeros(0))
        else:
            normal = anomaly_map[~mask]
        if not mask.any():
            return cls(defect, 0, np.sort(anomaly_map, axis=None), anomaly_map[mask], np.zeros(0))
        labels, regions = ndimage.label(mask, structure=_EIGHT_NEIGHBOURS)
        members = labels[mask]
        weights = 1.0 / np.bincount(members)[members]
        order = np.lexsort((weights, anomaly_map[mask]))
        return cls(defect, int(regions), np.sort(normal), anomaly_map[mask][order], weights[order])

    def spread(self) -> tuple[Array, Array]:
        """See Image."""
        return chosen_values(self.normal, SKETCH_POINTS), chosen_values(self.anomalous, SKETCH_POINTS)

    def counts(self, edges: Array) -> Array:
        """See Image; exact."""
        first = np.searchsorted(self.anomalous, _not_below(edges, self.anomalous.dtype))
        normal = len(self.normal) - np.searchsorted(self.normal, _not_below(edges, self.normal.dtype))
        return np.stack([normal, len(self.anomalous) - first, _sum_from_each(self.overlap)[first]])

    def bracket(self, edges: Array) -> tuple[Array, Array]:
        """See Image; no room between."""
        exact = self.counts(edges)
        return exact, exact


@dataclass(frozen=True)
class Knots:
    """Counts at chosen values of one kind of pixels; between two of them a count is known within `high - low`.

    Attributes:
        values: the chosen values, rising, (E,) in the dtype of the map.
        from_value: rows of counts of pixels >= each value, (R, E).
        above_value: the same of pixels > each value, so that nothing is left open where no value was left out, (R, E).
        total: the rows' sums over all pixels, (R, 1) float64.
    """

    values: Values
    from_value: npt.NDArray[Any]
    above_value: npt.NDArray[Any]
    total: Array

    def bracket(self, edges: Array) -> tuple[Array, Array]:
        """The lowest and the highest that the counts of pixels >= each edge (E',) can be, (R, E') float64 each."""
        cast = _not_below(edges, self.values.dtype)
        following = np.searchsorted(self.values, cast)
        low = np.concatenate([self.from_value, np.zeros_like(self.total)], axis=1)[:, following]
        high = np.concatenate([self.total, self.above_value], axis=1)[:, following]
        met = np.append(self.values, np.asarray(np.nan, self.values.dtype))[following] == cast
        return low, np.where(met, low, high)

    def counts(self, edges: Array) -> Array:
        """Counts of pixels >= each edge (E',), on a straight line between the chosen values, (R, E') float64."""
        low, high = self.bracket(edges)
        following = np.searchsorted(self.values, _not_below(edges, self.values.dtype))
        padded = np.concatenate([[-np.inf], self.values, [np.inf]])
        before, behind = padded[following], padded[following + 1]
        with np.errstate(invalid="ignore"):  # beyond the extremes, where nothing is open
            between = high + (low - high) * (edges - before) / (behind - before)
        counts: Array = np.where(low == high, low, between)
        return counts


@dataclass(frozen=True)
class SketchedImage:
    """The counts of an image at up to SKETCH_POINTS of its own values, half of them crowded at the high end.

    Depends on nothing but the image: neither the order of images nor the number of processes changes it.

    Attributes:
        defect: see Image.
        regions: see Image.
        normal: counts of normal pixels, one row.
        anomalous: counts of anomalous pixels and sums of their overlap, two rows.
    """

    defect: str
    regions: int
    normal: Knots
    anomalous: Knots

    @classmethod
    def of(cls, image: ExactImage) -> "SketchedImage":
        """Reduce an image; what is left is exact at the chosen values and interpolated between them."""
        normal, anomalous = image.spread()
        # Whole numbers fit 32 bits, sums of overlap need all 64.
        return cls(
            image.defect,
            image.regions,
            _knots(image, normal, image.normal.dtype, slice(0, 1), np.int32),
            _knots(image, anomalous, image.anomalous.dtype, slice(1, 3), np.float64),
        )

    def spread(self) -> tuple[Array, Array]:
        """See Image."""
        return self.normal.values.astype(np.float64), self.anomalous.values.astype(np.float64)

    def counts(self, edges: Array) -> Array:
        """See Image; linear between the chosen values."""
        return np.concatenate([self.normal.counts(edges), self.anomalous.counts(edges)])

    def bracket(self, edges: Array) -> tuple[Array, Array]:
        """See Image; from the nearest chosen values on either side."""
        normal, anomalous = self.normal.bracket(edges), self.anomalous.bracket(edges)
        return np.concatenate([normal[0], anomalous[0]]), np.concatenate([normal[1], anomalous[1]])


def _knots(image: ExactImage, chosen: Array, dtype: npt.DTypeLike, rows: slice, count_dtype: npt.DTypeLike) -> Knots:
    """Knots at the chosen values for some rows of `counts`."""
    from_value = image.counts(chosen)[rows].astype(count_dtype)
    above_value = image.counts(np.nextafter(chosen, np.inf))[rows].astype(count_dtype)
    return Knots(chosen.astype(dtype), from_value, above_value, image.counts(np.array([-np.inf]))[rows])


def chosen_values(rising: Values, points: int) -> Array:
    """Up to `points` of the values (n,), rising and distinct: half even in rank, half crowding at the high end.

    The high end is where false alarms are rare, so where AUPRO and precision are decided.
    """
    count = len(rising)
    if count <= points:
        return np.unique(rising).astype(np.float64)
    even = np.linspace(0, count - 1, points // 2)
    crowded = count - np.geomspace(1, count, points - points // 2)
    return np.unique(rising[np.concatenate([even, crowded]).astype(int)]).astype(np.float64)


def _sum_from_each(weights: Array) -> Array:
    """Sum of weights (p,) from each index to the end: (p + 1,), the last 0."""
    return np.concatenate([np.cumsum(weights[::-1])[::-1], [0.0]])


def _not_below(edges: Array, dtype: npt.DTypeLike) -> Values:
    """The smallest number of `dtype` that is >= each edge: so `value >= edge` says the same in both dtypes."""
    with np.errstate(over="ignore"):
        cast: Values = edges.astype(dtype)
    return np.where(cast < edges, np.nextafter(cast, np.asarray(np.inf, cast.dtype)), cast)
