"""The white level of grey images in 16 bits whose camera has fewer: 4095, say, where it has 12.

A file does not tell how many of its 16 bits a camera uses, and the values of a single image must not decide how it is
scaled. So the training images decide for all images of a model, once: the smallest level of a customary camera that
holds the largest of their values. It is kept in the model card.
"""

from collections.abc import Sequence
from pathlib import Path

from anomaly_lightning.errors import DataError
from anomaly_lightning.runtime.conversion import LARGEST
from anomaly_lightning.runtime.damage import ImageError
from anomaly_lightning.runtime.reading import largest_level

CAMERAS = (1023, 4095, 16383, LARGEST)  # of 10, 12, 14 and 16 bits
MOST = 100  # images that are looked at, evenly spread


def find_white(given: str | int, normals: Sequence[Path]) -> int | None:
    """Grey level that counts as white in 16-bit images; None = 65535, and where there are none.

    Args:
        given: `data.white`: "auto", or the level.
        normals: Image files of the training normals; those that can't be read are passed over.

    Raises:
        DataError: `given` is neither.
    """
    if given != "auto":
        if isinstance(given, bool) or not isinstance(given, int) or not 0 < given <= LARGEST:
            raise DataError(f"data.white={given}: expected auto, or the grey level that is white, from 1 to {LARGEST}.")
        return given if given < LARGEST else None
    step = -(-len(normals) // MOST) or 1
    largest = max((level for path in normals[::step] if (level := _level(path)) is not None), default=LARGEST)
    white = next(level for level in CAMERAS if largest <= level)
    return white if white < LARGEST else None


def _level(path: Path) -> int | None:
    try:
        return largest_level(path)
    except ImageError:
        return None
