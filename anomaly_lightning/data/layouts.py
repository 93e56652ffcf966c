"""The folder layouts of other published datasets, as categories."""

import csv
from dataclasses import dataclass
from pathlib import Path

from anomaly_lightning.data.masks import MaskFinder
from anomaly_lightning.data.samples import GOOD, Category, Sample
from anomaly_lightning.errors import DataError
from anomaly_lightning.runtime.files import images_in

VISA_SPLIT = Path("split_csv") / "1cls.csv"
VISA_DEFECT = "anomaly"  # the split file tells good from bad, not the types


@dataclass(frozen=True)
class Layout:
    """Where one category keeps what; all paths are relative to its folder.

    Attributes:
        train: Folders of normals to train on, of which the first must be there.
        test: Folder whose subfolders are the defect types.
        good: The subfolder of `test` with good parts.
        truth: Folder of masks, with the same subfolders as `test`.
    """

    train: tuple[str, ...]
    test: str
    good: str
    truth: str


LAYOUTS = {
    # Mishra et al., "VT-ADL", 2021.
    "btad": Layout(("train/ok",), "test", "ok", "ground_truth"),
    # Bergmann et al., "Beyond Dents and Scratches", 2022. Several masks an image, in a folder of its name. Its own
    # validation normals join the training normals: the run splits off its own.
    "mvtec_loco": Layout(("train/good", "validation/good"), "test", "good", "ground_truth"),
    # Heckler-Kram et al., "The MVTec AD 2 Dataset", 2025. The two private test sets have no labels and stay out.
    "mvtec_ad_2": Layout(("train/good", "validation/good"), "test_public", "good", "test_public/ground_truth"),
}


def read_layout(root: Path, name: str, layout: str) -> Category:
    """List one category of a known layout.

    Args:
        root: Folder of categories.
        name: The category, a folder below root.
        layout: "btad", "mvtec_loco", "mvtec_ad_2" or "visa".

    Raises:
        DataError: Unknown layout, or the folders or the split file are missing.
    """
    if layout == "visa":
        return _read_visa(root, name)
    if layout not in LAYOUTS:
        raise DataError(f"data.layout={layout}: expected one of {', '.join([*LAYOUTS, 'visa'])}.")
    known, folder = LAYOUTS[layout], root / name
    train = tuple(Sample(path) for part in known.train for path in images_in(folder / part))
    if not images_in(folder / known.train[0]):
        raise DataError(
            f"Layout {layout} expects images of good parts in {folder / known.train[0]}, but there are none. "
            f"Folders in {root}: {_folders(root)}."
        )
    return Category(name, train, _test(folder, known))


def _test(folder: Path, layout: Layout) -> tuple[Sample, ...]:
    """Test samples: the good parts first, then the defects by name."""
    test, truth = folder / layout.test, folder / layout.truth
    good = [Sample(path) for path in images_in(test / layout.good)]
    names = sorted(p.name for p in test.iterdir() if p.is_dir()) if test.is_dir() else []
    defects = [defect for defect in names if defect != layout.good and test / defect != truth]
    return tuple(good + [sample for defect in defects for sample in _defective(test / defect, truth / defect)])


def _defective(folder: Path, truth: Path) -> list[Sample]:
    finder = MaskFinder(truth) if truth.is_dir() else None
    images = images_in(folder)
    masks = [finder.find(path, Path(path.name)) if finder else None for path in images]
    return [Sample(path, folder.name, mask) for path, mask in zip(images, masks, strict=True)]


def _folders(root: Path) -> str:
    names = sorted(p.name for p in root.iterdir() if p.is_dir()) if root.is_dir() else []
    return ", ".join(names) or "none"


def _read_visa(root: Path, name: str) -> Category:
    """One object of VisA (Zou et al., "SPot-the-Difference", 2022) by its one-class split file."""
    file = root / VISA_SPLIT
    if not file.is_file():
        images, masks = (root / name / "Data" / part for part in ("Images", "Masks"))
        raise DataError(
            f"Layout visa expects {file}, which comes with the dataset, but it is not there. Else use data=folder "
            f"data.normal=[{images / 'Normal'}] data.abnormal={images / 'Anomaly'} data.masks={masks / 'Anomaly'}."
        )
    with file.open(encoding="utf-8-sig", newline="") as lines:
        rows = list(csv.DictReader(lines))
    wanted = {"object", "split", "label", "image", "mask"}
    if not rows or not wanted <= set(rows[0]):
        raise DataError(f"{file}: expected a table with the columns {', '.join(sorted(wanted))}.")
    mine = [row for row in rows if row["object"] == name]
    if not mine:
        raise DataError(f"{file} has no object {name}; it has {', '.join(sorted({row['object'] for row in rows}))}.")
    sets = {
        split: tuple(_visa_sample(root, row) for row in mine if row["split"] == split) for split in ("train", "test")
    }
    return Category(name, sets["train"], sets["test"])


def _visa_sample(root: Path, row: dict[str, str]) -> Sample:
    path, normal = root / row["image"], row["label"] == "normal"
    if not path.is_file():
        raise DataError(f"{root / VISA_SPLIT} lists {path}, but there is no such file.")
    mask = root / row["mask"] if row["mask"] and not normal else None
    return Sample(path, GOOD if normal else VISA_DEFECT, mask)
