"""Anybody's own images: folders of good parts, and maybe of defective ones, as a category."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from anomaly_lightning.data.exclusion import Exclusion
from anomaly_lightning.data.masks import CUSTOMARY, MaskFinder, looks_like_mask, masks_among
from anomaly_lightning.data.samples import GOOD, Category, Sample, Trouble, is_good
from anomaly_lightning.errors import DataError
from anomaly_lightning.runtime.files import IMAGE_SUFFIXES

UNNAMED_DEFECT = "defect"


def read_folder(
    name: str,
    normal: Sequence[Path],
    abnormal: Path | None = None,
    masks: Path | None = None,
    normal_test: Sequence[Path] = (),
    without: Exclusion | None = None,
) -> Category:
    """List images that lie in folders of one's own. Folders are read with all that is below them.

    Folders may lie inside one another: `normal` leaves out what belongs to the other three.

    Args:
        name: What the category is to be called.
        normal: Folders of images of good parts, for training and validation.
        abnormal: Folder of images of defective parts: its subfolders are the defect types (one named as in
            `GOOD_NAMES` holds good parts to test on); images directly in it are of the type "defect". None = no test of
            defects.
        masks: Folder of the defects' masks, named as `masks.CUSTOMARY` says, in the same subfolders or in none. It may
            be `abnormal` itself.
        normal_test: Folders of images of good parts that are kept for testing.
        without: Files that count as not there.

    Raises:
        DataError: A folder is missing or holds no image, or no mask fits any image.
    """
    if masks is not None and abnormal is None:
        raise DataError(f"data.masks={masks} needs data.abnormal, the folder of the images that the masks belong to.")
    without = without or Exclusion()
    others = [folder for folder in (abnormal, masks) if folder is not None]
    good = tuple(Sample(path) for path in _images(normal_test, "data.normal_test", others, without))
    train = tuple(Sample(path) for path in _images(normal, "data.normal", [*others, *normal_test], without))
    if not train:
        raise DataError(f"data.normal={_shown(normal)}: expected at least one folder of images of good parts.")
    defective, troubles = _abnormal(abnormal, masks, without)
    return Category(name, train, good + defective, tuple(troubles))


def _images(folders: Sequence[Path], key: str, others: Iterable[Path], without: Exclusion) -> list[Path]:
    """Images in some folders, each once, less those below other folders."""
    excluded = [folder.resolve() for folder in others]
    found: dict[Path, Path] = {}  # by what links lead to: two ways to one file are one image
    for folder in folders:
        kept = {p.resolve(): p for p in _all_in(folder, key, without)}
        kept = {real: p for real, p in kept.items() if not any(real.is_relative_to(e) for e in excluded)}
        if not kept:
            raise DataError(f"{key}={folder} holds only images that belong to {_shown(excluded)}, too.")
        found |= {real: p for real, p in kept.items() if real not in found}
    return list(found.values())


def _all_in(folder: Path, key: str, without: Exclusion) -> list[Path]:
    images = without.images_in(folder, recursive=True)
    if not images:
        what = f"holds no image ({', '.join(IMAGE_SUFFIXES)})" if folder.is_dir() else "is not a folder"
        raise DataError(f"{key}={folder} {what}. Expected a folder of images.")
    return images


def defects_in(folder: Path) -> tuple[Sample, ...]:
    """Images of defective parts in a folder, with all below it, and the masks that lie beside them.

    Neither masks nor images of good parts, which may lie there too, are among them. An image without a mask, or with
    several of one name, is listed without.
    """
    finder, images = MaskFinder(folder), Exclusion().images_in(folder, recursive=True)
    found = {path: finder.find(path, path.relative_to(folder)) for path in images if not looks_like_mask(path)}
    masks = {mask.resolve() for mask in found.values() if mask is not None}
    return tuple(
        Sample(path, defect, mask)
        for path, mask in found.items()
        if (defect := _defect(path, folder)) != GOOD and not masks & {path.resolve(), path.parent.resolve()}
    )


def _abnormal(
    folder: Path | None, masks: Path | None, without: Exclusion
) -> tuple[tuple[Sample, ...], Sequence[Trouble]]:
    """Samples of the folder of defective parts, and what is unclear about them."""
    if folder is None:
        return (), []
    images = _all_in(folder, "data.abnormal", without)
    if masks is None:
        samples = tuple(Sample(path, _defect(path, folder)) for path in images)
        return samples, masks_among(images, f"set data.masks={folder}")
    if not masks.is_dir():
        raise DataError(f"Expected masks in {masks}, but there is no such folder; check data.masks.")
    masks = folder if masks.samefile(folder) else masks
    finder = MaskFinder(masks, without)
    found = {path: finder.find(path, path.relative_to(folder)) for path in images if _defect(path, folder) != GOOD}
    excluded = any(path.is_relative_to(masks) for path in without.met)
    if not any(found.values()) and not finder.troubles and not excluded:
        like = next(iter(found), folder)
        raise DataError(
            f"data.masks={masks}: no mask fits an image of {folder} (like {like.name}). Expected {CUSTOMARY}."
        )
    # Masks that lie among the images are no images themselves.
    are_masks = {mask.resolve() for mask in found.values() if mask is not None}
    are_masks |= {mask.resolve() for trouble in finder.troubles for mask in trouble.paths[:-1]}
    truth = masks.resolve()
    beside = {p for p in images if p.resolve().is_relative_to(truth) and (masks != folder or looks_like_mask(p))}
    shown = [p for p in images if p not in beside and not are_masks & {p.resolve(), p.parent.resolve()}]
    return tuple(Sample(path, _defect(path, folder), found.get(path)) for path in shown), finder.troubles


def _defect(path: Path, folder: Path) -> str:
    """Defect type of an image: the name of the first folder on the way to it, "good" where that means good parts."""
    parts = path.relative_to(folder).parts
    if len(parts) == 1:
        return UNNAMED_DEFECT
    return GOOD if is_good(parts[0]) else parts[0]


def _shown(folders: Iterable[Path]) -> str:
    return f"[{', '.join(map(str, folders))}]"
