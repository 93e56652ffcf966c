"""Shapes that defects are made of, as fields over the image: places, blobs, strokes, dents."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from anomaly_lightning.data.synthetic.noise import Field, Size, grid, pixel, smooth_noise
from anomaly_lightning.data.synthetic.scene import Scene

Points = NDArray[np.float64]
EVERYWHERE = (slice(None), slice(None))


def place(scene: Scene, rng: np.random.Generator, part: str = "all") -> tuple[float, float]:
    """A point (y, x) in units, drawn uniformly from a part of the scene."""
    inside = np.flatnonzero(scene.parts[part])
    if inside.size == 0:  # the part is smaller than a pixel: the pixel nearest to the object's own origin
        inside = np.array([np.argmin(scene.u**2 + scene.v**2)])
    index = int(inside[rng.integers(inside.size)])
    y, x = grid(scene.size)
    return float(y.flat[index]), float(x.flat[index])


def blob(rng: np.random.Generator, size: Size, centre: tuple[float, float], radius: float, rough: float) -> Field:
    """An irregular patch.

    Args:
        rng: Draws the outline.
        size: Height and width in pixels.
        centre: (y, x) in units.
        radius: Mean radius in units.
        rough: Relative size of the outline's waves, 0 for an ellipse.

    Returns:
        Depth inside the patch in units, > 0 inside, (H, W) float32.
    """
    y, x = grid(size)
    dy, dx = y - np.float32(centre[0]), x - np.float32(centre[1])
    angle = np.arctan2(dy, dx)
    outline = 1 + 0.25 * rng.uniform(-1, 1) * np.cos(2 * (angle - rng.uniform(0, np.pi)))
    for waves in range(3, 9):
        outline = outline + rough * rng.normal() / waves**1.5 * np.cos(waves * angle + rng.uniform(0, 2 * np.pi))
    frayed = 0.15 * rough * radius * smooth_noise(rng, size, max(3.0, 0.6 * radius)) if rough else 0.0
    return np.asarray(radius * np.clip(outline, 0.3, None) + frayed - np.hypot(dy, dx), dtype=np.float32)


def shard(rng: np.random.Generator, size: Size, centre: tuple[float, float], radius: float) -> Field:
    """An angular patch with straight sides, `radius` units to a side on average; depth inside in units, (H, W)."""
    y, x = grid(size)
    depth = np.full(size, np.inf, dtype=np.float32)
    sides = int(rng.integers(5, 8))
    for side in range(sides):
        angle = 2 * np.pi * (side + rng.uniform(-0.4, 0.4)) / sides
        away = np.sin(angle) * (y - centre[0]) + np.cos(angle) * (x - centre[1])
        depth = np.minimum(depth, radius * rng.uniform(0.6, 1.3) - away)
    return depth


def path(
    rng: np.random.Generator, middle: tuple[float, float], length: float, wiggle: float, angle: float | None = None
) -> Points:
    """A line through `middle` that changes its direction at random.

    Args:
        rng: Draws the direction and its changes.
        middle: (y, x) in units.
        length: Its length in units.
        wiggle: Standard deviation of the change of direction over the whole length, in radians.
        angle: Its mean direction from the x axis in radians; None: any.

    Returns:
        (N, 2) points (y, x) in units.
    """
    steps = 20
    heading = rng.uniform(0, 2 * np.pi) if angle is None else angle
    turns = np.cumsum(rng.normal(0, wiggle / np.sqrt(steps), steps))
    directions = heading + turns - turns.mean()
    step = length / steps * np.stack([np.sin(directions), np.cos(directions)], axis=1)
    points = np.vstack([np.zeros((1, 2)), np.cumsum(step, axis=0)])
    return np.asarray(points - points.mean(axis=0) + np.array(middle))


def window(points: Points, size: Size, reach: float) -> tuple[slice, slice]:
    """Rows and columns of the pixels that may lie within `reach` units of a polyline (N, 2); maybe none."""
    spans = []
    for axis, places in enumerate((grid(size)[0][:, 0], grid(size)[1][0])):
        low, high = points[:, axis].min() - reach, points[:, axis].max() + reach
        spans.append(slice(int(np.searchsorted(places, low)), int(np.searchsorted(places, high, "right"))))
    return spans[0], spans[1]


def distance_to(points: Points, size: Size, near: tuple[slice, slice] = EVERYWHERE) -> tuple[Field, Field]:
    """Distance of each pixel to a polyline, and where along it its nearest point lies.

    Args:
        points: (N, 2) points (y, x) in units.
        size: Height and width in pixels.
        near: The rows and columns that are asked for.

    Returns:
        Distance in units and position in [0, 1], each (H, W) float32, or (h, w) of `near`.
    """
    y, x = (places[near] for places in grid(size))
    nearest = np.full(y.shape, np.inf, dtype=np.float32)
    position = np.zeros(y.shape, dtype=np.float32)
    count = len(points) - 1
    for index in range(count):
        (ay, ax), (by, bx) = points[index], points[index + 1]
        dy, dx = np.float32(by - ay), np.float32(bx - ax)
        square = np.float32(max(float(dy * dy + dx * dx), 1e-9))
        along = ((y - np.float32(ay)) * dy + (x - np.float32(ax)) * dx) / square
        along = np.clip(along, 0, 1)
        away = np.hypot(y - np.float32(ay) - along * dy, x - np.float32(ax) - along * dx)
        position = np.where(away < nearest, (index + along) / count, position)
        nearest = np.minimum(nearest, away)
    return nearest, position.astype(np.float32)


def stroke(
    points: Points, size: Size, width: float, pointed: bool = True, near: tuple[slice, slice] = EVERYWHERE
) -> Field:
    """Depth inside a stroke along a polyline (units, > 0 inside); a pointed one thins towards its ends.

    (H, W) float32, or (h, w) of the rows and columns `near`.
    """
    away, along = distance_to(points, size, near)
    taper = np.sqrt(np.clip(1 - (2 * along - 1) ** 2, 0, 1)) if pointed else np.ones_like(along)
    return np.asarray(width / 2 * taper - away, dtype=np.float32)


def cover(depth: Field, size: Size, soft: float = 0.0) -> Field:
    """Coverage in [0, 1] of a shape of given depth: its edge is one pixel wide, or `soft` units if that is more."""
    edge = max(soft, pixel(size))
    return np.asarray(np.clip(depth / edge + 0.5, 0, 1), dtype=np.float32)


def warp(scene: Scene, down: Field, right: Field) -> Scene:
    """Move what the scene shows by (down, right) units, each (H, W); where both are 0 it stays as it is to the bit."""
    rows, columns = np.indices(scene.size, dtype=np.float32)
    at = [rows - down / np.float32(pixel(scene.size)), columns - right / np.float32(pixel(scene.size))]
    moving = (down != 0) | (right != 0)

    def moved(values: Field) -> Field:
        sampled = map_coordinates(values, at, order=1, mode="nearest")
        return np.asarray(np.where(moving, sampled, values), dtype=np.float32)

    albedo = np.stack([moved(scene.albedo[..., channel]) for channel in range(3)], axis=-1)
    return replace(scene, albedo=albedo, height=moved(scene.height), gloss=moved(scene.gloss))
