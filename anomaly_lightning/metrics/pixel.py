"""Figures of pixels, gathered image by image at the resolution of each mask."""

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from anomaly_lightning.metrics import pixel_curve as pc
from anomaly_lightning.metrics import ranking as r
from anomaly_lightning.metrics.checks import finite_array, usable_threshold
from anomaly_lightning.metrics.per_image import ExactImage, Image, SketchedImage
from anomaly_lightning.metrics.pixel_curve import AUPRO_LIMITS, Curve
from anomaly_lightning.metrics.ranking import Array
from anomaly_lightning.metrics.resampled import ResampledImages
from anomaly_lightning.runtime.decision import limit

_AREAS = ("auroc", "average_precision", *AUPRO_LIMITS)
_AT_THRESHOLD = ("f1", "iou")
_SKETCH_EDGES = 4096  # a kind, for the figures of sketches
_GOOD = ("", "good")


class PixelMetrics:
    """Gathers anomaly maps and masks, and gives the "pixel" block of metrics.json.

    Up to `max_pixels` pixels every one is kept (4 bytes each, and as much again while computing) and the figures are
    exact. Beyond, every image is reduced to the counts at no more than 4096 of its own values (at most about 160 kB a
    image), and `error_bound` in the block states for each figure how far it can be off, worked out from the counts
    and not assumed. The figures do not depend on the order of images or on how they were spread over processes:
    `merge` accumulators, or pickle and gather them. An image is good when its mask is empty.

    Args:
        max_pixels: how many pixels to keep before sketching.

    Attributes:
        exact: whether every pixel is still there.
    """

    def __init__(self, max_pixels: int = 50_000_000) -> None:
        self.max_pixels = max_pixels
        self.exact = True
        self._pixels = 0
        self._images: list[Image] = []
        self._whole: Curve | None = None  # of all images; sorting them again for each question would take seconds

    def update(self, anomaly_map: Tensor, mask: Tensor, defect: str = "", inside: Tensor | None = None) -> None:
        """Take in one image.

        Args:
            anomaly_map: raw errors, larger = more anomalous, (H, W) float.
            mask: True for defect pixels, (H, W) bool; all False for a good image. Leave out a defective image
                that has no mask: its pixels are not known to be normal.
            defect: name of its defect type, for the figures by defect.
            inside: True for the pixels that count, (H, W) bool; None = all of them. What a defect shows of itself
                inside is what has to be found.

        Raises:
            ValueError: values are NaN or infinite, or shapes or dtypes differ from the above.
        """
        if anomaly_map.ndim != 2 or anomaly_map.shape != mask.shape or mask.dtype != torch.bool:
            raise ValueError(
                "Expected anomaly_map (H, W) and mask (H, W) bool, "
                f"got {tuple(anomaly_map.shape)} and {tuple(mask.shape)} {mask.dtype}."
            )
        values = finite_array(anomaly_map, "anomaly map")
        within = None if inside is None else inside.detach().cpu().numpy()
        image = ExactImage.of(values, mask.detach().cpu().numpy(), defect, within)
        self._add([image], len(image.normal) + len(image.anomalous))

    def merge(self, other: "PixelMetrics") -> None:
        """Take in what another accumulator has gathered; this one's `max_pixels` holds."""
        self._add(other._images, other._pixels)

    def _add(self, images: Sequence[Image], pixels: int) -> None:
        self._whole = None
        self._pixels += pixels
        self._images.extend(images)
        kept_whole = all(isinstance(image, ExactImage) for image in images)
        if not (self.exact and kept_whole and self._pixels <= self.max_pixels):
            self.exact = False
            self._images = [SketchedImage.of(p) if isinstance(p, ExactImage) else p for p in self._images]

    def compute(
        self, threshold: float | None, bootstrap: int = 200, seed: int = 0
    ) -> tuple[dict[str, Any], dict[str, str]]:
        """The "pixel" block of metrics.json.

        AUPRO (`aupro` until a false-alarm rate of 0.3, `aupro_005` until 0.05) is the mean overlap over 8-connected
        regions, each weighing the same, as area over the false-alarm rate of all normal pixels, interpolated at the
        limit and divided by it.

        Args:
            threshold: decides by `exceeds(anomaly_map, threshold)`; None or NaN when there is none.
            bootstrap: resamples of whole images, good and defective ones apart; 0 for no intervals.
            seed: of the resamples.

        Returns:
            The block: auroc, average_precision, aupro, aupro_005, f1, iou, threshold, images, regions, exact,
            error_bound {figure: most it can be off}, ci95 {figure: [low, high]}; None where undefined. And the
            reasons, "pixel.<figure>" -> words.
        """
        threshold = usable_threshold(threshold)
        block: dict[str, Any] = dict.fromkeys((*_AREAS, *_AT_THRESHOLD)) | {
            "threshold": threshold,
            "images": len(self._images),
            "regions": sum(image.regions for image in self._images),
            "exact": self.exact,
            "error_bound": {},
            "ci95": {},
        }
        reason = self._why_undefined()
        if reason:
            return block, {f"pixel.{name}": reason for name in (*_AREAS, *_AT_THRESHOLD)}
        figures, bound = self._areas(self._images, self._curve())
        notes = {f"pixel.{name}": "there is no calibrated pixel threshold" for name in _AT_THRESHOLD}
        if threshold is not None:
            at_threshold, bound_at = self._at_threshold(threshold)
            figures, bound, notes = figures | at_threshold, bound | bound_at, {}
        block |= figures | {"error_bound": {} if self.exact else bound}
        if bootstrap:
            block["ci95"] = ResampledImages(self._images, threshold).intervals(bootstrap, seed)
        return block, notes

    def _why_undefined(self) -> str:
        if not self._images:
            return "there are no masks"
        totals = self._totals()
        if not totals[1]:
            return "no mask has a defect pixel"
        return "" if totals[0] else "the masks leave no normal pixel"

    def _totals(self) -> Array:
        """All normal and anomalous pixels and the number of regions, (3,)."""
        return _summed(self._images, np.array([-np.inf]))[:, 0]

    def _areas(self, images: Sequence[Image], curve: Curve) -> tuple[dict[str, float], dict[str, float]]:
        """Figures that need no threshold, and how far each can be off; both kinds of pixels must be there."""
        figures = {name: float(area) for name, area in curve.areas(binned=not self.exact).items()}
        if self.exact:
            return figures, {}
        edges = pc.with_ends(pc.shared_edges(images, _SKETCH_EDGES))
        low, high = (sum(sides) for sides in zip(*(p.bracket(edges) for p in images), strict=True))
        bounds = pc.area_bounds(cast(Array, low), cast(Array, high))
        return figures, {name: _most_off(figures[name], bounds[name]) for name in figures}

    def _curve(self) -> Curve:
        if self._whole is None:
            self._whole = self._curve_of(self._images)
        return self._whole

    def _curve_of(self, images: Sequence[Image]) -> Curve:
        if self.exact:
            return pc.exact_curve([cast(ExactImage, image) for image in images])
        return Curve(*_summed(images, pc.with_ends(pc.shared_edges(images, _SKETCH_EDGES))))

    def _at_threshold(self, threshold: float) -> tuple[dict[str, float], dict[str, float]]:
        """F1 and IoU of all pixels, and how far each can be off."""
        edge = np.array([np.nextafter(limit(threshold), np.inf)])  # value > limit is value >= the next number
        total = self._totals()[1]
        called = _summed(self._images, edge)[:2, 0]
        low, high = (sum(sides) for sides in zip(*(p.bracket(edge) for p in self._images), strict=True))
        worst = pc.decision(np.array([high[0, 0], low[1, 0]]), total)
        best = pc.decision(np.array([low[0, 0], high[1, 0]]), total)
        figures = {name: float(value) for name, value in pc.decision(called, total).items()}
        bound = {name: _most_off(figures[name], (float(worst[name]), float(best[name]))) for name in figures}
        return figures, bound

    def pro_curve(self, points: int = 500, limit: float = 0.3) -> dict[str, list[float]] | None:
        """The overlap curve for drawing; None when it is undefined.

        Args:
            points: the most points to give.
            limit: the false-alarm rate where the curve ends.

        Returns:
            "false_alarm_rate" (rising, from 0 to `limit`) and "overlap", lists of one length.
        """
        if self._why_undefined():
            return None
        curve = self._curve()
        x, y = r.share(curve.normal), r.share(curve.overlap)
        inside = x < limit
        x, y = np.append(x[inside], limit), np.append(y[inside], np.interp(limit, x, y))
        kept = r.thin(x / limit, y, points)
        return {"false_alarm_rate": x[kept].tolist(), "overlap": y[kept].tolist()}

    def pro_band(
        self, resamples: int = 300, seed: int = 0, points: int = 101, limit: float = 0.3
    ) -> dict[str, list[float]] | None:
        """Pointwise 95 % bootstrap band of the overlap curve, for drawing; None when it is undefined.

        Args:
            resamples: of whole images, good and defective ones apart.
            seed: of the resamples.
            points: of the band, evenly spread.
            limit: the false-alarm rate where it ends.

        Returns:
            "false_alarm_rate" (from 0 to `limit`), "low" and "high", lists of one length.
        """
        if self._why_undefined():
            return None
        grid = np.linspace(0, limit, points)
        band = ResampledImages(self._images).overlap_band(grid, resamples, seed)
        if band is None:
            return None
        low, high = band.tolist()
        return {"false_alarm_rate": grid.tolist(), "low": low, "high": high}

    def auroc_by_defect(self) -> dict[str, float]:
        """AUROC of the pixels of each defect type's images together with all good images, where it is defined."""
        good = [p for p in self._images if p.defect in _GOOD and not p.regions]
        if self.exact:
            good = [pc.pooled_normal([cast(ExactImage, image) for image in good])]
        names = sorted({p.defect for p in self._images if p.regions} - set(_GOOD))
        curves = {name: self._curve_of([p for p in self._images if p.defect == name] + good) for name in names}
        return {name: float(r.auroc(c.normal, c.anomalous)) for name, c in curves.items() if c.normal[-1]}


def _summed(images: Sequence[Image], edges: Array) -> Array:
    """Counts of all images together at edges (E,): (3, E)."""
    total = np.zeros((3, len(edges)))
    for image in images:
        total += image.counts(edges)
    return total


def _most_off(figure: float, bounds: tuple[float, float]) -> float:
    """The larger distance to either bound."""
    return max(bounds[1] - figure, figure - bounds[0])
