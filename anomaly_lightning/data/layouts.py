"""The folder layouts of published datasets, that of MVNet among them, as categories."""

import csv
from dataclasses import dataclass
from pathlib import Path

from anomaly_lightning.data.masks import MaskFinder, refuse_lookalikes
from anomaly_lightning.data.samples import GOOD, Category, Sample, is_good
from anomaly_lightning.errors import DataError
from anomaly_lightning.runtime.files import IMAGE_SUFFIXES, folders_in, images_in

VISA_SPLIT = Path("split_csv") / "1cls.csv"
VISA_DEFECT = "anomaly"  # the split file tells good from bad, not the types


@dataclass(frozen=True)
class Layout:
    """Where one category keeps what; all paths are relative to its folder.

    Attributes:
        train: Folders whose subfolders named like good parts hold normals to train on; the first must hold some.
        test: Folder whose subfolders are the defect types, or good parts by their names.
        good: What the dataset calls good parts; all of `GOOD_NAMES` are taken.
        truth: Folder of masks, with the same subfolders as `test`.
    """

    train: tuple[str, ...] = ("train",)
    test: str = "test"
    good: str = GOOD
    truth: str = "ground_truth"


MVNET = Layout()  # that of MVTec AD (Bergmann et al., 2019), too
LAYOUTS = {
    # Mishra et al., "VT-ADL", 2021.
    "btad": Layout(good="ok"),
    # Bergmann et al., "Beyond Dents and Scratches", 2022. Several masks an image, in a folder of its name. Its own
    # validation normals join the training normals: the run splits off its own.
    "mvtec_loco": Layout(("train", "validation")),
    # Heckler-Kram et al., "The MVTec AD 2 Dataset", 2025. The two private test sets have no labels and stay out.
    "mvtec_ad_2": Layout(("train", "validation"), "test_public", truth="test_public/ground_truth"),
}


def categories_in(root: Path) -> list[str]:
    """Names of the folders below `root` that look like MVNet categories (they have train/good)."""
    return [folder.name for folder in folders_in(root) if any(is_good(p.name) for p in folders_in(folder / "train"))]


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
    train = _train(folder, MVNET)
    if not train:
        raise DataError(_nothing_to_train_on(root, folder))
    return Category(name, train, _test(folder, MVNET))


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
    first = folder / known.train[0]
    train = _train(folder, known)
    if not any(sample.path.is_relative_to(first) for sample in train):
        raise DataError(
            f"Layout {layout} expects images of good parts in {first / known.good}, but there are none. "
            f"Folders in {root}: {_folders(root)}."
        )
    return Category(name, train, _test(folder, known))


def _train(folder: Path, layout: Layout) -> tuple[Sample, ...]:
    """Training normals, those in subfolders included."""
    places = [place for part in layout.train for place in folders_in(folder / part) if is_good(place.name)]
    return tuple(Sample(path) for place in places for path in images_in(place, recursive=True))


def _test(folder: Path, layout: Layout) -> tuple[Sample, ...]:
    """Test samples: the good parts first, then the defects by name."""
    test, truth = folder / layout.test, folder / layout.truth
    places = sorted((p for p in folders_in(test) if p != truth), key=lambda place: not is_good(place.name))
    finder, found = MaskFinder(truth), list[Sample]()
    for place in places:
        for path in images_in(place, recursive=True):
            good = is_good(place.name)
            mask = None if good else finder.find(path, path.relative_to(test))
            found.append(Sample(path, GOOD if good else place.name, mask))
    refuse_lookalikes([sample.path for sample in found], f"move it to {truth}")
    return tuple(found)


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


def _folders(root: Path) -> str:
    names = [folder.name for folder in folders_in(root)]
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
