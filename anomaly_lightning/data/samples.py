"""Folder layouts as lists of samples: pure functions that look at names, never into files."""

from dataclasses import dataclass
from pathlib import Path

from anomaly_lightning.errors import DataError
from anomaly_lightning.runtime.files import IMAGE_SUFFIXES, images_in

GOOD = "good"


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


@dataclass(frozen=True)
class Category:
    """What the layout of one category holds, before any split: training normals and test samples."""

    name: str
    train: tuple[Sample, ...]
    test: tuple[Sample, ...]


def categories_in(root: Path) -> list[str]:
    """Names of the folders below `root` that look like MVNet categories (they have train/good)."""
    if not root.is_dir():
        return []
    return sorted(p.name for p in root.iterdir() if (p / "train" / GOOD).is_dir())


def read_category(root: Path, name: str) -> Category:
    """List one category of the MVNet layout (that of MVTec AD).

    Args:
        root: Folder of categories.
        name: The category, a folder below root with train/good, test/<defect>, ground_truth/<defect>.

    Raises:
        DataError: The root or the category is not there, or holds no training images.
    """
    folder = root / name
    if not root.is_dir():
        raise DataError(f"data.root={root} is not a folder. Expected <root>/{name}/train/good/*.png; check data.root.")
    train = tuple(Sample(path) for path in images_in(folder / "train" / GOOD))
    if not train:
        raise DataError(_nothing_to_train_on(root, folder))
    test = [sample for defect in _defects(folder) for sample in _test_samples(folder, defect)]
    return Category(name, train, tuple(test))


def _nothing_to_train_on(root: Path, folder: Path) -> str:
    wanted = folder / "train" / GOOD
    what = (
        f"there is no folder {folder}"
        if not folder.is_dir()
        else f"there is no folder {wanted}"
        if not wanted.is_dir()
        else f"{wanted} holds no image ({', '.join(IMAGE_SUFFIXES)})"
    )
    others = categories_in(root)
    there = f"Categories in {root}: {', '.join(others)}." if others else f"No category was found in {root}."
    return f"Expected images of good parts in {wanted}, but {what}. {there}"


def _defects(folder: Path) -> list[str]:
    test = folder / "test"
    names = sorted(p.name for p in test.iterdir() if p.is_dir()) if test.is_dir() else []
    return sorted(names, key=lambda name: (name != GOOD, name))


def _test_samples(folder: Path, defect: str) -> list[Sample]:
    truth = {p.stem: p for p in images_in(folder / "ground_truth" / defect)}
    images = images_in(folder / "test" / defect)
    if defect == GOOD:
        return [Sample(path) for path in images]
    return [Sample(p, defect, truth.get(f"{p.stem}_mask", truth.get(p.stem))) for p in images]
