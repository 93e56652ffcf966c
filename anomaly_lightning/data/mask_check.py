"""Whether masks can be read and fit their images: every mask is read before anything is trained."""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from anomaly_lightning.data.samples import Sample
from anomaly_lightning.runtime.files import images_in
from anomaly_lightning.runtime.reading import ImageError, image_size, read_mask, read_mask_values


@dataclass(frozen=True)
class MaskCheck:
    """What reading every mask told.

    Attributes:
        unreadable: Masks that can't be read, with the reason.
        unfit: Masks of another size than their images, with the two sizes in words.
        missing: Images of defects that have no mask.
        defects: How many images of defects there are.
        remarks: Lines about what is odd and may be right.
    """

    unreadable: dict[Path, str] = field(default_factory=dict)
    unfit: dict[Path, str] = field(default_factory=dict)
    missing: list[Path] = field(default_factory=list)
    defects: int = 0
    remarks: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """All of it in words, a line for each mask, and one for all images that have none."""
        found = [f"{mask} {why}; it is left out of the pixel metrics" for mask, why in self.unfit.items()]
        found += [f"{mask} can't be read ({why}); it counts as no mask" for mask, why in self.unreadable.items()]
        if self.missing:
            named = f", the first of them {self.missing[0]}"
            found.append(
                f"{len(self.missing)} of {self.defects} images of defects have no mask{named}; they are left out of "
                "the pixel metrics"
            )
        return found + self.remarks


def check_masks(samples: Iterable[Sample]) -> MaskCheck:
    """Read every mask, before anything is trained.

    Args:
        samples: All samples of a set; an image that can't be read is left to its own check.

    Returns:
        Remarks are: all black, all white, more than two values, a mask with defect pixels for a good part.
    """
    listed = list(samples)
    found = MaskCheck(defects=sum(sample.label for sample in listed))
    for sample in listed:
        if sample.mask is not None:
            _check(sample, sample.mask, found)
        elif sample.label:
            found.missing.append(sample.path)
    return found


def _check(sample: Sample, path: Path, found: MaskCheck) -> None:
    """Put into `found` what there is to say of one mask."""
    try:
        mask = read_mask(path)
        odd = [line for part in mask_files(path) for line in _odd_values(part)]
    except ImageError as error:
        found.unreadable[path] = error.reason
        return
    with suppress(ImageError):
        height, width = image_size(sample.path)
        if mask.shape != (height, width):
            found.unfit[path] = f"is {mask.shape[1]}x{mask.shape[0]}, but its image {sample.path} is {width}x{height}"
            return
    found.remarks.extend(f"{path}: {line}" for line in _misfits(sample, mask) + odd)


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
