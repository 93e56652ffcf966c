"""One picture of a category, good or defective, with its exact mask: a function of its key alone."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from anomaly_lightning.data.samples import GOOD
from anomaly_lightning.data.synthetic.catalogue import RECIPES
from anomaly_lightning.data.synthetic.noise import Size, generator
from anomaly_lightning.data.synthetic.scene import Picture, photograph
from anomaly_lightning.errors import DataError

VISIBLE_LEVELS = 5
"""A pixel belongs to the defect where some channel differs from the good picture by more than so many levels of 255."""

VISIBLE_AREA = 2e-4
"""A defect is drawn anew, stronger, until it covers at least this share of the picture (13 pixels of 256 x 256)."""

ATTEMPTS = 12


@dataclass(frozen=True)
class Key:
    """What a picture depends on, and all it depends on.

    Attributes:
        seed: The data set's seed.
        category: Name of the category.
        split: "train" or "test".
        defect: Name of the defect, "good" for none.
        index: Number of the picture in its folder.
        size: Height and width in pixels.
    """

    seed: int
    category: str
    split: str
    defect: str
    index: int
    size: Size

    def generator(self, purpose: str, attempt: int = 0) -> np.random.Generator:
        """Randomness for one purpose, independent of that for every other picture and purpose."""
        return generator(self.seed, self.category, self.split, self.defect, self.index, purpose, attempt)


@dataclass(frozen=True)
class Specimen:
    """A picture and its truth.

    Attributes:
        picture: (H, W, 3) uint8.
        mask: Defect pixels, (H, W) bool; empty for a good one.
        clean: The same specimen in the same light and noise without its defect, (H, W, 3) uint8.
    """

    picture: Picture
    mask: NDArray[np.bool_]
    clean: Picture


def specimen(key: Key) -> Specimen:
    """Draw one picture; its mask marks exactly the pixels that the defect changed by more than VISIBLE_LEVELS.

    Raises:
        DataError: The picture is too small for its defect to show.
    """
    recipe = RECIPES[key.category]
    scene = recipe.draw(key.generator("scene"), key.size)
    clean = photograph(scene, recipe.light, key.generator("camera"))
    if key.defect == GOOD:
        return Specimen(clean, np.zeros(key.size, dtype=np.bool_), clean)
    strength = float(key.generator("strength").uniform(recipe.faint, 1.0))
    for attempt in range(ATTEMPTS):
        broken = recipe.defects[key.defect](scene, key.generator("defect", attempt), strength)
        picture = photograph(broken, recipe.light, key.generator("camera"))
        mask = visible_difference(clean, picture)
        if mask.sum() >= max(1, VISIBLE_AREA * mask.size):
            return Specimen(picture, mask, clean)
        strength = min(1.5, 1.2 * strength)
    raise DataError(
        f"The synthetic {key.category} can't show the defect {key.defect} (number {key.index}) at "
        f"{key.size[0]} x {key.size[1]} pixels. Choose a larger size for the synthetic pictures."
    )


def visible_difference(clean: Picture, picture: Picture) -> NDArray[np.bool_]:
    """Where two pictures (H, W, 3) uint8 differ by more than VISIBLE_LEVELS in some channel, (H, W) bool."""
    difference = np.abs(clean.astype(np.int16) - picture.astype(np.int16)).max(axis=2)
    return np.asarray(difference > VISIBLE_LEVELS)
