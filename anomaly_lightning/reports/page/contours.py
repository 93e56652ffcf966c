"""Outlines of regions as SVG path data, in a box that is the same for an image of any resolution."""

import numpy as np
import numpy.typing as npt
from contourpy import contour_generator

UNITS = 1024  # long side of the box: a whole unit is then finer than any pixel that is drawn
_STEP = 3.0  # points closer than this to the one before are left out


def box_of(size: tuple[int, int]) -> tuple[int, int]:
    """(width, height) in units of an image of (H, W) = `size` pixels."""
    height, width = size
    scale = UNITS / max(height, width)
    return max(1, round(width * scale)), max(1, round(height * scale))


def outline_path(field: npt.NDArray[np.floating], level: float, box: tuple[int, int]) -> str:
    """Closed outlines of where a field exceeds a level, as the `d` of an SVG path; "" where it nowhere does.

    Args:
        field: Values at pixel centres, (H, W) float, finite.
        level: In the field's unit.
        box: (width, height) of the drawing that the field fills.
    """
    if not field.max() > level:
        return ""
    # The frame is below the level, so that regions at the image's edge are closed there.
    padded = np.pad(field, 1, constant_values=min(float(field.min()), level - (float(field.max()) - level)))
    scale = np.array(box) / field.shape[::-1]
    paths = []
    for line in contour_generator(z=padded).lines(level):
        points = np.clip((np.asarray(line) - 0.5) * scale, 0, box)
        paths.append(_path(_thinned(points)))
    return "".join(paths)


def _thinned(points: npt.NDArray[np.floating]) -> npt.NDArray[np.int64]:
    """Points (n, 2) of a closed line, less those near their predecessor, in whole units (m, 2)."""
    kept = [points[0]]
    for point in points[1:-1]:
        if np.abs(point - kept[-1]).sum() >= _STEP:
            kept.append(point)
    if len(kept) < 4:
        kept = list(points[:-1])
    return np.rint(np.array(kept)).astype(np.int64)


def _path(points: npt.NDArray[np.int64]) -> str:
    steps = np.diff(points, axis=0)
    start = f"m{points[0][0]} {points[0][1]}" if len(points) else ""
    # Every line begins with an absolute move: `m` after `z` would be relative to the last line's start.
    return start.upper() + "l" + " ".join(f"{dx} {dy}" for dx, dy in steps.tolist()) + "z"
