"""What a category is: samples, and the names that good parts go by."""

from dataclasses import dataclass
from pathlib import Path

GOOD = "good"
GOOD_NAMES = (GOOD, "ok", "normal")  # customary names of good parts, in any case


@dataclass(frozen=True)
class Sample:
    """One image.

    Attributes:
        path: The image's file.
        defect: Name of the defect type, "good" for none.
        mask: File of the defect's mask (non-zero = defect), or a folder of several that make one together; None where
            there is none.
    """

    path: Path
    defect: str = GOOD
    mask: Path | None = None

    @property
    def label(self) -> bool:
        """Whether the image shows a defect."""
        return self.defect != GOOD


def is_good(name: str) -> bool:
    """Whether a folder or a table calls good parts so."""
    return name.strip().casefold() in GOOD_NAMES


@dataclass(frozen=True)
class Category:
    """What the layout of one category holds, before any split: training normals and test samples."""

    name: str
    train: tuple[Sample, ...]
    test: tuple[Sample, ...]
