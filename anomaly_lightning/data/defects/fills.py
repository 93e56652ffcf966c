"""What a made defect looks like: an image changed everywhere, of which an outline takes its part.

Every fill takes (scene, rng, contrast) and gives (H, W, 3) float32 in levels of 255, maybe beyond them. `contrast` is
what differences from the image are multiplied by, 1 = as in the recipe.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter, map_coordinates

from anomaly_lightning.data.synthetic.noise import Field, pixel, smooth_noise

Levels = NDArray[np.uint8]
FAR = 10.0  # units over which what is missing is filled from its surroundings


@dataclass(frozen=True)
class Scene:
    """What a fill may look at.

    Attributes:
        image: (H, W, 3) float32, the image so far, in levels of 255.
        donor: (H, W, 3) uint8, another normal image, or the same where there is no other.
        covered: (H, W) float32 in [0, 1], the part that is taken of the fill.
        behind: (3,) float32, colour of the background; None where no object is separable from it.
    """

    image: Field
    donor: Levels
    covered: Field
    behind: Field | None

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        return self.covered.shape[0], self.covered.shape[1]


def texture(scene: Scene, rng: np.random.Generator, contrast: float) -> Field:
    """Foreign texture: a piece of another normal with other colours, coloured noise, or noise of every pixel."""
    kind = rng.integers(3)
    if kind == 0:
        foreign: Field = moved(scene.donor, rng) * rng.uniform(0.5, 1.5, 3) + rng.uniform(-60, 60, 3)
    elif kind == 1:
        octaves = [smooth_noise(rng, scene.size, length) * share for length, share in ((24, 1), (8, 0.6), (3, 0.4))]
        foreign = rng.uniform(0, 255, 3) + sum(octaves)[..., None] * rng.uniform(-60, 60, 3)  # type: ignore[index]
    else:
        foreign = rng.integers(0, 256, (*scene.size, 3)).astype(np.float32)
    return np.asarray(scene.image + contrast * (np.asarray(foreign, np.float32) - scene.image), np.float32)


def shade(scene: Scene, rng: np.random.Generator, contrast: float) -> Field:
    """Lighter, darker or of another tint: levels times 1 +- .1 to .6, or +- 15 to 90; half of the time per channel."""
    channels = 3 if rng.random() < 0.5 else 1
    signs = rng.choice((-1.0, 1.0), channels)
    if rng.random() < 0.5:
        return np.asarray(scene.image * (1 + contrast * signs * rng.uniform(0.1, 0.6, channels)), np.float32)
    return np.asarray(scene.image + contrast * signs * rng.uniform(15, 90, channels), np.float32)


def paste(scene: Scene, rng: np.random.Generator, contrast: float) -> Field:
    """A turned piece of the same image from elsewhere (CutPaste, Li et al., CVPR 2021)."""
    piece = moved(np.clip(scene.image, 0, 255).astype(np.uint8), rng)
    return np.asarray(scene.image + contrast * (piece - scene.image), np.float32)


def dent(scene: Scene, rng: np.random.Generator, contrast: float) -> Field:
    """An elastic push: what is shown is moved by up to 3 to 14 units, most in the middle of the outline."""
    push = gaussian_filter(scene.covered, 4 / pixel(scene.size))
    push = push / max(float(push.max()), 1e-6) * contrast * rng.uniform(3, 14) / pixel(scene.size)
    angle = rng.uniform(0, 2 * np.pi)
    rows, columns = np.indices(scene.size, dtype=np.float32)
    at = [rows + np.sin(angle) * push, columns + np.cos(angle) * push]
    channels = [map_coordinates(scene.image[..., c], at, order=1, mode="reflect") for c in range(3)]
    return np.asarray(np.stack(channels, axis=-1), np.float32)


def grain(scene: Scene, rng: np.random.Generator, contrast: float) -> Field:
    """Noise of 10 to 50 levels a pixel, grey or coloured."""
    noise = rng.standard_normal((*scene.size, 3 if rng.random() < 0.5 else 1), dtype=np.float32)
    return np.asarray(scene.image + contrast * rng.uniform(10, 50) * noise, np.float32)


def blur(scene: Scene, rng: np.random.Generator, contrast: float) -> Field:
    """Detail lost: a Gaussian of 1.5 to 6 units."""
    sigma = contrast * rng.uniform(1.5, 6) / pixel(scene.size)
    return np.asarray(gaussian_filter(scene.image, (sigma, sigma, 0)), np.float32)


def missing(scene: Scene, rng: np.random.Generator, contrast: float) -> Field:
    """A part that is gone: the background shows, or, where there is none, the surroundings go on smoothly."""
    if scene.behind is not None:
        filled = scene.behind + rng.normal(0, 2, (*scene.size, 3))
    else:
        left = (1 - scene.covered)[..., None]
        sigma = (FAR / pixel(scene.size),) * 2 + (0,)
        filled = gaussian_filter(scene.image * left, sigma) / np.maximum(gaussian_filter(left, sigma), 1e-3)
    return np.asarray(scene.image + min(contrast, 1.0) * (filled - scene.image), np.float32)


def moved(image: Levels, rng: np.random.Generator) -> Field:
    """An image (H, W, 3) uint8 shifted round, turned and scaled: (H, W, 3) float32; the corners are mirrored."""
    height, width = image.shape[:2]
    rolled = np.roll(image, (int(rng.integers(height)), int(rng.integers(width))), (0, 1))
    margin = ((height // 2, height // 2), (width // 2, width // 2), (0, 0))
    picture = Image.fromarray(np.pad(rolled, margin, "symmetric"))
    scale, angle = np.exp(rng.uniform(-0.35, 0.35)), rng.uniform(0, 2 * np.pi)
    cos, sin = np.cos(angle) / scale, np.sin(angle) / scale
    y, x = picture.height / 2, picture.width / 2
    corner = (x - cos * width / 2 - sin * height / 2, y + sin * width / 2 - cos * height / 2)
    affine = (cos, sin, corner[0], -sin, cos, corner[1])
    turned = picture.transform((width, height), Image.Transform.AFFINE, affine, Image.Resampling.BILINEAR)
    return np.asarray(turned, np.float32)


Fill = Callable[[Scene, np.random.Generator, float], Field]

FILLS: dict[str, tuple[Fill, float]] = {
    "texture": (texture, 0.28),
    "shade": (shade, 0.25),
    "paste": (paste, 0.2),
    "dent": (dent, 0.08),
    "grain": (grain, 0.07),
    "blur": (blur, 0.06),
    "missing": (missing, 0.06),
}
"""Fills by name, and how often each is drawn."""

OPAQUE = ("dent", "blur", "missing")
"""What would only be fainter, or a double image, where it is laid over the image in part."""
