"""What lies beside the data and is none: hidden, a run's own outputs, masks without an image, images of no set."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from anomaly_lightning.data.exclusion import Exclusion
from anomaly_lightning.data.layouts import LAYOUTS, MVNET
from anomaly_lightning.data.mask_check import mask_files
from anomaly_lightning.data.samples import Category, is_good
from anomaly_lightning.runtime.files import images_in, on_disk
from anomaly_lightning.runtime.left_out import LeftOut, left_out_below

UNMATCHED = "masks that fit no image by their names, or one that has a mask already"
FOR_GOOD = "masks of good parts, which show no defect"
UNUSED = "in folders that this layout does not use"


def left_out(category: Category, settings: Mapping[str, Any], without: Exclusion) -> tuple[LeftOut, ...]:
    """Everything that looks like an image in a category's folders but is neither a sample nor the mask of one.

    Args:
        category: What was read.
        settings: Plain `layout` and places that it was read from.
        without: Files that count as not there.
    """
    places, truths = _places(category, settings)
    used = {path.resolve() for path in _used(category)}
    recursive = settings["layout"] != "manifest"  # a table may lie anywhere, and names what it wants
    there = dict.fromkeys(path for place in places for path in without.images_in(place, recursive))
    rest = {path: _why_unused(path, truths) for path in there if path.resolve() not in used}
    found = left_out_below(places) if recursive else []
    for why in (UNMATCHED, FOR_GOOD, UNUSED):
        paths = tuple(path for path, reason in rest.items() if reason == why)
        found += [LeftOut(why, paths)] if paths else []
    return tuple(found)


def _used(category: Category) -> Iterator[Path]:
    """Files of a category's samples and masks, and those whose use is for the user to clear."""
    for sample in category.train + category.test:
        yield sample.path
        yield from mask_files(sample.mask)
    for path in (path for trouble in category.troubles for path in trouble.paths):
        yield from images_in(path, recursive=True) if path.is_dir() else [path]


def _why_unused(path: Path, truths: Sequence[Path]) -> str:
    """Why an image file that is neither a sample nor a mask is not used."""
    truth = next((truth for truth in truths if path.is_relative_to(truth)), None)
    if truth is None:
        return UNUSED
    return FOR_GOOD if is_good(path.relative_to(truth).parts[0]) else UNMATCHED


def _places(category: Category, settings: Mapping[str, Any]) -> tuple[Sequence[Path], Sequence[Path]]:
    """Folders that a category was read from, and those of them that hold masks."""
    layout = settings["layout"]
    if layout == "folder":
        normals = [Path(folder) for key in ("normal", "normal_test") for folder in settings[key] or []]
        masks = [Path(settings["masks"])] if settings["masks"] else []
        abnormal = [Path(settings["abnormal"])] if settings["abnormal"] else []
        return normals + abnormal + masks, masks
    if layout == "manifest":
        holding = {sample.mask.parent for sample in category.test if sample.mask is not None}
        alone = sorted(holding - {sample.path.parent for sample in category.train + category.test})
        return alone, alone
    folder = on_disk(Path(settings["root"]) / category.name)
    return [folder], [folder / ("Data/Masks" if layout == "visa" else LAYOUTS.get(layout, MVNET).truth)]
