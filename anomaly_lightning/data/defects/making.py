"""Defective images made of normal ones, with exact masks: a function of the normals, the recipe and a seed alone."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, gaussian_filter

from anomaly_lightning.data.defects.boxes import around
from anomaly_lightning.data.defects.fills import FILLS, OPAQUE, Levels, Scene
from anomaly_lightning.data.defects.foreground import Foreground, foreground, separable
from anomaly_lightning.data.defects.outlines import outline
from anomaly_lightning.data.defects.variation import Variation
from anomaly_lightning.data.synthetic.noise import Field, generator, grid
from anomaly_lightning.errors import DataError

VISIBLE = 4.0  # levels of 255 by which a pixel's surroundings must have changed to belong to the mask
AREA = 2e-4  # share of the image that a defect covers at least (13 pixels of 256 x 256)
ATTEMPTS = 8
STRONGER = 1.35  # contrast of an attempt by that of the one before
REACH = 6  # pixels that `changed_pixels` looks at around a change, and one more
SHIFT = 4  # pixels, at most
LOOKED_AT = 48  # normals that tell whether an object is separable, and how normals vary


@dataclass(frozen=True)
class Recipe:
    """What is drawn.

    Attributes:
        size: What lengths are multiplied by; 1 = from a pixel-wide scar to half the image.
        contrast: What differences from the normal image are multiplied by.
        most: Defects an image, at most.
        kinds: Names of `fills.FILLS` that are drawn.
        least: How much a defect changes at least, as a multiple of what two normals differ by there; 0 = anything.
        vary: Whether the normal image is shifted, and its contrast and brightness changed, a little first.
    """

    size: float = 1.0
    contrast: float = 1.0
    most: int = 3
    kinds: Sequence[str] = tuple(FILLS)
    least: float = 1.0
    vary: bool = True

    def __post_init__(self) -> None:
        if min(self.size, self.contrast) <= 0 or self.most < 1 or self.least < 0:
            raise DataError(
                "Made defects: expected size and contrast above 0, most 1 or more and least 0 or more; got "
                f"{self.size}, {self.contrast}, {self.most} and {self.least}."
            )
        object.__setattr__(self, "kinds", tuple(self.kinds))  # a config gives a list
        unknown = [kind for kind in self.kinds if kind not in FILLS]
        if unknown or not self.kinds:
            raise DataError(f"Made defects: kinds={list(self.kinds)}: expected some of {', '.join(FILLS)}.")


@dataclass(frozen=True)
class Made:
    """A made image and its truth.

    Attributes:
        image: (H, W, 3) uint8.
        mask: (H, W) bool; nothing outside it changed by more than can be seen.
        clean: (H, W, 3) uint8, the same image without its defects.
        kinds: What was drawn, from first to last.
    """

    image: Levels
    mask: NDArray[np.bool_]
    clean: Levels
    kinds: tuple[str, ...]


class DefectMaker:
    """Makes defects on normals.

    Args:
        load: Number of a normal -> (H, W, 3) uint8, all of one size.
        count: Normals.
        recipe: What is drawn.
        seed: Of everything random.

    Attributes:
        separable: Whether the normals show an object before a plain background: then defects lie on it.

    Raises:
        DataError: There is no normal.
    """

    def __init__(self, load: Callable[[int], Levels], count: int, recipe: Recipe, seed: int = 0) -> None:
        if count < 1:
            raise DataError("Made defects need normal images to be made of; there is none.")
        self.load, self.count, self.recipe, self.seed = load, count, recipe, seed
        looked_at = [load(int(i)) for i in np.unique(np.linspace(0, count - 1, min(count, LOOKED_AT)).round())]
        self.separable = separable(looked_at)
        self.variation = Variation(looked_at)

    def __call__(self, normal: int, version: int = 0) -> Made:
        """One version of a normal with 1 to `most` defects; the same numbers give the same image."""
        rng = generator(self.seed, "made defects", normal, version)
        clean = varied(self.load(normal), rng) if self.recipe.vary else self.load(normal)
        donor = self.load(int(rng.integers(self.count)))
        found = foreground(clean) if self.separable else None
        image, mask, kinds = clean, np.zeros(clean.shape[:2], bool), []
        for _ in range(int(rng.integers(1, self.recipe.most + 1))):
            kind = self._kind(rng)
            image, added = self._defect(image, donor, found, kind, rng)
            mask |= added
            kinds.append(kind)
        return Made(image, mask, clean, tuple(kinds))

    def _kind(self, rng: np.random.Generator) -> str:
        shares = np.array([FILLS[kind][1] for kind in self.recipe.kinds])
        return self.recipe.kinds[int(rng.choice(len(shares), p=shares / shares.sum()))]

    def _defect(
        self, image: Levels, donor: Levels, found: Foreground | None, kind: str, rng: np.random.Generator
    ) -> tuple[Levels, NDArray[np.bool_]]:
        """Image with one more defect, and its mask (H, W) bool; drawn anew, stronger, until it stands out."""
        contrast = self.recipe.contrast
        for _ in range(ATTEMPTS):
            changed, mask = draw(image, donor, found, kind, self.recipe.size, contrast, rng)
            large = mask.mean() >= AREA
            if large and (not self.recipe.least or self.variation.strength(image, changed, mask) >= self.recipe.least):
                break
            contrast *= STRONGER
        return changed, mask


def draw(
    image: Levels,
    donor: Levels,
    found: Foreground | None,
    kind: str,
    size: float,
    contrast: float,
    rng: np.random.Generator,
) -> tuple[Levels, NDArray[np.bool_]]:
    """One defect on (H, W, 3) uint8: the changed image and the mask (H, W) bool.

    Args:
        image: (H, W, 3) uint8.
        donor: (H, W, 3) uint8, another normal.
        found: The object that defects lie on; None = they lie anywhere.
        kind: Name of a fill.
        size: What lengths are multiplied by.
        contrast: What differences are multiplied by.
        rng: Draws it.
    """
    shape = (image.shape[0], image.shape[1])
    covered = outline(rng, shape, _centre(shape, found, rng), size)
    if found is not None:
        covered = covered * found.pixels
    scene = Scene(image.astype(np.float32), donor, covered, None if found is None else found.behind)
    filled = FILLS[kind][0](scene, rng, contrast)
    opaque = kind in OPAQUE or rng.random() < 0.4
    opacity = 1.0 if opaque else min(1.0, contrast * rng.uniform(0.25, 1.0))
    changed, mask = image.copy(), np.zeros(shape, bool)
    if covered.any():
        box = around(covered > 0, REACH)
        before = scene.image[box]
        blended = before + opacity * covered[box][..., None] * (np.clip(filled[box], 0, 255) - before)
        changed[box] = np.clip(np.rint(blended), 0, 255).astype(np.uint8)
        mask[box] = changed_pixels(image[box], changed[box])
    return changed, mask


def changed_pixels(clean: Levels, changed: Levels) -> NDArray[np.bool_]:
    """Pixels (H, W) bool whose surroundings changed visibly between two images (H, W, 3) uint8.

    The surroundings reach a pixel beyond what changed, so that single pixels of a texture that happen to keep their
    level leave no holes.
    """
    channels = np.abs(changed.astype(np.float32) - clean)
    difference = np.maximum(np.maximum(channels[..., 0], channels[..., 1]), channels[..., 2])
    near = binary_dilation(difference > 0)
    return np.asarray(near & (gaussian_filter(difference, 1.0) > VISIBLE))


def varied(image: Levels, rng: np.random.Generator) -> Levels:
    """A normal (H, W, 3) uint8 as it might have been taken again: shifted by up to 4 pixels, light a little changed."""
    return varied_with(image, np.zeros(image.shape[:2], bool), rng)[0]


def varied_with(image: Levels, mask: NDArray[np.bool_], rng: np.random.Generator) -> tuple[Levels, NDArray[np.bool_]]:
    """An image (H, W, 3) uint8 as `varied` changes it, and its mask (H, W) bool shifted with it."""
    levels: Field = image.astype(np.float32)
    if rng.random() < 0.5:
        down, right = rng.integers(0, 2 * SHIFT + 1, 2)
        window = slice(down, down + image.shape[0]), slice(right, right + image.shape[1])
        margin = ((SHIFT, SHIFT), (SHIFT, SHIFT))
        levels = np.pad(image, (*margin, (0, 0)), "symmetric")[window].astype(np.float32)
        mask = np.pad(mask, margin, "symmetric")[window]
    if rng.random() < 0.5:
        middle = levels.mean()
        levels = middle + (levels - middle) * np.float32(rng.uniform(0.95, 1.05)) + np.float32(rng.uniform(-6, 6))
    return np.clip(np.rint(levels), 0, 255).astype(np.uint8), mask


def _centre(size: tuple[int, int], found: Foreground | None, rng: np.random.Generator) -> tuple[float, float]:
    """A point (y, x) in units, on the object where there is one."""
    inside = np.arange(size[0] * size[1]) if found is None else np.flatnonzero(found.pixels)
    place = int(inside[rng.integers(inside.size)])
    y, x = grid(size)
    return float(y.flat[place]), float(x.flat[place])
