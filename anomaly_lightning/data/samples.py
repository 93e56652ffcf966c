"""What a category is: samples, and the names that good parts go by."""

import re
from dataclasses import dataclass, field
from pathlib import Path

GOOD = "good"
LISTED_TWICE = "listed_twice"  # kind of trouble: a table names a file more than once
# Customary names of good parts, without case, spaces and signs: "Defect-free" and "i.O." are among them.
GOOD_NAMES = (
    *(GOOD, "goods", "ok", "okay", "io", "normal", "normals", "pass", "passed", "none", "clean", "healthy", "intact"),
    *("undamaged", "nodefect", "nodefects", "nondefect", "nondefective", "defectfree", "faultless", "faultfree"),
    *("noanomaly", "nonanomalous", "anomalyfree"),
)


class _KeptAsText:
    """A path of an object that there may be a million of: text takes a quarter of a `Path`'s memory."""

    def __get__(self, sample: "Sample | None", owner: type | None = None) -> Path:
        if sample is None:  # a field without a default, as dataclasses ask for it
            raise AttributeError("path")
        return Path(sample.file)

    def __set__(self, sample: "Sample", path: Path) -> None:
        object.__setattr__(sample, "file", str(path))


@dataclass(frozen=True)
class Sample:
    """One image.

    Attributes:
        path: The image's file, a new object whenever it is asked for.
        file: The same as text, the object that is kept.
        defect: Name of the defect type, "good" for none.
        mask: File of the defect's mask (non-zero = defect), or a folder of several that make one together; None where
            there is none.
    """

    path: _KeptAsText = _KeptAsText()
    defect: str = GOOD
    mask: Path | None = None
    file: str = field(init=False, repr=False, compare=False)

    @property
    def label(self) -> bool:
        """Whether the image shows a defect."""
        return self.defect != GOOD


def is_good(name: str) -> bool:
    """Whether a folder or a table calls good parts so."""
    return re.sub(r"[\W_]+", "", name).casefold() in GOOD_NAMES


@dataclass(frozen=True)
class Trouble:
    """Files that leave open what belongs to what. Training refuses them, the audit lists them.

    Attributes:
        kind: "mask_shared", "mask_several", "mask_as_image" or `LISTED_TWICE`.
        paths: The files that it is about.
        words: What is wrong, and what to do, without a full stop.
        exclude: Those that have to be left out so that the rest is clear.
    """

    kind: str
    paths: tuple[Path, ...]
    words: str
    exclude: tuple[Path, ...]


@dataclass(frozen=True)
class Category:
    """What the layout of one category holds, before any split: training normals and test samples.

    Attributes:
        troubles: What has to be cleared before anything is trained on it.
    """

    name: str
    train: tuple[Sample, ...]
    test: tuple[Sample, ...]
    troubles: tuple[Trouble, ...] = ()
