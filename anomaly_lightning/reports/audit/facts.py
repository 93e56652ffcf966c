"""What each file of a category is: read once, by several threads."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from anomaly_lightning.data.duplicates import thumbnail
from anomaly_lightning.data.samples import Category, Sample
from anomaly_lightning.runtime.appearance import Statistics, image_statistics, shrunk
from anomaly_lightning.runtime.files import SUFFIXES, content_hash
from anomaly_lightning.runtime.reading import FORMATS, ImageError, read_image


@dataclass(frozen=True)
class Facts:
    """One file.

    Attributes:
        sample: The image.
        role: "train" (training and validation normals) or "test".
        reason: Why it can't be read; None where it can. The rest is empty then.
        content: Hex sha256 of the file.
        form: Format of the file, say PNG.
        mode: Pillow's mode, say RGB, L or I;16.
        statistics: Measures of the image.
        sharpness: Variance of the Laplacian of the grey levels.
        thumb: (32, 32) float32, grey.
    """

    sample: Sample
    role: str
    reason: str | None
    content: str = ""
    form: str = ""
    mode: str = ""
    statistics: Statistics | None = None
    sharpness: float = 0.0
    thumb: NDArray[np.float32] | None = None

    @property
    def path(self) -> Path:
        """The image's file."""
        return self.sample.path

    def plain(self) -> dict[str, object]:
        """What can be said of the image, or why it can't be read, for audit.json."""
        if self.statistics is None:
            return {"reason": self.reason}
        return {**self.statistics.plain(), "sharpness": self.sharpness, "mode": self.mode}

    @property
    def misnamed(self) -> bool:
        """Whether the suffix is that of another format than the content has."""
        return self.form in SUFFIXES and self.path.suffix.lower() not in SUFFIXES[self.form]


def gather(
    category: Category, white: int | None = None, on_progress: Callable[[int], None] | None = None
) -> list[Facts]:
    """Facts of every image of a category, training normals first.

    Args:
        category: What the layout holds.
        white: Grey level that counts as white in images of 16 bits; None = 65535.
        on_progress: Called with how many are done.
    """
    listed = [("train", sample) for sample in category.train] + [("test", sample) for sample in category.test]
    found = []
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for facts in pool.map(lambda item: facts_of(item[0], item[1], white), listed):
            found.append(facts)
            if on_progress is not None:
                on_progress(len(found))
    return found


def facts_of(role: str, sample: Sample, white: int | None = None) -> Facts:
    """Facts of one image."""
    try:
        image, content = read_image(sample.path, white=white), content_hash(sample.path)
        with Image.open(sample.path, formats=FORMATS) as file:
            form, mode = str(file.format), file.mode
    except ImageError as error:
        return Facts(sample, role, error.reason)
    return Facts(sample, role, None, content, form, mode, image_statistics(image), sharpness(image), thumbnail(image))


def sharpness(image: Image.Image) -> float:
    """Variance of the Laplacian of the grey levels of an RGB image, at the size of its statistics."""
    grey = np.asarray(shrunk(image).convert("L"), dtype=np.float32)
    return float(ndimage.laplace(grey).var(dtype=np.float64))


def readable(facts: Sequence[Facts]) -> list[Facts]:
    """Those that can be read."""
    return [item for item in facts if item.reason is None]
