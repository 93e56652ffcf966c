"""What an inspector says of one image."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from anomaly_lightning.runtime.appearance import Statistics, image_statistics
from anomaly_lightning.runtime.decision import Verdict, verdict
from anomaly_lightning.runtime.heatmap import overlay
from anomaly_lightning.runtime.masks import predicted
from anomaly_lightning.runtime.regions import DefectRegion, find_regions


@dataclass(frozen=True, eq=False)
class Inspection:
    """What is said of one image; mask, regions and heatmap are computed when they are asked for.

    Attributes:
        image: The image as it was looked at: RGB, upright, W x H.
        score: Raw error, larger = more anomalous.
        anomaly_map: (H, W) float32 in the image's own pixels, same unit as the score.
        threshold: Above it a score is NG.
        pixel_threshold: Where the map is above it is a defect.
        review: Lower end of the band below the threshold that goes to an operator; None = no band.
        reason: Why the image is not of the kind that the model knows (its score means nothing then); None = it is.
        mask_share: Of the way to the largest value around it that a pixel of the mask lies; see `runtime.masks`.
        mask_side: Of the square that "around it" is, in pixels.
        looks: Statistics of the image that are known already; None = computed when they are asked for.
    """

    image: Image.Image
    score: float
    anomaly_map: NDArray[np.float32]
    threshold: float
    pixel_threshold: float
    review: float | None = None
    reason: str | None = None
    looks: Statistics | None = None
    mask_share: float = 0.0
    mask_side: int = 1

    @property
    def verdict(self) -> Verdict:
        """One word for the image: OK, REVIEW, NG or INVALID."""
        return verdict(self.score, self.threshold, self.review, self.reason)

    @cached_property
    def appearance(self) -> Statistics:
        """What can be said of the image without the model."""
        return image_statistics(self.image) if self.looks is None else self.looks

    @cached_property
    def mask(self) -> NDArray[np.bool_]:
        """Pixels that show a defect: (H, W) bool in the image's own pixels."""
        return predicted(self.anomaly_map, self.pixel_threshold, self.mask_share, self.mask_side)

    @cached_property
    def regions(self) -> tuple[DefectRegion, ...]:
        """The mask's connected regions, those with the largest peak first."""
        return find_regions(self.mask, self.anomaly_map)

    def heatmap(self) -> NDArray[np.uint8]:
        """The image with its map and the mask's outline on it: (H, W, 3) uint8."""
        return overlay(self.image, self.anomaly_map, self.pixel_threshold, self.mask)
