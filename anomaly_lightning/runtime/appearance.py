"""What can be said of an image without any model: brightness, contrast, texture, colours, size."""

from dataclasses import asdict, dataclass

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
    values = np.asarray(image)  # (h, w, 3) uint8
    levels = image.convert("L")
    grey = np.asarray(levels, dtype=np.float32)
    texture, calm = zip(*(_texture(levels, *kind) for kind in TEXTURES.values()), strict=True)
    red, green, blue = values.reshape(-1, 3).mean(0, dtype=np.float64)
    return Statistics(
        height,
        width,
        brightness=float(grey.mean(dtype=np.float64)),
        contrast=float(grey.std(dtype=np.float64)),
        dark=float((grey <= DARK).mean()),
        bright=float((grey >= BRIGHT).mean()),
        red_green=float(red - green),
        blue_yellow=float(blue - (red + green) / 2),
        texture=texture,
        calm=calm,
        histogram=_histogram(values),
    )


def shrunk(image: Image.Image) -> Image.Image:
    """The image with a long side of at most `LONG_SIDE` pixels."""
    scale = LONG_SIDE / max(image.size)
    if scale >= 1:
        return image
    smaller = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(smaller, Image.Resampling.BILINEAR, reducing_gap=2.0)


def _texture(grey: Image.Image, scale: int, axis: int) -> tuple[float, float]:
    """Mean squared second difference along an axis at a scale in pixels, of the whole and of its calmer half."""
    values = np.asarray(grey.reduce(scale) if scale > 1 else grey, dtype=np.float32)
    if values.shape[axis] < 3:
        return 0.0, 0.0
    squares = np.square(np.diff(values, 2, axis=axis))
    edges = [np.unique(np.arange(_BLOCKS) * side // _BLOCKS) for side in squares.shape]
    sums = np.add.reduceat(np.add.reduceat(squares, edges[0], axis=0), edges[1], axis=1)
    sizes = [np.diff(np.append(edge, side)) for edge, side in zip(edges, squares.shape, strict=True)]
    blocks = np.sort(sums / np.outer(*sizes), axis=None)
    calmer = blocks[: max(1, len(blocks) // 2)]
    return float(squares.mean(dtype=np.float64)), float(calmer.mean(dtype=np.float64))


def _histogram(values: NDArray[np.uint8]) -> tuple[float, ...]:
    """Shares of the steps of the three channels of (h, w, 3) uint8, one after the other."""
    pixels = values.shape[0] * values.shape[1]
    steps = values.reshape(-1, 3).astype(np.intp) * BINS // 256
    counts = [np.bincount(steps[:, channel], minlength=BINS) for channel in range(3)]
    return tuple(float(share) for share in np.concatenate(counts) / pixels)
