"""Masks and their images: which belongs to which, and whether they fit."""

import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from anomaly_lightning.data.samples import Sample
from anomaly_lightning.errors import DataError
from anomaly_lightning.runtime.files import images_in
from anomaly_lightning.runtime.reading import ImageError, image_size, read_mask, read_mask_values

# The customary names of a mask, by the stem of its image, in any case; the first that is there is taken.
MASK_NAMES = ("{}_mask", "{}_gt", "{}_label", "mask_{}", "gt_{}", "label_{}", "{}-mask", "{}_ground_truth", "{}")


def _plain(name: str) -> str:
    """A name without case and in one Unicode form: disks and archives change both."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


class MaskFinder:
    """The masks of one folder, found by their customary names.

    A mask is a file named as `MASK_NAMES` has it, or a folder of that name that holds several files. It stands in the
    same folder below `folder` as the image below its own, or in one above that; a folder of masks only in the same.

    Args:
        folder: Where the masks are, at any depth; one that is not there holds none.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._named: defaultdict[tuple[str, ...], set[Path]] = defaultdict(set)
        for file in images_in(folder, recursive=True):
            parent = file.parent.relative_to(folder)
            self._named[(*map(_plain, parent.parts), _plain(file.stem))].add(file)
            if parent.name:
                self._named[tuple(map(_plain, parent.parts))].add(file.parent)

    def find(self, image: Path, relative: Path) -> Path | None:
        """Mask of an image, None where there is none.

        Args:
            image: The image's file, which is never its own mask.
            relative: Its path below the folder of images.

        Raises:
            DataError: Several masks have the same name.
        """
        for parent in relative.parents:
            place = tuple(map(_plain, parent.parts))
            for name in (mask.format(relative.stem) for mask in MASK_NAMES):
                found = self._named.get((*place, _plain(name)), set()) - {image}
                if parent != relative.parent:
                    found = {path for path in found if not path.is_dir()}
                if len(found) > 1:  # names that differ by their case alone
                    found = {path for path in found if path.stem == name} or found
                if len(found) > 1:
                    listed = ", ".join(map(str, sorted(found)))
                    raise DataError(f"{image} has several masks of one name: {listed}. Keep one of them.")
                if found:
                    return found.pop()
        return None


def looks_like_mask(path: Path) -> bool:
    """Whether a file is named as a mask is, other than by its image's own name."""
    affixes = [name.split("{}") for name in MASK_NAMES if name != "{}"]
    stem = _plain(path.stem)
    return any(stem.startswith(before) and stem.endswith(behind) for before, behind in affixes)


def refuse_lookalikes(images: Sequence[Path], advice: str) -> None:
    """Raise `DataError` where masks that lie among the images would be taken for images.

    Args:
        images: All images of a set.
        advice: What to do where one is a mask, as words that follow "If it is,".
    """
    there = {(path.parent, _plain(path.stem)): path for path in images}
    for image in images:
        for name in MASK_NAMES[:-1]:
            mask = there.get((image.parent, _plain(name.format(image.stem))))
            if mask is not None:
                raise DataError(
                    f"Beside {image} lies an image named {mask.stem}, which looks like its mask. "
                    f"If it is, {advice}; if not, rename it."
                )


def shared_masks(samples: Iterable[Sample]) -> dict[Path, list[Path]]:
    """Masks that were found for several images, as happens where two images have the same stem, with the images."""
    owners: defaultdict[Path, list[Path]] = defaultdict(list)
    for sample in samples:
        if sample.mask is not None:
            owners[sample.mask].append(sample.path)
    return {mask: images for mask, images in owners.items() if len(images) > 1}


def words_of_shared(mask: Path, images: Sequence[Path]) -> str:
    """What is wrong with a mask that fits several images, and what to do."""
    return (
        f"One mask, {mask}, fits {' and '.join(map(str, images))} by its name. "
        "Rename the images, or put the masks into the same subfolders as the images."
    )


def refuse_shared_masks(samples: Iterable[Sample]) -> None:
    """Raise `DataError` where one mask was found for several images."""
    shared = shared_masks(samples)
    if shared:
        mask, images = next(iter(shared.items()))
        more = f" So do {len(shared) - 1} more masks." if len(shared) > 1 else ""
        raise DataError(words_of_shared(mask, images) + more)


@dataclass(frozen=True)
class MaskCheck:
    """What reading every mask told.

    Attributes:
        unreadable: Masks that can't be read, with the reason.
        unfit: Masks of another size than their images, with the two sizes in words.
        remarks: Lines about what is odd and may be right.
    """

    unreadable: dict[Path, str]
    unfit: dict[Path, str]
    remarks: list[str]

    def note(self) -> str | None:
        """Which masks count for nothing in the metrics, for metrics.json; None where all do."""
        gone = [f"{mask} {why}" for mask, why in self.unfit.items()]
        gone += [f"{mask} can't be read ({why})" for mask, why in self.unreadable.items()]
        return f"{len(gone)} mask(s) are left out of the pixel metrics: {'; '.join(gone)}" if gone else None


def check_masks(samples: Iterable[Sample]) -> MaskCheck:
    """Read every mask, before anything is trained.

    Args:
        samples: All samples of a set; an image that can't be read is left to its own check.

    Returns:
        Remarks are: all black, all white, more than two values, a defect without a mask, a mask with defect pixels for
        a good part.
    """
    found = MaskCheck({}, {}, [])
    for sample in samples:
        if sample.mask is None:
            if sample.label:
                found.remarks.append(f"{sample.path}: an image of a defect ({sample.defect}) without a mask")
            continue
        try:
            mask = read_mask(sample.mask)
            odd = [line for part in mask_files(sample.mask) for line in _odd_values(part)]
        except ImageError as error:
            found.unreadable[sample.mask] = error.reason
            continue
        with suppress(ImageError):
            height, width = image_size(sample.path)
            if mask.shape != (height, width):
                sizes = f"is {mask.shape[1]}x{mask.shape[0]}, but its image {sample.path} is {width}x{height}"
                found.unfit[sample.mask] = sizes
        found.remarks.extend(f"{sample.mask}: {line}" for line in _misfits(sample, mask) + odd)
    return found


def mask_files(mask: Path | None) -> list[Path]:
    """Files that make a mask together: none, one, or those of a folder in natural order."""
    if mask is None:
        return []
    return images_in(mask) if mask.is_dir() else [mask]


def _misfits(sample: Sample, mask: NDArray[np.bool_]) -> list[str]:
    found = []
    if sample.label and not mask.any():
        found.append(f"is all black, but its image {sample.path} shows a defect ({sample.defect})")
    if not sample.label and mask.any():
        found.append(f"marks a defect, but its image {sample.path} is of a good part")
    if mask.all():
        found.append("marks the whole image")
    return found


def _odd_values(file: Path) -> list[str]:
    values = np.unique(read_mask_values(file))
    if len(values) <= 2:
        return []
    span = f"{len(values)} different values from {values[0]} to {values[-1]}"
    return [f"{file.name} holds {span}; expected two, every one but 0 counts as defect"]
