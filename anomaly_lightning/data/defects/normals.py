"""Normals as `DefectMaker` takes them: at the network's size, as levels, each decoded once where memory allows."""

from collections.abc import Callable, Sequence
from functools import lru_cache

from anomaly_lightning.data.defects.fills import Levels
from anomaly_lightning.data.samples import Sample
from anomaly_lightning.runtime.transform import ImageTransform

KEPT = 256  # 50 MB of 256 x 256 pixels


def levels_of(samples: Sequence[Sample], transform: ImageTransform) -> Callable[[int], Levels]:
    """From the number of a sample to (H, W, 3) uint8; raises what `transform.read` does."""

    @lru_cache(KEPT)
    def load(number: int) -> Levels:
        return transform.levels(transform(transform.read(samples[number].path)))

    return load
