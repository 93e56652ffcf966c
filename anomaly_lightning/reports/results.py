"""What an evaluation found, image by image, and the metrics that follow from it."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from anomaly_lightning import metrics
from anomaly_lightning.calibration import shift_warning
from anomaly_lightning.data.samples import Sample
from anomaly_lightning.features.condensed import OrderedRows
from anomaly_lightning.runtime.card import ModelCard
from anomaly_lightning.runtime.masks import predicted, span
from anomaly_lightning.runtime.reading import image_size, read_mask
from anomaly_lightning.runtime.region import Region
from anomaly_lightning.runtime.transform import ImageTransform
from anomaly_lightning.scoring import Scoring, build_scoring
from anomaly_lightning.training.module import AnomalyModule


def threshold_block(card: ModelCard, results: "Results | None") -> dict[str, Any]:
    """The block "threshold" of metrics.json; warns where the images at hand don't look like the normals.

    The labels of the images at hand have no say in it.
    """
    if card.thresholds is None:
        return {"value": None, "warnings": []}
    block: dict[str, Any] = {"value": card.thresholds.score, **card.thresholds.promise}
    if card.thresholds.scores and results is not None:
        shift = shift_warning(list(card.thresholds.scores), results.scores)
        block["warnings"] = [*block["warnings"], *([shift] if shift else [])]
    return block


SMALL = (256, 256)  # the size at which most papers and tools give AUPRO


@dataclass(frozen=True)
class Results:
    """Scores and maps of some images, with what is needed to look at them in their own pixels.

    Attributes:
        samples: The N images.
        scores: (N,) float, raw errors.
        error_maps: (N, h, w) float, raw errors; of a run of this process they are in a file and read as needed.
        card: What the model is.
        threshold: Of the scores; NaN = not calibrated.
        pixel_threshold: Of the maps; NaN = not calibrated.
    """

    samples: Sequence[Sample]
    scores: Tensor
    error_maps: Tensor | OrderedRows
    card: ModelCard
    threshold: float
    pixel_threshold: float

    @classmethod
    def of(cls, module: AnomalyModule, samples: Sequence[Sample]) -> "Results":
        """Results of the module's last evaluation, whose set was `samples`."""
        scores, error_maps = module.evaluated()
        thresholds = float(module.model.threshold), float(module.model.pixel_threshold)
        return cls(tuple(samples), scores, error_maps, module.card, *thresholds)

    @cached_property
    def transform(self) -> ImageTransform:
        """Between the images' pixels and those that the network saw."""
        return ImageTransform.from_card(self.card.transform)

    @cached_property
    def scoring(self) -> Scoring:
        """From error maps to anomaly maps."""
        return build_scoring(self.card, (self.error_maps.shape[1], self.error_maps.shape[2]))

    @cached_property
    def region(self) -> Region | None:
        """Where to look; None = everywhere."""
        return None if self.card.region is None else Region.from_card(self.card.region)

    @property
    def labels(self) -> Tensor:
        """(N,) bool: which images show a defect."""
        return torch.tensor([sample.label for sample in self.samples], dtype=torch.bool)

    def anomaly_map(self, index: int, size: tuple[int, int]) -> Tensor:
        """Anomaly map of one image in its own pixels, (H, W) = `size`, float; 0 outside the region."""
        seen = self.scoring.maps(self.error_maps[index : index + 1])[0]
        own = torch.from_numpy(self.transform.restore(seen.numpy(), size))
        inside = self.inside(size)
        return own if inside is None else own * inside

    def mask(self, anomaly_map: NDArray[np.floating]) -> NDArray[np.bool_]:
        """Pixels that show a defect by an anomaly map (H, W) float: (H, W) bool."""
        side = span((anomaly_map.shape[0], anomaly_map.shape[1]), self.transform.size)
        return predicted(anomaly_map, self.pixel_threshold, self.card.scoring.mask_share, side)

    def inside(self, size: tuple[int, int]) -> Tensor | None:
        """Which of an image's own pixels count, (H, W) bool for (H, W) = `size`; None = all of them."""
        return None if self.region is None else torch.from_numpy(self.region.mask(size).copy())

    def truth(self, index: int) -> Tensor | None:
        """Mask of one image in its own pixels, (H, W) bool: all False for a good one, None for an unknown one."""
        sample = self.samples[index]
        if sample.mask is not None:
            return torch.from_numpy(read_mask(sample.mask))
        return None if sample.label else torch.zeros(image_size(sample.path), dtype=torch.bool)

    def metrics(self, bootstrap: int = 1000, seed: int = 0) -> dict[str, Any]:
        """The blocks "image", "pixel", "by_defect" and "notes" of metrics.json."""
        defects = [sample.defect for sample in self.samples]
        image, notes = metrics.image_metrics(self.scores, self.labels, self.threshold, bootstrap, seed)
        pixels, small = metrics.PixelMetrics(self.pixel_threshold), metrics.PixelMetrics()
        for index, defect in enumerate(defects):
            truth = self.truth(index)
            if truth is not None:
                size = (truth.shape[0], truth.shape[1])
                own, inside = self.anomaly_map(index, size), self.inside(size)
                pixels.update(own, truth, defect, inside, torch.from_numpy(self.mask(own.numpy())))
                small.update(shrunk(own), shrunk(truth), defect, None if inside is None else shrunk(inside))
        pixel, pixel_notes = pixels.compute(bootstrap // 5, seed)
        pixel["aupro_256"], why = small.aupro()
        pixel_notes |= {"pixel.aupro_256": why} if why else {}
        rows, defect_notes = metrics.by_defect(self.scores, self.labels, defects, self.threshold, pixels)
        return {"image": image, "pixel": pixel, "by_defect": rows, "notes": {**notes, **pixel_notes, **defect_notes}}


def shrunk(pixels: Tensor) -> Tensor:
    """A map or mask (H, W) at `SMALL` pixels, each of them the nearest of the own ones; the dtype stays."""
    return F.interpolate(pixels[None, None].float(), SMALL, mode="nearest-exact")[0, 0].to(pixels.dtype)
