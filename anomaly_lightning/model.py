"""The model: images in, anomaly maps and scores out. Training wraps it, an inspector runs it, export writes it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from anomaly_lightning.detectors.base import Detector
from anomaly_lightning.detectors.parts.pyramid import Pyramid
from anomaly_lightning.features.extractor import FeatureExtractor
from anomaly_lightning.features.packing import can_pack, packed_steps
from anomaly_lightning.features.precision import true_float32
from anomaly_lightning.localiser import Localiser
from anomaly_lightning.scoring import Scoring


class Outputs(NamedTuple):
    """What a model says of images.

    Attributes:
        maps: (B, H, W) float, anomaly maps.
        scores: (B,) float.
        errors: (B, h, w) float, what the maps are made of.
    """

    maps: Tensor
    scores: Tensor
    errors: Tensor


class AnomalyModel(nn.Module):
    """Frozen features, a detector on them, scoring, and the thresholds.

    Args:
        extractor: From images to aligned features; never trained, always in evaluation mode. With a localiser, to
            packed ones.
        detector: The method; `build` has been called.
        scoring: From error maps to maps and scores.
        dtype: What features are rounded to, so that an image scores the same whether its features were stored or not.
        localiser: Sharpens the maps, and leaves the scores alone; None = the detector's own maps.

    Attributes:
        mapping: From located errors to maps: the scoring, on the localiser's grid.
        threshold: () float buffer, same unit as the scores; NaN = not calibrated.
        pixel_threshold: () float buffer, same unit as the anomaly maps; NaN = not calibrated.
    """

    threshold: Tensor
    pixel_threshold: Tensor

    def __init__(
        self,
        extractor: FeatureExtractor,
        detector: Detector,
        scoring: Scoring,
        dtype: torch.dtype = torch.float32,
        localiser: Localiser | None = None,
        mapping: Scoring | None = None,
    ) -> None:
        super().__init__()
        self.extractor, self.detector, self.scoring, self.dtype = extractor, detector, scoring, dtype
        self.localiser, self.mapping = localiser, mapping or scoring
        self.register_buffer("threshold", torch.tensor(float("nan")))
        self.register_buffer("pixel_threshold", torch.tensor(float("nan")))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Anomaly maps (B, H, W) and scores (B,), float, of images (B, 3, H, W) float32."""
        outputs = self.inspected(images)
        return outputs.maps, outputs.scores

    def inspected(self, images: Tensor) -> Outputs:
        """Maps, scores and errors of images (B, 3, H, W) float32; layers are packed for a store alone."""
        if self.localiser is None:
            return self.outputs(self.inputs(images))
        with torch.no_grad():
            layers = [_as_stored(layer, self.dtype) for layer in self.extractor.layers(images)]
        with _exactly(images):
            errors = self.detector.error_map(self.localiser.alignment(layers))
            located = self.localiser.of_layers(errors, layers)
        return self._told(errors, located)

    def pack(self, wanted: bool = True) -> None:
        """Compute with weights packed for this processor from now on, where they can be; or no longer.

        For inference on the CPU: what was packed can't be moved, saved or exported.
        """
        self.extractor.backbone.pack(wanted)
        for part in self.modules():
            if isinstance(part, Pyramid):
                part.pack(packed_steps if wanted and can_pack() else None)

    def inputs(self, images: Tensor) -> Tensor:
        """What is kept of images (B, 3, H, W) float32: features (B, C, h, w) float, or the images."""
        return images if self.detector.inputs == "images" else self.features(images)

    def features(self, images: Tensor) -> Tensor:
        """Features (B, C, h, w) float of images (B, 3, H, W) float32, rounded as a store rounds them."""
        with torch.no_grad():
            return _as_stored(self.extractor(images), self.dtype)

    def seen(self, inputs: Tensor) -> Tensor:
        """What the detector sees of `inputs`, (B, ...) float: the same without a localiser."""
        return inputs if self.localiser is None else self.localiser.aligned(inputs)

    def error_map(self, inputs: Tensor) -> Tensor:
        """The detector's raw error (B, h, w) float of `inputs`, (B, ...) float."""
        with _exactly(inputs):
            return self.detector.error_map(self.seen(inputs))

    def outputs(self, inputs: Tensor) -> Outputs:
        """Maps, scores and errors of `inputs`, (B, ...) float."""
        return self.read(self.error_map(inputs), inputs)

    def read(self, errors: Tensor, inputs: Tensor) -> Outputs:
        """Maps and scores of the detector's errors (B, h, w) float of `inputs`, (B, ...) float."""
        if self.localiser is None:
            maps, scores = self.scoring(errors)
            return Outputs(maps, scores, errors)
        with _exactly(inputs):
            located = self.localiser(errors, inputs)
        return self._told(errors, located)

    def _told(self, errors: Tensor, located: Tensor) -> Outputs:
        """Outputs of the detector's errors (B, h, w) float and of where the localiser puts them, (B, h', w') float."""
        return Outputs(self.mapping.maps(located), self.scoring(errors)[1], located)

    def scored(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (B,) and what the maps are made of, (B, h, w), float, of `inputs`, (B, ...) float."""
        outputs = self.outputs(inputs)
        return outputs.scores, outputs.errors


@contextmanager
def _exactly(inputs: Tensor) -> Iterator[None]:
    """Whole float32: precision is for training; scores are what an inspector gives."""
    with torch.autocast(inputs.device.type, enabled=False), true_float32():
        yield


def _as_stored(features: Tensor, dtype: torch.dtype) -> Tensor:
    """Features (B, C, h, w) float as a store of `dtype` gives them back; what is beyond its range is its largest."""
    if dtype == features.dtype:
        return features
    largest = torch.finfo(dtype).max
    return features.clamp(-largest, largest).to(dtype).to(features.dtype)
