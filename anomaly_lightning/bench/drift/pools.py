"""Images of one category, inspected once as they are and changed: what streams are drawn from."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from omegaconf import DictConfig
from PIL import Image, ImageFilter

from anomaly_lightning.runtime.appearance import image_statistics
from anomaly_lightning.runtime.drift_fit import left_out
from anomaly_lightning.runtime.drift_measures import measures, of_looks, thumbnail
from anomaly_lightning.runtime.inspector import Inspector
from anomaly_lightning.runtime.reading import read_image
from anomaly_lightning.training.evaluation import made_again
from anomaly_lightning.training.tested_data import TestedData

MOST = 60  # images of each kind of change
Measured = NDArray[np.float64]  # (n, K + 1): measures, and whether the image is INVALID


@dataclass(frozen=True)
class Pool:
    """What the images of a category measured.

    Attributes:
        name: Of the category.
        held_out: (n, K + 1) of the run's validation normals.
        tested: (m, K + 1) of its test normals.
        looks: (t, 21) measures of the looks of its training normals.
        changed: By kind of change.
    """

    name: str
    held_out: Measured
    tested: Measured
    looks: Measured
    changed: Mapping[str, Measured]


def darker(image: Image.Image) -> Image.Image:
    """10 % less light."""
    return image.point(lambda level: round(0.9 * level))


def blurred(image: Image.Image) -> Image.Image:
    """Out of focus: a Gaussian of 1/256 of the longer side, 1 pixel at least."""
    return image.filter(ImageFilter.GaussianBlur(max(1.0, max(image.size) / 256)))


def shifted(image: Image.Image) -> Image.Image:
    """The camera turned by 4 % of the image's width; what comes into view is mirrored."""
    values = np.asarray(image)
    width, step = values.shape[1], max(1, round(0.04 * values.shape[1]))
    return Image.fromarray(np.pad(values, ((0, 0), (step, 0), (0, 0)), mode="reflect")[:, :width])


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "brightness -10 %": darker,
    "out of focus": blurred,
    "shifted camera": shifted,
}
PRODUCT, DEFECTS = "another product", "defects"


def inspected(cfg: DictConfig, checkpoint: Path, strangers: Sequence[Path]) -> Pool:
    """Inspect what a run did not train on, as it is and changed.

    Args:
        cfg: With data.on_corrupt and cache.dir.
        checkpoint: Of the run.
        strangers: Images of another product; they are brought to the size of this one's.
    """
    inspector = Inspector.load(checkpoint, "cpu")
    card = inspector.card
    splits = made_again(cfg, card, TestedData(card.category, card.data.places), masks=False)[0].splits
    random = np.random.default_rng(0)

    def images(paths: Sequence[Path]) -> list[Image.Image]:
        return [read_image(path, white=inspector.transform.white) for path in paths]

    def some(paths: Sequence[Path]) -> list[Path]:
        return [paths[index] for index in random.permutation(len(paths))[:MOST]]

    known = images([sample.path for sample in splits.train])
    thumbnails = np.array([thumbnail(image) for image in known])
    mean = thumbnails.mean(axis=0)

    def measured(shown: Iterable[Image.Image]) -> Measured:
        said = inspector(list(shown))
        return np.array([[*measures(each, mean), each.reason is not None] for each in said])

    held_out = [sample.path for sample in splits.validation]
    tested = [sample.path for sample in splits.test if not sample.label]
    drawn, size = images(some([*held_out, *tested])), known[0].size
    changed = {name: measured(map(change, drawn)) for name, change in CHANGES.items()}
    changed[PRODUCT] = measured(image.resize(size) for image in images(some(strangers)))
    changed[DEFECTS] = measured(images(some([sample.path for sample in splits.test if sample.label])))
    looks = np.column_stack([[of_looks(image_statistics(image)) for image in known], left_out(thumbnails)])
    return Pool(card.category, measured(images(held_out)), measured(images(tested)), looks, changed)


def save(pool: Pool, path: Path) -> None:
    """Write a pool to a file of numpy's."""
    changed = {f"changed {name}": values for name, values in pool.changed.items()}
    plain = {"held_out": pool.held_out, "tested": pool.tested, "looks": pool.looks}
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, allow_pickle=False, **plain, **changed)


def load(path: Path) -> Pool:
    """Read what `save` wrote; the file has the category's name."""
    with np.load(path, allow_pickle=False) as content:
        changed = {
            name.removeprefix("changed "): content[name] for name in content.files if name.startswith("changed ")
        }
        return Pool(path.stem, content["held_out"], content["tested"], content["looks"], changed)
