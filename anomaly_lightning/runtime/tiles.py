"""Large images in pieces: where the tiles lie, and how their maps become one again."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from anomaly_lightning.errors import DataError
from anomaly_lightning.runtime.card import TilingCard

Box = tuple[int, int, int, int]  # top, left, height, width in pixels


@dataclass(frozen=True)
class Tiling:
    """How images are cut.

    Attributes:
        size: (height, width) of a tile in pixels of the image; smaller images are one tile.
        overlap: Pixels that neighbours share, at least.
    """

    size: tuple[int, int]
    overlap: int

    def __post_init__(self) -> None:
        """Refuse what makes no sense, by the names it has on the command line."""
        if min(self.size) < 8:
            raise DataError(f"data.tile={list(self.size)}: expected one number or [height, width], at least 8 pixels.")
        if not 0 <= self.overlap <= min(self.size) // 2:
            raise DataError(f"data.tile_overlap={self.overlap}: expected 0 to half a tile ({min(self.size) // 2}).")

    @classmethod
    def from_config(cls, tile: int | Sequence[int], overlap: int) -> "Tiling":
        """Tiling as `data.tile` (one number or [height, width]) and `data.tile_overlap` set it."""
        pair = [tile, tile] if isinstance(tile, int) else list(tile)
        if len(pair) != 2:
            raise DataError(f"data.tile={tile}: expected one number or [height, width].")
        return cls((int(pair[0]), int(pair[1])), int(overlap))

    def card(self) -> TilingCard:
        """What `from_card` takes."""
        return TilingCard(self.size, self.overlap)

    @classmethod
    def from_card(cls, card: TilingCard) -> "Tiling":
        """Make the tiling that a card describes."""
        return cls(card.size, card.overlap)

    def boxes(self, size: tuple[int, int]) -> list[Box]:
        """Tiles that cover an image of (H, W), row by row, evenly spread; all of one size."""
        height, width = min(self.size[0], size[0]), min(self.size[1], size[1])
        rows, columns = _starts(size[0], height, self.overlap), _starts(size[1], width, self.overlap)
        return [(top, left, height, width) for top in rows for left in columns]

    def blend(self, maps: Iterable[tuple[Box, NDArray[np.float32]]], size: tuple[int, int]) -> NDArray[np.float32]:
        """One map (H, W) float32 of the maps of all tiles, each (height, width) of its box.

        Where tiles overlap their weights fall linearly towards their edges, so that no edge shows. Two maps of the
        image's size are held, and one tile's at a time.
        """
        total, weights = np.zeros(size, np.float32), np.zeros(size, np.float32)
        for (top, left, height, width), values in maps:
            weight = _ramp(height, self.overlap)[:, None] * _ramp(width, self.overlap)
            total[top : top + height, left : left + width] += values * weight
            weights[top : top + height, left : left + width] += weight
        total /= weights
        return total


def _starts(length: int, tile: int, overlap: int) -> list[int]:
    """Where tiles begin along one axis: the first at 0, the last ends with the image."""
    if tile >= length:
        return [0]
    count = -(-(length - overlap) // (tile - overlap))
    return [round(index * (length - tile) / (count - 1)) for index in range(count)]


def _ramp(length: int, overlap: int) -> NDArray[np.float32]:
    """Weights (length,) float32 along one axis: 1 in the middle, falling over the overlap to either edge."""
    place = np.arange(length, dtype=np.float32) + np.float32(0.5)
    return (np.minimum(place, length - place) / np.float32(max(overlap, 1))).clip(max=1)


def crop(image: Image.Image, box: Box) -> Image.Image:
    """One tile of an image."""
    top, left, height, width = box
    return image.crop((left, top, left + width, top + height))
