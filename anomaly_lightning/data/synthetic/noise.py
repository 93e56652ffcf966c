"""Randomness and its fields: seeded generators, smooth noise, cellular noise. Nothing here knows what is drawn with it.

Lengths everywhere in this package are in units of which the short side of an image has 256, so that a category looks
the same at any size.
"""

import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.fft
from numpy.typing import NDArray

Field = NDArray[np.floating[Any]]
Size = tuple[int, int]

UNITS = 256.0


def generator(*key: int | str) -> np.random.Generator:
    """A generator that depends on the key alone: words count by their CRC-32, which is the same on every platform."""
    return np.random.default_rng([zlib.crc32(part.encode()) if isinstance(part, str) else part for part in key])


def pixel(size: Size) -> float:
    """Width of a pixel in units."""
    return UNITS / min(size)


def grid(size: Size) -> tuple[Field, Field]:
    """Coordinates y and x of the pixel centres in units from the image's centre, each (H, W) float32."""
    height, width = size
    y = (np.arange(height, dtype=np.float32) - (height - 1) / 2) * np.float32(pixel(size))
    x = (np.arange(width, dtype=np.float32) - (width - 1) / 2) * np.float32(pixel(size))
    return np.repeat(y[:, None], width, axis=1), np.repeat(x[None, :], height, axis=0)


def turned(y: Field, x: Field, angle: float) -> tuple[Field, Field]:
    """Coordinates (v, u) of a frame turned by `angle` radians: u runs along the turned x axis."""
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return cos * y - sin * x, cos * x + sin * y


def smooth_noise(
    rng: np.random.Generator, size: Size, length: float, across: float | None = None, angle: float = 0.0
) -> Field:
    """Gaussian noise low-passed in the Fourier domain.

    Args:
        rng: Source of the white noise.
        size: Height and width in pixels.
        length: Size of its features along the direction `angle`, in units.
        across: Size of its features across that direction, in units; None: as along.
        angle: Direction of long features, in radians from the x axis.

    Returns:
        (H, W) float32 with mean 0 and standard deviation 1; it wraps around at the borders.
    """
    height, width = size
    fy = np.fft.fftfreq(height).astype(np.float32)[:, None] / np.float32(pixel(size))
    fx = np.fft.rfftfreq(width).astype(np.float32)[None, :] / np.float32(pixel(size))
    fv, fu = turned(fy, fx, angle)
    damping = np.exp(-((fu * np.float32(length)) ** 2) - (fv * np.float32(across or length)) ** 2)
    damping[0, 0] = 0.0
    white = rng.standard_normal(size, dtype=np.float32)
    field = scipy.fft.irfft2(scipy.fft.rfft2(white) * damping, s=size)
    return np.asarray(field / max(float(field.std()), 1e-12), dtype=np.float32)


@dataclass(frozen=True)
class Cells:
    """Cellular noise.

    Attributes:
        first: Distance to the nearest point, in cells, (H, W) float32.
        border: Distance to the second nearest point minus `first`, 0 on the border between cells, (H, W) float32.
        tone: A value uniform in [0, 1), the same over a cell, (H, W) float32.
        kind: Another one, independent of `tone`.
    """

    first: Field
    border: Field
    tone: Field
    kind: Field


def cells(rng: np.random.Generator, y: Field, x: Field) -> Cells:
    """Cellular noise (Worley, "A cellular texture basis function", SIGGRAPH 1996) of one jittered point a unit square.

    Args:
        rng: Source of the points and tones.
        y: Where to evaluate, in cells, (H, W) float32.
        x: Likewise.
    """
    row, column = np.floor(y).astype(np.int32), np.floor(x).astype(np.int32)
    row -= row.min() - 1
    column -= column.min() - 1
    rows, columns = int(row.max()) + 2, int(column.max()) + 2
    jitter = rng.random((4, rows * columns), dtype=np.float32)
    inside_y, inside_x = y - np.floor(y), x - np.floor(x)
    first = np.full(y.shape, np.inf, dtype=np.float32)
    second = first.copy()
    nearest = np.zeros(y.shape, dtype=np.int32)
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            index = (row + down) * columns + (column + right)
            distance = np.hypot(jitter[0][index] + down - inside_y, jitter[1][index] + right - inside_x)
            second = np.minimum(second, np.maximum(first, distance))
            nearest = np.where(distance < first, index, nearest)
            first = np.minimum(first, distance)
    return Cells(first, second - first, jitter[2][nearest], jitter[3][nearest])
