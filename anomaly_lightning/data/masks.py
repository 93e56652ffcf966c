"""Masks and their images: which belongs to which, and whether they fit."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from anomaly_lightning.data.samples import Sample
from anomaly_lightning.errors import DataError
from anomaly_lightning.runtime.files import images_in
from anomaly_lightning.runtime.reading import ImageError, image_size, read_mask, read_mask_values

# The customary names of a mask, by the stem of its image; the first that is there is taken.
MASK_NAMES = ("{}_mask", "{}_gt", "{}_label", "mask_{}", "{}")


class MaskFinder:
    """The masks of one folder, found by their customary names.

    A mask is a file named as `MASK_NAMES` has it, or a folder of that name that holds several files. It stands in the
    same folder below `folder` as the image below its own, or directly in `folder`.

    Args:
        folder: Where the masks are, at any depth.

    Raises:
        DataError: The folder is not there.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise DataError(f"Expected masks in {folder}, but there is no such folder; check data.masks.")
        self.folder = folder
        self._named: defaultdict[tuple[Path, str], set[Path]] = defaultdict(set)
        for file in images_in(folder, recursive=True):
            parent = file.parent.relative_to(folder)
            self._named[parent, file.stem].add(file)
            if parent.name:
                self._named[parent.parent, parent.name].add(file.parent)

    def find(self, image: Path, relative: Path) -> Path | None:
        """Mask of an image, None where there is none.

        Args:
            image: The image's file, which is never its own mask.
            relative: Its path below the folder of images.

        Raises:
            DataError: Several masks have the same name.
        """
        for parent in dict.fromkeys((relative.parent, Path())):
            for name in MASK_NAMES:
                found = self._named.get((parent, name.format(relative.stem)), set()) - {image}
                if len(found) > 1:
                    listed = ", ".join(map(str, sorted(found)))
                    raise DataError(f"{image} has several masks of one name: {listed}. Keep one of them.")
                if found:
                    return found.pop()
        return None


def refuse_shared_masks(samples: Iterable[Sample]) -> None:
    """Raise `DataError` where one mask was found for two images, as happens when two folders hold the same names."""
    shared = Counter(sample.mask for sample in samples if sample.mask is not None)
    twice = [mask for mask, count in shared.items() if count > 1]
    if twice:
        owners = [str(sample.path) for sample in samples if sample.mask == twice[0]]
        raise DataError(
            f"One mask, {twice[0]}, fits {' and '.join(owners)} by its name. "
            "Put the masks into the same subfolders as the images."
        )


def check_masks(samples: Iterable[Sample]) -> list[str]:
    """Look for masks that do not fit, before anything is trained; every file is read.

    Args:
        samples: All samples of a category.

    Returns:
        One line a finding: another size than the image's, all black, all white, more than two values, unreadable,
        a mask without an image, a defect without a mask, a mask with defect pixels for a good part.
    """
    listed = list(samples)
    findings = [line for sample in listed for line in _findings(sample)]
    return findings + [f"{mask}: a mask without an image" for mask in _without_image(listed)]


def _findings(sample: Sample) -> list[str]:
    if sample.mask is None:
        return [f"{sample.path}: an image of a defect ({sample.defect}) without a mask"] if sample.label else []
    try:
        return [f"{sample.mask}: {finding}" for finding in _misfits(sample, sample.mask)]
    except ImageError as error:
        return [str(error)]


def _misfits(sample: Sample, file: Path) -> list[str]:
    mask = read_mask(file)
    height, width = image_size(sample.path)
    found = []
    if mask.shape != (height, width):
        found.append(f"is {mask.shape[1]}x{mask.shape[0]}, but its image {sample.path} is {width}x{height}")
    if sample.label and not mask.any():
        found.append(f"is all black, but its image {sample.path} shows a defect ({sample.defect})")
    if not sample.label and mask.any():
        found.append(f"marks a defect, but its image {sample.path} is of a good part")
    if mask.all():
        found.append("marks the whole image")
    return found + [line for part in (images_in(file) if file.is_dir() else [file]) for line in _odd_values(part)]


def _odd_values(file: Path) -> list[str]:
    values = np.unique(read_mask_values(file))
    if len(values) <= 2:
        return []
    span = f"{len(values)} different values from {values[0]} to {values[-1]}"
    return [f"{file.name} holds {span}; expected two, every one but 0 counts as defect"]


def _without_image(samples: list[Sample]) -> list[Path]:
    """Files and folders beside the masks that are nobody's mask, nor an image themselves."""
    masks = {sample.mask for sample in samples if sample.mask is not None}
    known = masks | {sample.path for sample in samples}
    beside = {entry for folder in {mask.parent for mask in masks} for entry in images_in(folder)}
    folders = {mask.parent for mask in masks if mask.is_dir()}
    beside |= {entry for folder in folders for entry in folder.iterdir() if entry.is_dir() and images_in(entry)}
    return sorted(beside - known)
