"""One image of a category, good or defective, with its exact mask: a function of its key alone."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from anomaly_lightning.data.samples import GOOD
from anomaly_lightning.data.synthetic.catalogue import RECIPES
from anomaly_lightning.data.synthetic.noise import Size, generator
from anomaly_lightning.data.synthetic.scene import Image, photograph
from anomaly_lightning.errors import DataError

VISIBLE_LEVELS = 5
"""A pixel belongs to the defect where some channel differs from the good image by more than so many levels of 255."""

VISIBLE_AREA = 2e-4
"""A defect is drawn anew, stronger, until it covers at least this share of the image (13 pixels of 256 x 256)."""

ATTEMPTS = 12


@dataclass(frozen=True)
class Key:
    """What an image depends on, and all it depends on.

    Attributes:
        seed: The data set's seed.
        category: Name of the category.
        split: "train" or "test".
        defect: Name of the defect, "good" for none.
        index: Number of the image in its folder.
        size: Height and width in pixels.
    """

    seed: int
    category: str
    split: str
    defect: str
    index: int
    size: Size

    def generator(self, purpose: str, attempt: int = 0) -> np.random.Generator:
        """Randomness for one purpose, independent of that for every other image and purpose."""
        return generator(self.seed, self.category, self.split, self.defect, self.index, purpose, attempt)


@dataclass(frozen=True)
class Specimen:
    """An image and its truth.

    Attributes:
        image: (H, W, 3) uint8.
        mask: Defect pixels, (H, W) bool; empty for a good one.
        clean: The same specimen in the same light and noise without its defect, (H, W, 3) uint8.
    """

    image: Image
    mask: NDArray[np.bool_]
    clean: Image


def specimen(key: Key) -> Specimen:
    """Draw one image; its mask marks exactly the pixels that the defect changed by more than VISIBLE_LEVELS.

    Raises:
        DataError: The image is too small for its defect to show.
    """
    recipe = RECIPES[key.category]
    scene = recipe.draw(key.generator("scene"), key.size)
    clean = photograph(scene, recipe.light, key.generator("camera"))
    if key.defect == GOOD:
        return Specimen(clean, np.zeros(key.size, dtype=np.bool_), clean)
    strength = float(key.generator("strength").uniform(recipe.faint, 1.0))
    for attempt in range(ATTEMPTS):
        broken = recipe.defects[key.defect](scene, key.generator("defect", attempt), strength)
        image = photograph(broken, recipe.light, key.generator("camera"))
        mask = visible_difference(clean, image)
        if mask.sum() >= max(1, VISIBLE_AREA * mask.size):
            return Specimen(image, mask, clean)
        strength = min(1.5, 1.2 * strength)
    raise DataError(
        f"The synthetic {key.category} can't show the defect {key.defect} (number {key.index}) at "
        f"{key.size[0]} x {key.size[1]} pixels. Choose a larger size for the synthetic images."
    )


def visible_difference(clean: Image, image: Image) -> NDArray[np.bool_]:
    """Where two images (H, W, 3) uint8 differ by more than VISIBLE_LEVELS in some channel, (H, W) bool."""
    difference = np.abs(clean.astype(np.int16) - image.astype(np.int16)).max(axis=2)
    return np.asarray(difference > VISIBLE_LEVELS)
