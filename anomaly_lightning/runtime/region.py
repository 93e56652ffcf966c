"""Where to look: a region of the images of one fixed camera, for score, heatmap and figures alike.

What lies outside has error 0, is no part of any score or threshold, and is not counted in pixel figures. The detector
itself still sees whole images: a cell of the feature grid that lies wholly outside is dropped, one at the region's
border counts.
"""

import base64
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from anomaly_lightning.errors import DataError
from anomaly_lightning.runtime.reading import read_mask
from anomaly_lightning.runtime.transform import ImageTransform
from anomaly_lightning.scoring import Scoring, anomaly_map, image_score

FINE = 4  # a polygon is drawn so many times finer than the pixels; a pixel is inside where most of it is


@dataclass(frozen=True)
class Roi:
    """A region of an image.

    Attributes:
        size: (H, W) in pixels of the images that it is meant for.
        polygon: Corners (x, y) as fractions of width and height, x to the right and y down; None for a mask.
        bits: (H, W) bool as packed, compressed, base64 text; None for a polygon.
        fixed: Whether an image of another size is refused: it is, unless the region was given in fractions.
    """

    size: tuple[int, int]
    polygon: tuple[tuple[float, float], ...] | None
    bits: str | None
    fixed: bool

    @classmethod
    def from_config(cls, value: str | Sequence[Sequence[float]], size: tuple[int, int]) -> "Roi":
        """Region that `data.roi` states.

        Args:
            value: A mask file (non-zero = look here), or corners [x, y]: fractions if all lie in [0, 1], else pixels.
            size: (H, W) of the first training image.

        Raises:
            DataError: No such file, no polygon, another size than the images', or nothing inside.
        """
        if isinstance(value, str):
            mask = read_mask(Path(value).expanduser())
            if mask.shape != tuple(size):
                raise DataError(
                    f"data.roi={value} is {mask.shape[1]}x{mask.shape[0]} pixels, but the images are "
                    f"{size[1]}x{size[0]}. Draw it on one of the images, or state corners as fractions."
                )
            packed = base64.b64encode(zlib.compress(np.packbits(mask).tobytes())).decode()
            roi = cls(size, None, packed, fixed=True)
        else:
            corners = _corners(value)
            fractions = all(0 <= number <= 1 for corner in corners for number in corner)
            scale = (1.0, 1.0) if fractions else (float(size[1]), float(size[0]))
            polygon = tuple((x / scale[0], y / scale[1]) for x, y in corners)
            roi = cls(size, polygon, None, fixed=not fractions)
        if not roi.mask(size).any():
            raise DataError(f"data.roi={value}: nothing of an image of {size[1]}x{size[0]} pixels lies inside.")
        return roi

    def mask(self, size: tuple[int, int]) -> NDArray[np.bool_]:
        """The region at any size: (H, W) bool, True = look here."""
        height, width = size
        if self.polygon is not None:
            drawn = Image.new("L", (width * FINE, height * FINE))
            corners = [(x * width * FINE - 0.5, y * height * FINE - 0.5) for x, y in self.polygon]
            ImageDraw.Draw(drawn).polygon(corners, fill=255)
            return np.asarray(drawn.reduce(FINE)) >= 128
        assert self.bits is not None
        pixels = self.size[0] * self.size[1]
        values = np.unpackbits(np.frombuffer(zlib.decompress(base64.b64decode(self.bits)), np.uint8), count=pixels)
        own = values.reshape(self.size).astype(bool)
        if size == self.size:
            return own
        return np.asarray(Image.fromarray(own).resize((width, height), Image.Resampling.NEAREST))

    def check(self, size: tuple[int, int], path: Path | str) -> None:
        """Raise `DataError` where an image of (H, W) has not the size that the region is meant for."""
        if self.fixed and tuple(size) != tuple(self.size):
            raise DataError(
                f"{path} is {size[1]}x{size[0]} pixels, but data.roi was drawn for images of "
                f"{self.size[1]}x{self.size[0]}. Take images of one camera, or state data.roi in fractions."
            )
        if abs(size[1] * self.size[0] - size[0] * self.size[1]) > 0.02 * size[0] * self.size[1]:
            raise DataError(
                f"{path} is {size[1]}x{size[0]} pixels, another aspect than the {self.size[1]}x{self.size[0]} that "
                "data.roi was given for: it would look at another part. Take images of one camera."
            )

    def plain(self) -> dict[str, Any]:
        """Plain values for a checkpoint."""
        polygon = None if self.polygon is None else [list(corner) for corner in self.polygon]
        return {"size": list(self.size), "polygon": polygon, "bits": self.bits, "fixed": self.fixed}

    @classmethod
    def from_plain(cls, values: Mapping[str, Any]) -> "Roi":
        """What `plain` gave."""
        polygon = None if values["polygon"] is None else tuple((float(x), float(y)) for x, y in values["polygon"])
        height, width = values["size"]
        return cls((int(height), int(width)), polygon, values["bits"], bool(values["fixed"]))


def _corners(value: Sequence[Sequence[float]]) -> list[tuple[float, float]]:
    try:
        corners = [(float(x), float(y)) for x, y in value]
    except (TypeError, ValueError) as error:
        raise DataError(f"data.roi={value}: expected a mask file, or corners [[x, y], [x, y], [x, y], ...].") from error
    if len(corners) < 3:
        raise DataError(f"data.roi={value}: a region has at least 3 corners [x, y]; got {len(corners)}.")
    return corners


@dataclass(frozen=True)
class RegionScoring(Scoring):
    """Scoring that looks at one region.

    Attributes:
        roi: The region.
        region: (H, W) bool, the region in pixels of the images as the backbone sees them.
    """

    roi: Roi | None = None
    region: Tensor = field(default_factory=lambda: torch.ones(1, 1, dtype=torch.bool))

    @classmethod
    def of(cls, scoring: Scoring, roi: Roi, transform: ImageTransform) -> "RegionScoring":
        """Scoring with the same settings, on this region of the images that go through the transform."""
        region = transform.mask(torch.from_numpy(roi.mask(roi.size).copy()))
        if not region.any():
            raise DataError(f"data.roi: nothing of it is left in {region.shape[1]}x{region.shape[0]} pixels.")
        return cls(scoring.sigma, scoring.reduction, scoring.share, roi, region)

    def maps(self, error_map: Tensor, size: tuple[int, int]) -> Tensor:
        """Anomaly maps (B, H, W) with 0 outside the region; see `Scoring.maps`."""
        region = self.region.to(error_map.device)
        cells = F.adaptive_max_pool2d(region[None].float(), error_map.shape[-2:]) > 0
        return anomaly_map(error_map * cells, size, self.sigma) * region

    def scores(self, maps: Tensor) -> Tensor:
        """Scores (B,) of the region's part of maps (B, H, W)."""
        return image_score(self.pixels(maps)[:, None], self.reduction, self.share)

    def pixels(self, maps: Tensor) -> Tensor:
        """Values (B, n) of the region's pixels of maps (B, H, W)."""
        return maps[:, self.region.to(maps.device)]

    def own(self, anomaly_map: Tensor) -> Tensor:
        """A map in the image's own pixels, (H, W), with 0 outside the region."""
        inside = self.inside((anomaly_map.shape[0], anomaly_map.shape[1]))
        return anomaly_map if inside is None else anomaly_map * inside.to(anomaly_map.device)

    def inside(self, size: tuple[int, int]) -> Tensor | None:
        """The region in an image's own pixels, (H, W) bool."""
        return None if self.roi is None else torch.from_numpy(self.roi.mask(size).copy())
