"""What can be said of an image without any model: brightness, contrast, texture, colours, size."""

from dataclasses import asdict, dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

# Images are looked at no larger than this: the statistics mean the same for all cameras, and cost little.
LONG_SIDE = 512
DARK, BRIGHT = 8, 247  # levels of 255 at and beyond which a pixel counts as black or as saturated
BINS = 16
# Scales and directions of `Statistics.texture`, in its order: pixels, and the axis of (height, width).
TEXTURES = {
    "fine_across": (1, 1),
    "fine_down": (1, 0),
    "middle_across": (4, 1),
    "middle_down": (4, 0),
    "coarse_across": (16, 1),
    "coarse_down": (16, 0),
}
_BLOCKS = 8  # a side, to tell the calm half of an image
_LEVELS = np.arange(256, dtype=np.float64)


@dataclass(frozen=True)
class Statistics:
    """Statistics of one image; levels are of 255.

    Attributes:
        height: In pixels of the file.
        width: In pixels of the file.
        brightness: Mean grey level.
        contrast: Standard deviation of the grey levels.
        dark: Share of the pixels that are black.
        bright: Share of the pixels that are saturated.
        red_green: Mean of red - green.
        blue_yellow: Mean of blue - (red + green) / 2.
        texture: Mean squared second difference of the grey levels by `TEXTURES`: 6 numbers.
        calm: The same of the calmer half of 64 blocks: what a small part of the image can't raise.
        histogram: Share of the pixels in each of 16 steps of red, then green, then blue: 48 numbers.
    """

    height: int
    width: int
    brightness: float
    contrast: float
    dark: float
    bright: float
    red_green: float
    blue_yellow: float
    texture: tuple[float, ...]
    calm: tuple[float, ...]
    histogram: tuple[float, ...]

    def plain(self) -> dict[str, object]:
        """The statistics that are single numbers, for files that people read."""
        return {name: value for name, value in asdict(self).items() if not isinstance(value, tuple)}


def image_statistics(image: Image.Image) -> Statistics:
    """Statistics of one RGB image of any size."""
    width, height = image.size
    image = shrunk(image)
    grey = image.convert("L")
    # Counts of the 256 levels tell all that does not depend on place, at a tenth of the cost of looking at pixels.
    colours = np.array(image.histogram(), dtype=np.float64).reshape(3, 256) / (image.width * image.height)
    greys = np.array(grey.histogram(), dtype=np.float64) / (grey.width * grey.height)
    brightness, (red, green, blue) = float(greys @ _LEVELS), (colours @ _LEVELS).tolist()
    texture, calm = _textures(grey)
    return Statistics(
        height,
        width,
        brightness=brightness,
        contrast=float(np.sqrt(greys @ np.square(_LEVELS - brightness))),
        dark=float(greys[: DARK + 1].sum()),
        bright=float(greys[BRIGHT:].sum()),
        red_green=red - green,
        blue_yellow=blue - (red + green) / 2,
        texture=texture,
        calm=calm,
        histogram=tuple(colours.reshape(3 * BINS, -1).sum(1).tolist()),
    )


def shrunk(image: Image.Image) -> Image.Image:
    """The image with a long side of at most `LONG_SIDE` pixels."""
    scale = LONG_SIDE / max(image.size)
    if scale >= 1:
        return image
    smaller = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(smaller, Image.Resampling.BILINEAR, reducing_gap=2.0)


def _textures(grey: Image.Image) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """`Statistics.texture` and `Statistics.calm` of a grey image."""
    scales = {scale for scale, _ in TEXTURES.values()}
    values = {scale: np.asarray(grey.reduce(scale) if scale > 1 else grey, dtype=np.int16) for scale in scales}
    whole, calm = zip(*(_texture(values[scale], axis) for scale, axis in TEXTURES.values()), strict=True)
    return whole, calm


def _texture(values: NDArray[np.int16], axis: int) -> tuple[float, float]:
    """Mean squared second difference of levels (h, w) along an axis, of the whole and of its calmer half."""
    if values.shape[axis] < 3:
        return 0.0, 0.0
    differences = _second_differences(values, axis)
    rows, columns, sizes = _blocks(differences.shape[0], differences.shape[1])
    bands = [np.einsum("hw,hw->w", band, band) for band in (differences[top:bottom] for top, bottom in rows)]
    sums = np.add.reduceat(np.stack(bands), columns, axis=1, dtype=np.float64)
    blocks = np.sort(sums / sizes, axis=None)
    calmer = blocks[: max(1, len(blocks) // 2)]
    return float(sums.sum() / differences.size), float(calmer.mean())


def _second_differences(values: NDArray[np.int16], axis: int) -> NDArray[np.float32]:
    """Second differences of levels (h, w) along an axis, which is shorter by 2 then."""
    width = values.shape[1]
    step = 1 if axis else width
    # In one line: a row of its own for each would take twice as long. What spans the end of a row is cut off below.
    flat = values.ravel()
    first = flat[step:] - flat[:-step]
    second = np.empty(values.shape, np.float32)  # whole numbers: their squares add up exactly below 2^24
    np.subtract(first[step:], first[:-step], out=second.reshape(-1)[: -2 * step], casting="unsafe")
    return second[:, :-2] if axis else second[:-2]


@lru_cache(maxsize=64)
def _blocks(height: int, width: int) -> tuple[list[tuple[int, int]], NDArray[np.intp], NDArray[np.intp]]:
    """How (h, w) values are cut into 8 x 8 blocks: rows of each band, first columns, and how many values each has."""
    edges = [np.unique(np.arange(_BLOCKS) * side // _BLOCKS) for side in (height, width)]
    ends = [np.append(edge[1:], side) for edge, side in zip(edges, (height, width), strict=True)]
    rows = list(zip(edges[0].tolist(), ends[0].tolist(), strict=True))
    return rows, edges[1], np.outer(ends[0] - edges[0], ends[1] - edges[1])
