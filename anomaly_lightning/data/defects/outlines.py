"""Where a made defect lies: outlines of random shape, as coverage in [0, 1]; what fills them is not known here."""

from collections.abc import Callable

import numpy as np
from scipy.ndimage import gaussian_filter

from anomaly_lightning.data.defects.boxes import around
from anomaly_lightning.data.synthetic.noise import Field, Size, grid, pixel, smooth_noise, turned
from anomaly_lightning.data.synthetic.shapes import blob, cover, path, stroke, window

Outline = Callable[[np.random.Generator, Size, tuple[float, float], float], Field]
"""(rng, (H, W), centre (y, x) in units, scale of lengths) -> coverage (H, W) float32 in [0, 1]."""


def patch(rng: np.random.Generator, size: Size, centre: tuple[float, float], scale: float) -> Field:
    """An irregular patch with a mean radius of 4 to 60 units, small ones more often."""
    radius = scale * np.exp(rng.uniform(np.log(4), np.log(60)))
    return cover(blob(rng, size, centre, radius, rng.uniform(0.2, 1.0)), size)


def scar(rng: np.random.Generator, size: Size, centre: tuple[float, float], scale: float) -> Field:
    """A thin wandering line that tapers, 10 to 180 units long and 1 to 7 wide."""
    points = path(rng, centre, scale * rng.uniform(10, 180), rng.uniform(0.2, 2.0))
    width = max(scale, 0.5) * rng.uniform(1, 7)
    covered, near = np.zeros(size, np.float32), window(points, size, width / 2 + pixel(size))
    covered[near] = cover(stroke(points, size, width, near=near), size)
    return covered


def bar(rng: np.random.Generator, size: Size, centre: tuple[float, float], scale: float) -> Field:
    """A turned rectangle with sides of 4 to 79 units."""
    y, x = grid(size)
    v, u = turned(y - np.float32(centre[0]), x - np.float32(centre[1]), rng.uniform(0, np.pi))
    half_v, half_u = scale * rng.uniform(2, 39.5, 2)
    return cover(np.minimum(half_v - np.abs(v), half_u - np.abs(u)), size)


def clouds(rng: np.random.Generator, size: Size, centre: tuple[float, float], scale: float) -> Field:
    """Several patches anywhere: Perlin-like noise above 1.2 to 2.2 standard deviations (DRAEM, ICCV 2021, section 3.3).

    The noise is band-limited in the Fourier domain in place of Perlin's lattice. `centre` is not used.
    """
    length = scale * np.exp(rng.uniform(np.log(6), np.log(40)))
    noise = smooth_noise(rng, size, length)
    return np.asarray(noise > rng.uniform(1.2, 2.2), dtype=np.float32)


OUTLINES: tuple[tuple[Outline, float], ...] = ((patch, 0.35), (scar, 0.35), (bar, 0.1), (clouds, 0.2))
"""Outlines and how often each is drawn."""


def outline(rng: np.random.Generator, size: Size, centre: tuple[float, float], scale: float) -> Field:
    """Coverage (H, W) float32 in [0, 1] of a random shape, mostly with a soft edge.

    Args:
        rng: Draws it.
        size: Height and width in pixels.
        centre: (y, x) in units from the image's centre.
        scale: What lengths are multiplied by.
    """
    drawn = OUTLINES[rng.choice(len(OUTLINES), p=[share for _, share in OUTLINES])][0]
    covered = drawn(rng, size, centre, scale)
    if rng.random() < 0.8:
        covered = softened(covered, rng.uniform(0.3, 1.5) / pixel(size))
    return np.asarray(covered, dtype=np.float32)


def softened(covered: Field, sigma: float) -> Field:
    """Coverage (H, W) float32 smoothed by a Gaussian of `sigma` pixels, which is cut at four of them."""
    if not covered.any():
        return covered
    soft, box = np.zeros_like(covered), around(covered > 0, 4 * sigma + 2)
    soft[box] = gaussian_filter(covered[box], sigma)
    return soft
