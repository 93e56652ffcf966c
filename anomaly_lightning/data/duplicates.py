"""Images that are there twice: the same bytes, or the same image written anew.

A near duplicate is what re-encoding, resizing or a little brightness makes of an image. Images of one camera look
alike as a whole, so what all of them share (the median) is taken away first: what is left differs from part to part,
and is nearly the same in two versions of one image. Crops, turns and mirrors are not looked for.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import fft

from anomaly_lightning.runtime.reading import ImageError

THUMB = 32
LOW = 12  # the hash has LOW * LOW - 1 bits: signs of the lowest cosine coefficients without the mean
MOST_BITS = 0.2  # share of the bits in which near duplicates may differ; unrelated images differ in half
RELATIVE = 0.35  # distance of near duplicates, as a share of the median distance to the nearest image
NEVER_BELOW = 1.0  # levels of 255 (root mean square) that a re-encoded image may differ by, however close others are


def thumbnail(image: Image.Image) -> NDArray[np.float32]:
    """Grey image of 32 x 32 pixels, (32, 32) float32 in levels of 255."""
    small = image.convert("L").resize((THUMB, THUMB), Image.Resampling.BOX)
    return np.asarray(small, dtype=np.float32)


def perceptual_hash(residuals: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Signs of the lowest cosine coefficients of (N, 32, 32) float: (N, 143) bool."""
    coefficients = fft.dctn(residuals, axes=(1, 2))[:, :LOW, :LOW].reshape(len(residuals), -1)
    return np.asarray(coefficients[:, 1:] > 0)


def same_content(hashes: Sequence[str]) -> list[list[int]]:
    """Places of equal content hashes, in groups of two or more, in order."""
    groups: defaultdict[str, list[int]] = defaultdict(list)
    for index, value in enumerate(hashes):
        groups[value].append(index)
    return [group for group in groups.values() if len(group) > 1]


def leaks(
    training: Iterable[Path], test: Iterable[Path], content_hash: Callable[[Path], str]
) -> list[tuple[Path, Path]]:
    """Pairs of a training and a test file with the same content; files that can't be opened are passed over."""

    def content(path: Path) -> str | None:
        try:
            return content_hash(path)
        except ImageError:
            return None

    tested = [(found, path) for path in test if (found := content(path))]
    contents = {found for found, _ in tested}
    known = {found: path for path in training if (found := content(path)) in contents}
    return [(known[found], path) for found, path in tested if found in known]


def near_duplicates(thumbs: NDArray[np.float32], same: Sequence[str]) -> list[tuple[int, int]]:
    """Pairs (i, j), i < j, of images that are most likely one image written twice.

    Args:
        thumbs: (N, 32, 32) float32 as `thumbnail` makes them.
        same: N content hashes; pairs with equal ones are left out.
    """
    count = len(thumbs)
    if count < 2:
        return []
    residuals = thumbs - np.median(thumbs, axis=0) if count > 4 else thumbs
    residuals = residuals - residuals.mean(axis=(1, 2), keepdims=True)
    signs = np.where(perceptual_hash(residuals), 1, -1).astype(np.float32)
    flat = residuals.reshape(count, -1)
    squares = (flat**2).mean(1)
    nearest, candidates = np.full(count, np.inf), []
    for i in range(count):
        distance = np.sqrt(np.maximum(squares + squares[i] - 2 * (flat @ flat[i]) / flat.shape[1], 0))
        distance[i] = np.inf
        nearest[i] = distance.min()
        differing = (signs.shape[1] - signs @ signs[i]) / (2 * signs.shape[1])
        later = (np.flatnonzero(differing[i + 1 :] <= MOST_BITS) + i + 1).tolist()
        candidates += [(i, j, float(distance[j])) for j in later if same[i] != same[j]]
    limit = max(RELATIVE * float(np.median(nearest)), NEVER_BELOW)
    return [(i, j) for i, j, distance in candidates if distance <= limit]
