"""The folder layouts of published datasets, that of MVNet among them, as categories."""

import csv
from dataclasses import dataclass
from pathlib import Path

from anomaly_lightning.data.exclusion import Exclusion
from anomaly_lightning.data.masks import TRUTHS, MaskFinder, masks_among, plain_name
from anomaly_lightning.data.samples import GOOD, Category, Sample, Trouble, is_good
from anomaly_lightning.errors import DataError
from anomaly_lightning.runtime.files import IMAGE_SUFFIXES, folders_in, on_disk

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


def read_category(root: Path, name: str, without: Exclusion | None = None) -> Category:
    """List one category of the MVNet layout (that of MVTec AD).

    Args:
        root: Folder of categories.
        name: The category, a folder below root with train/good, test/<defect>, ground_truth/<defect>.
        without: Files that count as not there.

    Raises:
        DataError: The root or the category is not there, or holds no training images.
    """
    folder, without = on_disk(root / name), without or Exclusion()
    if not root.is_dir():
        raise DataError(f"data.root={root} is not a folder. Expected <root>/{name}/train/good/*.png; check data.root.")
    train = _train(folder, MVNET, without)
    if not train:
        raise DataError(_nothing_to_train_on(root, folder))
    return Category(name, train, *_test(folder, MVNET, without))


def read_layout(root: Path, name: str, layout: str, without: Exclusion | None = None) -> Category:
    """List one category of a known layout.

    Args:
        root: Folder of categories.
        name: The category, a folder below root.
        layout: "btad", "mvtec_loco", "mvtec_ad_2" or "visa".
        without: Files that count as not there.

    Raises:
        DataError: Unknown layout, or the folders or the split file are missing.
    """
    without = without or Exclusion()
    if layout == "visa":
        return _read_visa(root, name, without)
    if layout not in LAYOUTS:
        raise DataError(f"data.layout={layout}: expected one of {', '.join([*LAYOUTS, 'visa'])}.")
    known, folder = LAYOUTS[layout], on_disk(root / name)
    first = folder / known.train[0]
    train = _train(folder, known, without)
    if not any(sample.path.is_relative_to(first) for sample in train):
        raise DataError(
            f"Layout {layout} expects images of good parts in {first / known.good}, but there are none. "
            f"Folders in {root}: {_folders(root)}."
        )
    return Category(name, train, *_test(folder, known, without))


def _train(folder: Path, layout: Layout, without: Exclusion) -> tuple[Sample, ...]:
    """Training normals, those in subfolders included."""
    places = [place for part in layout.train for place in folders_in(folder / part) if is_good(place.name)]
    return tuple(Sample(path) for place in places for path in without.images_in(place, recursive=True))


def _test(folder: Path, layout: Layout, without: Exclusion) -> tuple[tuple[Sample, ...], tuple[Trouble, ...]]:
    """Test samples, the good parts first, then the defects by name, and what is unclear about them."""
    test, truth = folder / layout.test, folder / layout.truth
    places = sorted((p for p in folders_in(test) if p != truth), key=lambda place: not is_good(place.name))
    finder, found, troubles = MaskFinder(truth, without), list[Sample](), list[Trouble]()
    for place in places:
        good, images = is_good(place.name), without.images_in(place, recursive=True)
        if images and plain_name(place.name) in TRUTHS:
            words = f"{place} is named as a folder of masks is, among the test images. Move it to {truth}, or rename it"
            troubles.append(Trouble("mask_as_image", (place,), words, (place,)))
            continue
        for path in images:
            mask = None if good else finder.find(path, path.relative_to(test))
            found.append(Sample(path, GOOD if good else place.name, mask))
    troubles += masks_among([sample.path for sample in found], f"move it to {truth}")
    return tuple(found), (*troubles, *finder.troubles)


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


def _read_visa(root: Path, name: str, without: Exclusion) -> Category:
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
    kept = [(row["split"], _visa_sample(root, row, without)) for row in mine if without.keeps(root / row["image"])]
    sets = {part: tuple(sample for split, sample in kept if split == part) for part in ("train", "test")}
    return Category(name, sets["train"], sets["test"])


def _visa_sample(root: Path, row: dict[str, str], without: Exclusion) -> Sample:
    path, normal = root / row["image"], is_good(row["label"])
    if not path.is_file():
        raise DataError(f"{root / VISA_SPLIT} lists {path}, but there is no such file.")
    mask = root / row["mask"] if row["mask"] and not normal else None
    return Sample(path, GOOD if normal else VISA_DEFECT, mask if mask is not None and without.keeps(mask) else None)
