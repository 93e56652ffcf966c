"""Metrics of pixels, gathered image by image at the resolution of each mask."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from anomaly_lightning.metrics import pixel_curve as pc
from anomaly_lightning.metrics import ranking as r
from anomaly_lightning.metrics.checks import finite_array, usable_threshold
from anomaly_lightning.metrics.histogram import RESOLUTION, Histogram
from anomaly_lightning.metrics.kept import Facts, KeptImages, Sum, pooled
from anomaly_lightning.metrics.per_image import Image
from anomaly_lightning.metrics.pixel_curve import AUPRO_LIMITS, Curve
from anomaly_lightning.metrics.ranking import Array
from anomaly_lightning.metrics.resampled import ResampledImages
from anomaly_lightning.runtime.decision import exceeds

_AREAS = ("auroc", "average_precision", *AUPRO_LIMITS, "f1_oracle")
_AT_THRESHOLD = ("f1", "iou")
_NAMES = (*_AREAS, "aupimo", *_AT_THRESHOLD)
_GOOD = ("", "good")


class PixelMetrics:
    """Gathers anomaly maps and masks, and gives the "pixel" block of metrics.json.

    Of an image only histograms are kept, of many images in a file (see `metrics.kept`). Up to `max_pixels` pixels they
    tell every float32 value from every other, and all metrics are exact (12 bytes a pixel, several times as much while
    computing). Beyond, values fall into bins of the relative width `RESOLUTION`, 2 ** -12 (about 200 kB an image); F1
    and IoU stay exact. The metrics do not depend on the order of images. An image is good when its mask is empty.

    Args:
        threshold: decides by `runtime.decision.exceeds` where no mask is given; None or NaN when there is none.
        max_pixels: how many pixels to tell apart exactly.

    Attributes:
        exact: whether every value is still told from every other.
    """

    def __init__(self, threshold: float | None = None, max_pixels: int = 1_000_000) -> None:
        self.threshold = usable_threshold(threshold)
        self.max_pixels = max_pixels
        self.exact = True
        self._pixels = 0
        self._images = KeptImages()
        self._pooled: tuple[Histogram, Histogram] | None = None  # of all images, kept between questions

    def update(
        self,
        anomaly_map: Tensor,
        mask: Tensor,
        defect: str = "",
        inside: Tensor | None = None,
        predicted: Tensor | None = None,
    ) -> None:
        """Take in one image.

        Args:
            anomaly_map: raw errors, larger = more anomalous, (H, W) float.
            mask: True for defect pixels, (H, W) bool; all False for a good image. Leave out a defective image
                that has no mask: its pixels are not known to be normal.
            defect: name of its defect type, for the metrics by defect.
            inside: True for the pixels that count, (H, W) bool; None = all of them. What a defect shows of itself
                inside is what has to be found.
            predicted: the predicted mask, (H, W) bool; None = where the map exceeds the threshold.

        Raises:
            ValueError: values are NaN or infinite, or shapes or dtypes differ from the above.
        """
        if anomaly_map.ndim != 2 or anomaly_map.shape != mask.shape or mask.dtype != torch.bool:
            raise ValueError(
                "Expected anomaly_map (H, W) and mask (H, W) bool, "
                f"got {tuple(anomaly_map.shape)} and {tuple(mask.shape)} {mask.dtype}."
            )
        values = finite_array(anomaly_map, "anomaly map")
        truth, kept = (pixels.detach().cpu().numpy() for pixels in (mask, mask | True if inside is None else inside))
        self._pooled = None
        self._pixels += values.size
        if self.exact and self._pixels > self.max_pixels:
            self.exact = False
            self._images = KeptImages(image.coarser() for image in self._images)
        threshold = np.inf if self.threshold is None else self.threshold
        called = exceeds(values.astype(np.float64), threshold) if predicted is None else predicted.cpu().numpy()
        self._images.append(Image.of(values, truth, kept, defect, called, self.exact))

    def compute(self, bootstrap: int = 200, seed: int = 0) -> tuple[dict[str, Any], dict[str, str]]:
        """The "pixel" block of metrics.json.

        AUPRO (`aupro` until a false-alarm rate of 0.3, `aupro_005` until 0.05) is the mean overlap over 8-connected
        regions, each weighing the same, as area over the false-alarm rate of all normal pixels, interpolated at the
        limit and divided by it. AUPIMO: see `pixel_curve.aupimo`. `f1` and `iou` pool the pixels of all masks at the
        threshold (SegF1); `f1_oracle` is the best F1 of any threshold, found with the masks.

        Args:
            bootstrap: resamples of whole images, good and defective ones apart; 0 for no intervals.
            seed: of the resamples.

        Returns:
            The block: auroc, average_precision, aupro, aupro_005, f1_oracle, aupimo, f1, iou, threshold, images,
            regions, exact, resolution (relative width of a bin, 0 while exact), ci95 {metric: [low, high]}; None where
            undefined. And the reasons, "pixel.<metric>" -> words.
        """
        block: dict[str, Any] = dict.fromkeys(_NAMES) | {
            "threshold": self.threshold,
            "images": len(self._images),
            "regions": sum(image.regions for image in self._images.facts),
            "exact": self.exact,
            "resolution": 0.0 if self.exact else RESOLUTION,
            "ci95": {},
        }
        notes = self._why_undefined()
        if "auroc" not in notes:
            values = self._values() | ({} if "aupimo" in notes else {"aupimo": self._aupimo()})
            block |= {name: float(value) for name, value in values.items() if name not in notes}
            intervals = ResampledImages(self._images, self._all()).intervals(bootstrap, seed) if bootstrap else {}
            block["ci95"] = {name: interval for name, interval in intervals.items() if name not in notes}
        return block, {f"pixel.{name}": reason for name, reason in notes.items()}

    def _values(self) -> dict[str, Array]:
        curve, called = self._curve(), np.sum([image.called for image in self._images.facts], axis=0)
        return curve.areas(binned=not self.exact) | pc.decision(called, curve.anomalous[-1])

    def aupro(self) -> tuple[float | None, str]:
        """AUPRO up to a false-alarm rate of 0.3 alone, as in `compute`; None with the reason where undefined."""
        reason = self._why_undefined().get("aupro", "")
        return (None, reason) if reason else (float(self._curve().areas(binned=not self.exact)["aupro"]), "")

    def _why_undefined(self) -> dict[str, str]:
        """Reasons by the name of the metric."""
        images = self._images.facts
        good = sum(image.normals for image in images if not image.regions)
        reason = "there are no masks" if not images else ""
        if not reason and not any(image.regions for image in images):
            reason = "no mask has a defect pixel"
        if not reason and not any(image.normals for image in images):
            reason = "the masks leave no normal pixel"
        if reason:
            return dict.fromkeys(_NAMES, reason)
        notes = {}
        if self.threshold is None:
            notes = dict.fromkeys(_AT_THRESHOLD, "there is no calibrated pixel threshold")
        if good * pc.AUPIMO_RATES[0] < 1:
            notes["aupimo"] = f"the good images hold {good:.0f} pixels, too few for a false-alarm rate of 1e-5"
        return notes

    def _all(self) -> tuple[Histogram, Histogram]:
        """All normal and all anomalous pixels; there must be images."""
        if self._pooled is None:
            self._pooled = pooled(self._images)
        return self._pooled

    def _curve(self) -> Curve:
        return Curve.of(*self._all())

    def _aupimo(self) -> Array:
        images = self._images.facts
        good = sum(1 for image in images if not image.regions and image.normals)
        added = Sum()
        for image in self._images.where(lambda image: not image.regions and image.normals > 0):
            added.add(Histogram(image.normal.bins, image.normal.weights / image.normal.weights.sum() / good))
        shares = added.total()
        above = shares.bins[::-1] + 1  # only what lies strictly above a value is called at it
        edges = above[shares.at_least(above)[0] <= pc.AUPIMO_RATES[1]]
        rate, found = np.zeros((2, len(edges)))
        for image in self._images:
            own = image.counts(edges)[3:]
            rate, found = rate + own[0], found + own[1]
        return pc.aupimo(rate / good, found / sum(image.regions > 0 for image in images))

    def pro_curve(self, points: int = 500, limit: float = 0.3) -> dict[str, list[float]] | None:
        """The overlap curve for drawing; None when it is undefined.

        Args:
            points: the most points to give.
            limit: the false-alarm rate where the curve ends.

        Returns:
            "false_alarm_rate" (rising, from 0 to `limit`) and "overlap", lists of one length.
        """
        if "aupro" in self._why_undefined():
            return None
        curve = self._curve()
        x, y = r.share(curve.normal), r.share(curve.overlap)
        drawn = x < limit
        x, y = np.append(x[drawn], limit), np.append(y[drawn], np.interp(limit, x, y))
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
        if "aupro" in self._why_undefined():
            return None
        grid = np.linspace(0, limit, points)
        band = ResampledImages(self._images, self._all()).overlap_band(grid, resamples, seed)
        if band is None:
            return None
        return {"false_alarm_rate": grid.tolist(), "low": band[0].tolist(), "high": band[1].tolist()}

    def auroc_by_defect(self) -> dict[str, float]:
        """AUROC of the pixels of each defect type's images together with all good images, where it is defined."""
        found = {}
        for name in sorted({image.defect for image in self._images.facts if image.regions} - set(_GOOD)):
            own = self._images.where(lambda image, name=name: image.defect == name or _is_good(image))  # type: ignore[misc]
            curve = Curve.of(*pooled(own))
            if curve.normal[-1]:
                found[name] = float(r.auroc(curve.normal, curve.anomalous))
        return found


def _is_good(image: Facts) -> bool:
    return image.defect in _GOOD and not image.regions
