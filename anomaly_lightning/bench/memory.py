"""Whether a model's memory grows, by inspecting small images again and again; imports no torch."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from anomaly_lightning.errors import UserError
from anomaly_lightning.runtime.inspector import Inspector

FIRST, STEP = 1_000, 10  # memory is read at the start, after so many images, ten times as many, ..., and at the end


def measure(
    inspector: Inspector, images: Sequence[Path], count: int, side: int, read: Callable[[], float] | None = None
) -> dict[str, float]:
    """Resident memory in megabytes by number of images inspected, from decoded array to verdict, mask and regions.

    Args:
        inspector: Of the model.
        images: Files that take turns.
        count: Images to inspect.
        side: Pixels of the longer side that images are made no larger than; the network's input stays as it is.
        read: Gives the memory; None = of this process.

    Returns:
        Megabytes at "0", "1000", "10000" and so on, and at the last image.
    """
    read = read or resident_mb
    shown = [_small(inspector, path, side) for path in images]
    inspector(shown[0])  # what is made once
    found, at = {"0": read()}, FIRST
    for number in range(1, count + 1):
        said = inspector(shown[number % len(shown)])
        _ = said.verdict, said.regions
        if number in (at, count):
            found[str(number)] = read()
            at *= STEP if number == at else 1
    return found


def _small(inspector: Inspector, path: Path, side: int) -> NDArray[np.uint8]:
    """An image (h, w, 3) uint8 no larger than `side`."""
    image = inspector.transform.read(path)
    image.thumbnail((side, side), Image.Resampling.BILINEAR)
    return np.asarray(image)


def resident_mb() -> float:
    """Megabytes of this process that lie in memory.

    Raises:
        UserError: The system does not say.
    """
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError as error:
        raise UserError(f"memory.images needs /proc/self/statm, which Linux has: {error}") from error
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6
