"""How often each value of an anomaly map occurs: value by value, or in bins of one relative width.

A float32 read as a whole number keeps its order, so that its bits are its bin: all 32 of them tell every value from
every other, and without the last 11 a bin is 2 ** -12 of its value wide. Such bins need no range in advance, are the
same for every image, and do not depend on the order in which images come.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from anomaly_lightning.metrics.ranking import Array

Bins = npt.NDArray[np.int32]
DROPPED_BITS = 11
RESOLUTION = 2.0 ** (DROPPED_BITS - 23)
_SPARSE = 4  # bins for each value up to which counting all of them is faster than sorting the values
LOWEST, HIGHEST = (int(getattr(np.iinfo(np.int32), end)) for end in ("min", "max"))


@dataclass(frozen=True)
class Histogram:
    """Sums of weights at distinct values.

    Attributes:
        bins: rising, (K,) int32.
        weights: what falls into each bin, one row for each kind of weight, (R, K) float64.
    """

    bins: Bins
    weights: Array

    @classmethod
    def of(cls, bins: Bins, weights: Array) -> "Histogram":
        """Bring together what falls into the same bin; bins (n,) in any order, weights (R, n)."""
        if not len(bins):
            return cls(bins, weights)
        low, high = int(bins.min()), int(bins.max())
        if high - low < _SPARSE * len(bins):
            places, size = bins - low, high - low + 1
            filled = np.flatnonzero(np.bincount(places, minlength=size))
            sums = [np.bincount(places, row, size)[filled] for row in weights]
            return cls((filled + low).astype(np.int32), np.reshape(sums, (len(weights), len(filled))))
        order = np.argsort(bins)
        rising = bins[order]
        first = np.flatnonzero(np.append(True, rising[1:] != rising[:-1]))
        return cls(rising[first], np.add.reduceat(weights[:, order], first, axis=1))

    def coarser(self) -> "Histogram":
        """The same without the dropped bits."""
        return Histogram.of(self.bins >> DROPPED_BITS, self.weights)

    def at_least(self, edges: npt.NDArray[np.integer[Any]]) -> Array:
        """Sums of weights in bins >= each edge (E,): (R, E) float64."""
        sums = np.cumsum(self.weights[:, ::-1], axis=1)[:, ::-1]
        return np.pad(sums, ((0, 0), (0, 1)))[:, np.searchsorted(self.bins, edges)]


def merged(histograms: Sequence[Histogram]) -> Histogram:
    """The sum of at least one histogram, all with the same rows and all with or all without the dropped bits."""
    weights = np.concatenate([one.weights for one in histograms], axis=1)
    return Histogram.of(np.concatenate([one.bins for one in histograms]), weights)


def bins_of(values: npt.NDArray[np.floating[Any]], exact: bool) -> Bins:
    """Whole numbers in the order of the values as float32, any shape, finite; 0 and -0 are one value.

    Args:
        values: of any float dtype.
        exact: keep all bits.
    """
    bits = (values.astype(np.float32) + np.float32(0)).view(np.int32)
    bins: Bins = bits ^ ((bits >> 31) & HIGHEST)
    return bins if exact else bins >> DROPPED_BITS
