"""Which pixels show the object, where it can be told from its background by colour alone."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, binary_fill_holes, gaussian_filter

from anomaly_lightning.data.defects.fills import Levels
from anomaly_lightning.data.synthetic.noise import Field, pixel

RIM = 0.03  # share of a side that counts as the image's rim
ON_RIM = 0.1  # share of the rim that an object may touch
SHARES = (0.05, 0.9)  # of the image that an object may cover
CLEAR = 0.75  # share of the variance that two classes must explain (Otsu 1979, eta at the best threshold)
MOST = 0.9  # share of the normals that must agree


@dataclass(frozen=True)
class Foreground:
    """An object before a background.

    Attributes:
        pixels: (H, W) bool, the object, without holes and with a margin of about 3 units.
        behind: (3,) float32, colour of the background in levels of 255.
    """

    pixels: NDArray[np.bool_]
    behind: Field


def separable(images: Iterable[Levels]) -> bool:
    """Whether an object stands before a plain background in nearly all of the images (H, W, 3) uint8."""
    found = [foreground(image) is not None for image in images]
    return bool(found) and float(np.mean(found)) >= MOST


def foreground(image: Levels) -> Foreground | None:
    """The object in (H, W, 3) uint8; None where the image is no object before a plain background."""
    size = (image.shape[0], image.shape[1])
    rim = _rim(size)
    behind = np.median(image[rim], axis=0).astype(np.float32)
    away = gaussian_filter(np.abs(image - behind).max(axis=2), 1 / pixel(size))
    threshold, clear = otsu(away)
    pixels = away > threshold
    covered, touching = float(pixels.mean()), float(pixels[rim].mean())
    if clear < CLEAR or touching > ON_RIM or not SHARES[0] <= covered <= SHARES[1]:
        return None
    margin = max(1, round(3 / pixel(size)))
    return Foreground(binary_dilation(binary_fill_holes(pixels), iterations=margin), behind)


def otsu(values: Field) -> tuple[float, float]:
    """Threshold between two classes of values, and the share of the variance that they explain (Otsu 1979)."""
    counts, edges = np.histogram(values, 128)
    centres = (edges[:-1] + edges[1:]) / 2
    below, sums = np.cumsum(counts), np.cumsum(counts * centres)
    above = below[-1] - below
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (sums / below - (sums[-1] - sums) / above) ** 2
    between = np.nan_to_num(between[:-1])
    best = int(between.argmax())
    total = float(np.var(np.repeat(centres, counts))) * float(below[-1]) ** 2
    return float(edges[best + 1]), float(between[best]) / max(total, 1e-12)


def _rim(size: tuple[int, int]) -> NDArray[np.bool_]:
    rim = np.ones(size, bool)
    rows, columns = (max(1, round(RIM * side)) for side in size)
    rim[rows:-rows, columns:-columns] = False
    return rim
