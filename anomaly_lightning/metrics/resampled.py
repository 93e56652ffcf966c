"""What pixel figures and the overlap curve are worth: all of it again for resampled images.

Images are drawn whole, good and defective ones apart: the pixels of one image are no independent witnesses. Counts
are taken once, at edges that all images share, so that a resample costs a sum over images and no sorting.
"""

from collections.abc import Sequence

import numpy as np

from anomaly_lightning.metrics import ranking as r
from anomaly_lightning.metrics.bootstrap import LEVEL, bootstrap_intervals, bootstrap_samples
from anomaly_lightning.metrics.per_image import Image
from anomaly_lightning.metrics.pixel_curve import Curve, decision, shared_edges, with_ends
from anomaly_lightning.metrics.ranking import Array
from anomaly_lightning.runtime.decision import limit

_EDGES = 1024  # a kind: far finer than the intervals are wide
_CELLS = 2_000_000  # images x edges at most, where that leaves some edges: 50 MB an array


class ResampledImages:
    """Curves of resampled images.

    Args:
        images: at least one with a normal and one with an anomalous pixel.
        threshold: an edge of its own, so that decisions by it are exact; None when there is none.
    """

    def __init__(self, images: Sequence[Image], threshold: float | None = None) -> None:
        edges = shared_edges(images, max(64, min(_EDGES, _CELLS // (2 * len(images)))))
        cut = np.nextafter(limit(threshold), np.inf) if threshold is not None else None
        if cut is not None:
            edges = np.unique(np.append(edges, cut))[::-1]
        edges = with_ends(edges)
        flat = np.stack([image.counts(edges).ravel() for image in images])
        # An order of their own, so that the order of coming has no say.
        self._flat = flat[np.lexsort(flat[:, ::31].T)]  # (N, 3 * E)
        self._edges = len(edges)
        self._cut = int(np.flatnonzero(edges == cut)[0]) if cut is not None else None
        self._has_defect = (self._flat[:, 2 * self._edges - 1] > 0).astype(np.float64)

    def _curves(self, weights: Array) -> Curve:
        """The curve of each resample, from how often each image counts in it, (R, N)."""
        return Curve(*np.moveaxis((weights @ self._flat).reshape(-1, 3, self._edges), 1, 0))

    def _figures(self, weights: Array) -> dict[str, Array]:
        curve = self._curves(weights)
        areas = curve.areas(binned=True)
        if self._cut is None:
            return areas
        called = np.stack([curve.normal[:, self._cut], curve.anomalous[:, self._cut]])
        return areas | decision(called, curve.anomalous[:, -1])

    def intervals(self, times: int, seed: int) -> dict[str, list[float]]:
        """95 % percentile intervals [low, high] of the areas, and of F1 and IoU at the threshold, by name."""
        return bootstrap_intervals(self._figures, self._has_defect, times, seed)

    def overlap_band(self, grid: Array, times: int, seed: int) -> Array | None:
        """Pointwise 95 % band of the overlap curve.

        Args:
            grid: false-alarm rates, (G,).
            times: number of resamples, at least 1; with the same seed the draws are those of `intervals`.
            seed: of the resamples.

        Returns:
            The lower and the upper edge, (2, G); None when some resample leaves no normal pixel.
        """

        def overlaps(weights: Array) -> dict[str, Array]:
            curve = self._curves(weights)
            x, y = r.share(curve.normal), r.share(curve.overlap)
            return {"overlap": np.stack([np.interp(grid, *points) for points in zip(x, y, strict=True)])}

        samples = bootstrap_samples(overlaps, self._has_defect, times, seed)["overlap"]
        return None if np.isnan(samples).any() else np.quantile(samples, LEVEL, axis=0)
