"""Takes some defects out of a test set, to learn from: a category of links in which no part is on both sides."""

import re
import shutil
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from anomaly_lightning.data.samples import GOOD, Category, Sample
from anomaly_lightning.errors import DataError

LABELLED = "labelled"


def hold_out(category: Category, folder: Path, counts: Sequence[int], seed: int = 0, item: str | None = None) -> Path:
    """Write a category in MVNet's layout that lacks some defects in its test set, and folders of these.

    The largest count is taken out whole, item by item; `labelled/<n>` holds the first n of it with their masks beside
    them, so that more is always a superset and all are tested on the same images.

    Args:
        category: Whose test set gives the defects; its own files stay as they are, they are linked to.
        folder: Where to write; <folder>/<category> and <folder>/labelled/<n>. It must not be there.
        counts: Defective images of each labelled folder.
        seed: Draws the items.
        item: Regular expression found in a file's stem; images with the same match show one part. None = each image
            shows another.

    Returns:
        The folder, to be used as data.root.

    Raises:
        DataError: The folder is there, a count makes no sense, or too few defects would be left to test on.
    """
    if folder.exists():
        raise DataError(f"output={folder} is there already. Expected a folder that is not: remove it, or name another.")
    if not counts or min(counts) < 1:
        raise DataError(f"counts={list(counts)}: expected numbers of images, each 1 or more.")
    taken = _drawn([sample for sample in category.test if sample.label], max(counts), seed, item)
    items = {_item(sample, item) for sample in taken}
    rest = [sample for sample in category.test if _item(sample, item) not in items]
    if len(taken) < max(counts) or not any(sample.label for sample in rest):
        raise DataError(
            f"counts={list(counts)}: {category.name} has too few defects to take {max(counts)} out and test on others. "
            "Expected smaller counts."
        )
    home = folder / category.name
    for number, sample in enumerate(category.train):
        _link(sample.path, home / "train" / GOOD / f"{number:04d}_{sample.path.name}")
    for number, sample in enumerate(rest):
        name = f"{number:04d}_{sample.path.stem}"
        _write(sample, home / "test" / sample.defect, home / "ground_truth" / sample.defect, name)
    for count in counts:
        for number, sample in enumerate(taken[:count]):
            place = folder / LABELLED / str(count) / sample.defect
            _write(sample, place, place, f"{number:04d}_{sample.path.stem}")
    return folder


def _drawn(defects: Sequence[Sample], most: int, seed: int, item: str | None) -> list[Sample]:
    """Defects of items in a random order, until there are `most` or more."""
    of: defaultdict[str, list[Sample]] = defaultdict(list)
    for sample in defects:
        of[_item(sample, item)].append(sample)
    names, taken = sorted(of), list[Sample]()
    for place in np.random.default_rng(seed).permutation(len(names)):
        if len(taken) >= most:
            break
        taken += of[names[place]]
    return taken


def _item(sample: Sample, item: str | None) -> str:
    """What tells parts apart: the match, the whole path where there is none."""
    found = re.search(item, sample.path.stem) if item else None
    return found.group() if found else str(sample.path)


def _write(sample: Sample, images: Path, masks: Path, name: str) -> None:
    _link(sample.path, images / f"{name}{sample.path.suffix}")
    if sample.mask is not None:
        _link(sample.mask, masks / f"{name}_mask{sample.mask.suffix}")


def _link(source: Path, target: Path) -> None:
    """A link to a file; a copy where the file system has none."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        target.symlink_to(source.resolve())
    except OSError:
        shutil.copyfile(source, target)
