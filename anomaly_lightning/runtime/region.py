"""Where to look: a region of the images of one fixed camera, for score, heatmap and metrics alike.

What lies outside has error 0, is no part of any score or threshold, and is not counted in pixel metrics. The detector
itself still sees whole images: a cell of the feature grid that lies wholly outside is dropped, one at the region's
border counts.
"""

import base64
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from anomaly_lightning.errors import DataError
from anomaly_lightning.runtime.card import RegionCard
from anomaly_lightning.runtime.reading import read_mask

FINE = 4  # a polygon is drawn so many times finer than the pixels; a pixel is inside where most of it is


@dataclass(frozen=True)
class Region:
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
    def from_config(cls, value: str | Sequence[Sequence[float]], size: tuple[int, int]) -> "Region":
        """Region that `data.roi` sets.

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
                    f"{size[1]}x{size[0]}. Draw it on one of the images, or give corners as fractions."
                )
            packed = base64.b64encode(zlib.compress(np.packbits(mask).tobytes())).decode()
            region = cls(size, None, packed, fixed=True)
        else:
            corners = _corners(value)
            fractions = all(0 <= number <= 1 for corner in corners for number in corner)
            scale = (1.0, 1.0) if fractions else (float(size[1]), float(size[0]))
            polygon = tuple((x / scale[0], y / scale[1]) for x, y in corners)
            region = cls(size, polygon, None, fixed=not fractions)
        if not region.mask(size).any():
            raise DataError(f"data.roi={value}: nothing of an image of {size[1]}x{size[0]} pixels lies inside.")
        return region

    def mask(self, size: tuple[int, int]) -> NDArray[np.bool_]:
        """The region at any size: (H, W) bool, True = look here; read-only."""
        return _drawn(self, (int(size[0]), int(size[1])))

    def _draw(self, size: tuple[int, int]) -> NDArray[np.bool_]:
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
                f"{self.size[1]}x{self.size[0]}. Take images of one camera, or give data.roi in fractions."
            )
        if abs(size[1] * self.size[0] - size[0] * self.size[1]) > 0.02 * size[0] * self.size[1]:
            raise DataError(
                f"{path} is {size[1]}x{size[0]} pixels, another aspect than the {self.size[1]}x{self.size[0]} that "
                "data.roi was given for: it would look at another part. Take images of one camera."
            )

    def card(self) -> RegionCard:
        """What `from_card` takes."""
        return RegionCard(self.size, self.polygon, self.bits, self.fixed)

    @classmethod
    def from_card(cls, card: RegionCard) -> "Region":
        """Make the region that a card describes."""
        return cls(card.size, card.polygon, card.bits, card.fixed)


@lru_cache(maxsize=8)
def _drawn(region: Region, size: tuple[int, int]) -> NDArray[np.bool_]:
    """A region at a size, kept: a line asks for the same one with every image."""
    mask = region._draw(size)
    mask.setflags(write=False)
    return mask


def _corners(value: Sequence[Sequence[float]]) -> list[tuple[float, float]]:
    try:
        corners = [(float(x), float(y)) for x, y in value]
    except (TypeError, ValueError) as error:
        raise DataError(f"data.roi={value}: expected a mask file, or corners [[x, y], [x, y], [x, y], ...].") from error
    if len(corners) < 3:
        raise DataError(f"data.roi={value}: a region has at least 3 corners [x, y]; got {len(corners)}.")
    return corners
