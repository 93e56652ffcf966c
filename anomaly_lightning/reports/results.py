"""What an evaluation found, image by image, and the figures that follow from it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from anomaly_lightning import metrics
from anomaly_lightning.calibration import shift_warning
from anomaly_lightning.data.samples import Sample
from anomaly_lightning.runtime.reading import image_size, read_mask
from anomaly_lightning.runtime.transform import ImageTransform
from anomaly_lightning.scoring import Scoring
from anomaly_lightning.training.module import AnomalyModule


def threshold_block(module: AnomalyModule, results: "Results | None") -> dict[str, Any]:
    """The block "threshold" of metrics.json; warns where the images at hand don't look like the normals.

    The labels of the images at hand have no say in it.
    """
    block = {"value": float(module.threshold), **module.calibration}
    scores = block.pop("scores", None)
    if scores and results is not None:
        shift = shift_warning(scores, results.scores)
        block["warnings"] = [*block["warnings"], *([shift] if shift else [])]
    return block


@dataclass(frozen=True)
class Results:
    """Scores and maps of some images, with what is needed to look at them in their own pixels.

    Attributes:
        samples: The N images.
        scores: (N,) float, raw errors.
        error_maps: (N, h, w) float, raw errors.
        scoring: From error maps to anomaly maps.
        transform: Between the images' pixels and those that the backbone saw.
        threshold: Of the scores; NaN = not calibrated.
        pixel_threshold: Of the maps; NaN = not calibrated.
    """

    samples: Sequence[Sample]
    scores: Tensor
    error_maps: Tensor
    scoring: Scoring
    transform: ImageTransform
    threshold: float
    pixel_threshold: float

    @classmethod
    def of(cls, module: AnomalyModule, samples: Sequence[Sample], transform: ImageTransform) -> "Results":
        """Results of the module's last evaluation, whose set was `samples`."""
        scores, error_maps = module.evaluated()
        thresholds = float(module.threshold), float(module.pixel_threshold)
        return cls(tuple(samples), scores, error_maps, module.scoring, transform, *thresholds)

    @property
    def labels(self) -> Tensor:
        """(N,) bool: which images show a defect."""
        return torch.tensor([sample.label for sample in self.samples], dtype=torch.bool)

    def anomaly_map(self, index: int, size: tuple[int, int]) -> Tensor:
        """Anomaly map of one image in its own pixels, (H, W) = `size`, float."""
        seen = self.scoring.maps(self.error_maps[index : index + 1], self.transform.size)
        return self.scoring.own(torch.from_numpy(self.transform.restore(seen[0].numpy(), size)))

    def truth(self, index: int) -> Tensor | None:
        """Mask of one image in its own pixels, (H, W) bool: all False for a good one, None for an unknown one."""
        sample = self.samples[index]
        if sample.mask is not None:
            return torch.from_numpy(read_mask(sample.mask))
        return None if sample.label else torch.zeros(image_size(sample.path), dtype=torch.bool)

    def figures(self, bootstrap: int = 1000, seed: int = 0) -> dict[str, Any]:
        """The blocks "image", "pixel", "by_defect" and "notes" of metrics.json."""
        defects = [sample.defect for sample in self.samples]
        image, notes = metrics.image_metrics(self.scores, self.labels, self.threshold, bootstrap, seed)
        pixels = metrics.PixelMetrics()
        for index in range(len(defects)):
            truth = self.truth(index)
            if truth is not None:
                size = (truth.shape[0], truth.shape[1])
                pixels.update(self.anomaly_map(index, size), truth, defects[index], self.scoring.inside(size))
        pixel, pixel_notes = pixels.compute(self.pixel_threshold, bootstrap // 5, seed)
        rows, defect_notes = metrics.by_defect(self.scores, self.labels, defects, self.threshold, pixels)
        return {"image": image, "pixel": pixel, "by_defect": rows, "notes": {**notes, **pixel_notes, **defect_notes}}
