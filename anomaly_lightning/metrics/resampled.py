"""How certain pixel metrics and the overlap curve are: all of it again for resampled images.

Images are drawn whole, good and defective ones apart: the pixels of one image are not independent. Pixels are counted
once, at edges that all images share, so that a resample costs a sum over images and no sorting.
"""

from collections.abc import Sequence

import numpy as np

from anomaly_lightning.metrics import ranking as r
from anomaly_lightning.metrics.bootstrap import LEVEL, bootstrap_intervals, bootstrap_samples
from anomaly_lightning.metrics.histogram import Histogram
from anomaly_lightning.metrics.kept import KeptImages
from anomaly_lightning.metrics.per_image import ROWS
from anomaly_lightning.metrics.pixel_curve import Curve, aupimo, decision, even_edges, falling_edges
from anomaly_lightning.metrics.ranking import Array

_EDGES = 1024  # for each kind of pixels: far finer than the intervals are wide
_COLUMNS = 32  # that are put in order at once
_CELLS = 1_000_000  # images x edges for each kind, where that leaves some edges: 80 MB


class ResampledImages:
    """Curves of resampled images.

    Args:
        images: at least one with a normal and one with an anomalous pixel.
        pooled: histograms of all their normal and of all their anomalous pixels.
    """

    def __init__(self, images: KeptImages, pooled: Sequence[Histogram]) -> None:
        points = max(64, min(_EDGES, _CELLS // len(images)))
        edges = falling_edges(*(even_edges(kind, points) for kind in pooled))
        self._rows = rows = np.empty((len(images), len(ROWS) * len(edges) + 2))  # (N, 5 * E + 2)
        for row, image in zip(rows, images, strict=True):
            row[:-2], row[-2:] = image.counts(edges).ravel(), image.called
        # An order of their own, so that the order of coming has no say; some columns at a time, in place.
        order = np.lexsort(rows[:, ::31].T)
        for columns in np.array_split(rows, max(1, rows.shape[1] // _COLUMNS), axis=1):
            columns[:] = columns[order]
        self._has_defect = (self._rows[:, 2 * len(edges) - 1] > 0).astype(np.float64)

    def _sums(self, weights: Array) -> tuple[dict[str, Array], Array]:
        """Of each resample (R, N): `ROWS` at the edges, (R, E) each, and pixels above the threshold, (2, R)."""
        sums = weights @ self._rows
        rows = np.moveaxis(sums[:, :-2].reshape(len(weights), len(ROWS), -1), 1, 0)
        return dict(zip(ROWS, rows, strict=True)), sums[:, -2:].T

    def _metrics(self, weights: Array) -> dict[str, Array]:
        rows, called = self._sums(weights)
        areas = Curve(rows["normal"], rows["anomalous"], rows["overlap"]).areas(binned=True)
        per_image = {"aupimo": aupimo(r.share(rows["rate"]), r.share(rows["found"]))}
        return areas | per_image | decision(called, rows["anomalous"][:, -1])

    def intervals(self, times: int, seed: int) -> dict[str, list[float]]:
        """95 % percentile intervals [low, high] of all metrics that are defined in each resample, by name."""
        return bootstrap_intervals(self._metrics, self._has_defect, times, seed)

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
            rows, _ = self._sums(weights)
            x, y = r.share(rows["normal"]), r.share(rows["overlap"])
            return {"overlap": np.stack([np.interp(grid, *points) for points in zip(x, y, strict=True)])}

        samples = bootstrap_samples(overlaps, self._has_defect, times, seed)["overlap"]
        return None if np.isnan(samples).any() else np.quantile(samples, LEVEL, axis=0)
