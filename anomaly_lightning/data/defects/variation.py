"""How normals differ among themselves, so that a made defect can be told from natural variation."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from anomaly_lightning.data.defects.boxes import around
from anomaly_lightning.data.defects.fills import Levels
from anomaly_lightning.data.synthetic.noise import Field, pixel

WINDOW = 1.5  # units, standard deviation of the Gaussian that looks at an image's surroundings
FLOOR = 2.0  # levels of 255: less no camera repeats
PAIRS = 12
CORNER = 0.9  # quantile of a mask's pixels that decides: a defect need not stand out everywhere


class Variation:
    """Mean colour and local contrast at every position, and how much they vary over normals.

    Args:
        normals: (H, W, 3) uint8 each, all of one size; two or more say something.

    Attributes:
        usual: What `change` finds between two normals, on average; 1 for a single normal, and for equal ones.
    """

    def __init__(self, normals: Sequence[Levels]) -> None:
        if not normals:
            raise ValueError("expected at least one normal image")
        count, total, squares = len(normals), np.zeros(1), np.zeros(1)
        for image in normals:
            seen = described(image).astype(np.float64)
            total, squares = total + seen, squares + seen**2
        mean = total / count
        self.std = np.sqrt(np.maximum(squares / count - mean**2, FLOOR**2))  # (H, W, 4)
        everywhere = np.ones(self.std.shape[:2], bool)
        pairs = list(pairwise(normals))[:PAIRS]
        self.usual = float(np.mean([self.change(*pair, everywhere) for pair in pairs] or [1.0])) or 1.0

    def strength(self, clean: Levels, changed: Levels, mask: NDArray[np.bool_]) -> float:
        """How much an image changed, as a multiple of what two normals differ by at the same positions.

        Args:
            clean: (H, W, 3) uint8.
            changed: (H, W, 3) uint8.
            mask: (H, W) bool, where to look.

        Returns:
            Below 1 the change lies within what normals do anyway; 0 for an empty mask.
        """
        return self.change(clean, changed, mask) / self.usual

    def change(self, before: Levels, after: Levels, mask: NDArray[np.bool_]) -> float:
        """Standard deviations of the normals between two images (H, W, 3) uint8, where most differs in the mask."""
        if not mask.any():
            return 0.0
        box = around(mask, 4 * WINDOW / pixel(mask.shape))  # what lies further away is not looked at
        differences = np.abs(described(after[box], mask.shape) - described(before[box], mask.shape))
        return float(np.quantile((differences[mask[box]] / self.std[box][mask[box]]).max(axis=1), CORNER))


def described(image: Levels, whole: tuple[int, ...] | None = None) -> Field:
    """Mean of each channel and standard deviation of the grey levels around every pixel: (H, W, 4) float32.

    Args:
        image: (H, W, 3) uint8.
        whole: (H, W) of the image that it is a piece of, by which lengths are told; None = its own.
    """
    levels = image.astype(np.float32)
    sigma = WINDOW / pixel(tuple(whole or image.shape)[:2])
    means = gaussian_filter(levels, (sigma, sigma, 0))
    grey = (
        levels[..., 0] + levels[..., 1] + levels[..., 2]
    ) / 3  # a mean over so short an axis takes ten times as long
    rough = np.sqrt(np.maximum(gaussian_filter(grey**2, sigma) - gaussian_filter(grey, sigma) ** 2, 0))
    return np.asarray(np.concatenate([means, rough[..., None]], axis=2), np.float32)
