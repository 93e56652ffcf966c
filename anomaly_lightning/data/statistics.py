"""What can be said of a picture without any model: brightness, contrast, sharpness, colours, size."""

from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

LONG_SIDE = (
    512  # pictures are looked at no larger than this: the figures mean the same for all cameras, and cost little
)
DARK, BRIGHT = 8, 247  # levels of 255 at and beyond which a pixel counts as black or as saturated
BINS = 16
TINY = 1e-3


@dataclass(frozen=True)
class Statistics:
    """Figures of one picture; levels are of 255.

    Attributes:
        height: In pixels of the file.
        width: In pixels of the file.
        brightness: Mean grey level.
        contrast: Standard deviation of the grey levels.
        dark: Share of the pixels that are black.
        bright: Share of the pixels that are saturated.
        sharpness: Variance of the Laplacian of the grey levels.
        red_green: Mean of red - green.
        blue_yellow: Mean of blue - (red + green) / 2.
        histogram: Share of the pixels in each of 16 steps of red, then green, then blue: 48 numbers.
    """

    height: int
    width: int
    brightness: float
    contrast: float
    dark: float
    bright: float
    sharpness: float
    red_green: float
    blue_yellow: float
    histogram: tuple[float, ...]

    def plain(self) -> dict[str, object]:
        """The figures without the histogram, for files that people read."""
        return {name: value for name, value in asdict(self).items() if name != "histogram"}


def picture_statistics(picture: Image.Image) -> Statistics:
    """Figures of one RGB picture of any size."""
    width, height = picture.size
    scale = LONG_SIDE / max(width, height)
    if scale < 1:
        smaller = (max(1, round(width * scale)), max(1, round(height * scale)))
        picture = picture.resize(smaller, Image.Resampling.BILINEAR, reducing_gap=2.0)
    values = np.asarray(picture)  # (h, w, 3) uint8
    grey = np.asarray(picture.convert("L"), dtype=np.float32)
    red, green, blue = values.reshape(-1, 3).mean(0, dtype=np.float64)
    return Statistics(
        height,
        width,
        brightness=float(grey.mean(dtype=np.float64)),
        contrast=float(grey.std(dtype=np.float64)),
        dark=float((grey <= DARK).mean()),
        bright=float((grey >= BRIGHT).mean()),
        sharpness=float(ndimage.laplace(grey).var(dtype=np.float64)),
        red_green=float(red - green),
        blue_yellow=float(blue - (red + green) / 2),
        histogram=_histogram(values),
    )


def _histogram(values: NDArray[np.uint8]) -> tuple[float, ...]:
    """Shares of the steps of the three channels of (h, w, 3) uint8, one after the other."""
    pixels = values.shape[0] * values.shape[1]
    steps = values.reshape(-1, 3).astype(np.intp) * BINS // 256
    counts = [np.bincount(steps[:, channel], minlength=BINS) for channel in range(3)]
    return tuple(float(share) for share in np.concatenate(counts) / pixels)


def robust_z(values: NDArray[np.float64], floor: float, reference: NDArray[np.float64] | None = None) -> NDArray:
    """How many robust standard deviations each of (N,) values lies from the median of `reference` (the values).

    Args:
        values: (N,).
        floor: Smallest standard deviation that is believed: identical values have none.
        reference: (M,) values whose median and 1.4826 * median absolute deviation count.
    """
    known = values if reference is None else reference
    middle = np.median(known)
    spread = 1.4826 * np.median(np.abs(known - middle))
    return np.asarray((values - middle) / max(spread, floor))
