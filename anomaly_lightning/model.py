"""The model: images in, anomaly maps and scores out. Training wraps it, an inspector runs it, export writes it."""

import torch
from torch import Tensor, nn

from anomaly_lightning.detectors.base import Detector
from anomaly_lightning.features.extractor import FeatureExtractor
from anomaly_lightning.features.precision import true_float32
from anomaly_lightning.scoring import Scoring


class AnomalyModel(nn.Module):
    """Frozen features, a detector on them, scoring, and the thresholds.

    Args:
        extractor: From images to aligned features; never trained, always in evaluation mode.
        detector: The method; `build` has been called.
        scoring: From error maps to maps and scores.
        dtype: What features are rounded to, so that an image scores the same whether its features were stored or not.

    Attributes:
        threshold: () float buffer, same unit as the scores; NaN = not calibrated.
        pixel_threshold: () float buffer, same unit as the anomaly maps; NaN = not calibrated.
    """

    threshold: Tensor
    pixel_threshold: Tensor

    def __init__(
        self, extractor: FeatureExtractor, detector: Detector, scoring: Scoring, dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__()
        self.extractor, self.detector, self.scoring, self.dtype = extractor, detector, scoring, dtype
        self.register_buffer("threshold", torch.tensor(float("nan")))
        self.register_buffer("pixel_threshold", torch.tensor(float("nan")))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Anomaly maps (B, H, W) and scores (B,), float, of images (B, 3, H, W) float32."""
        return self.read(self.error_map(self.inputs(images)))

    def inputs(self, images: Tensor) -> Tensor:
        """What the detector sees of images (B, 3, H, W) float32: features (B, C, h, w) float, or the images."""
        return images if self.detector.inputs == "images" else self.features(images)

    def features(self, images: Tensor) -> Tensor:
        """Features (B, C, h, w) float of images (B, 3, H, W) float32, rounded as a store rounds them."""
        with torch.no_grad():
            return _as_stored(self.extractor(images), self.dtype)

    def error_map(self, inputs: Tensor) -> Tensor:
        """Raw error (B, h, w) float of what the detector sees, (B, ...) float."""
        # Precision is for training; scores are what an inspector gives.
        with torch.autocast(inputs.device.type, enabled=False), true_float32():
            return self.detector.error_map(inputs)

    def scored(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (B,) and error maps (B, h, w), float, of what the detector sees, (B, ...) float."""
        error_maps = self.error_map(inputs)
        return self.read(error_maps)[1], error_maps

    def read(self, error_map: Tensor) -> tuple[Tensor, Tensor]:
        """Anomaly maps (B, H, W) and scores (B,), float, of error maps (B, h, w) float."""
        maps, scores = self.scoring(error_map)
        return maps, scores


def _as_stored(features: Tensor, dtype: torch.dtype) -> Tensor:
    """Features (B, C, h, w) float as a store of `dtype` gives them back; what is beyond its range is its largest."""
    if dtype == features.dtype:
        return features
    largest = torch.finfo(dtype).max
    return features.clamp(-largest, largest).to(dtype).to(features.dtype)
