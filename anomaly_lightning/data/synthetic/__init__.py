"""Synthetic categories in MVNet layout: drawn in seconds, deterministic for a seed, with exact masks.

They let every command run where there are no images yet, and give tests something whose truth is known to the pixel.
They are written to a cache folder, so that the same code reads them as reads real images.
"""

import json
import shutil
import zlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from PIL import Image

from anomaly_lightning.data.samples import GOOD
from anomaly_lightning.data.synthetic.catalogue import RECIPES
from anomaly_lightning.data.synthetic.noise import Size
from anomaly_lightning.data.synthetic.specimen import Key, specimen
from anomaly_lightning.errors import DataError

__all__ = ["CATEGORIES", "GENERATOR_VERSION", "generate"]

CATEGORIES: tuple[str, ...] = tuple(RECIPES)

GENERATOR_VERSION = 1
"""To be raised by every change that changes an image: cached images of another version are left alone."""

SMALLEST_SIDE = 48
MANIFEST = "manifest.json"

Parameters = dict[str, int | str | list[int]]


def generate(
    root: Path,
    category: str,
    seed: int = 0,
    train: int = 100,
    test_good: int = 30,
    defects_each: int = 12,
    size: Size = (256, 256),
) -> Path:
    """Write one synthetic category below a cache folder, unless it is already there.

    The images lie in `<root>/<hash of the parameters>/<category>`. They are drawn into a hidden folder beside, which
    gets its name only when it is complete, so a run that was cut off leaves nothing that looks finished, and two
    processes may do this at once.

    Args:
        root: The cache folder; made if it is not there.
        category: One of CATEGORIES.
        seed: Seed of the data set; an image depends on it, its category, folder, number and size, on nothing else.
        train: Number of good images for training.
        test_good: Number of good test images.
        defects_each: Number of test images of each kind of defect.
        size: Height and width in pixels.

    Returns:
        The folder of categories to be used as data.root, `<root>/<hash of the parameters>`.

    Raises:
        DataError: There is no such category, or a count or size makes no sense.
    """
    counts = {"train": train, "test_good": test_good, "defects_each": defects_each}
    _check(category, seed, counts, size)
    common: Parameters = {"generator": GENERATOR_VERSION, "seed": seed, **counts, "size": list(size)}
    home = Path(root) / f"{zlib.crc32(json.dumps(common, sort_keys=True).encode()):08x}"
    keys = [
        Key(seed, category, split, defect, index, size)
        for split, defect, count in _folders(category, counts)
        for index in range(count)
    ]
    masks = sum(key.defect != GOOD for key in keys)
    manifest: Parameters = {**common, "category": category, "files": len(keys) + masks}
    if not _finished(home / category, manifest):
        _write_atomically(home / category, keys, manifest, Path(root))
    return home


def _check(category: str, seed: int, counts: Mapping[str, int], size: Size) -> None:
    if category not in CATEGORIES:
        raise DataError(
            f"There is no synthetic category '{category}'. Choose one of {', '.join(CATEGORIES)}, or state data.root "
            f"to use images of your own."
        )
    if seed < 0 or min(counts.values()) < 0 or counts["train"] < 1:
        given = ", ".join(f"{name}={count}" for name, count in {"seed": seed, **counts}.items())
        raise DataError(f"Synthetic images need train >= 1 and no negative number, but got {given}. Fix the counts.")
    if min(size) < SMALLEST_SIDE:
        raise DataError(
            f"Synthetic images need sides of at least {SMALLEST_SIDE} pixels, but got size={tuple(size)} "
            f"(height, width): below that the faint defects can't be seen. Choose a larger size."
        )


def _folders(category: str, counts: Mapping[str, int]) -> list[tuple[str, str, int]]:
    """Split, defect and number of images of each folder of a category."""
    broken = [("test", defect, counts["defects_each"]) for defect in RECIPES[category].defects]
    return [("train", GOOD, counts["train"]), ("test", GOOD, counts["test_good"]), *broken]


def _finished(folder: Path, manifest: Parameters) -> bool:
    """Whether a folder was completed with these parameters and has all its images still."""
    try:
        written = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    files = sum(1 for _ in folder.glob("*/*/*.png"))
    return bool(written == manifest and files == manifest["files"])


def _write_atomically(folder: Path, keys: list[Key], manifest: Parameters, root: Path) -> None:
    """Draw all images into a hidden folder on the same disk, then give it its name."""
    drawing = root / f".drawing-{uuid4().hex}"
    try:
        for key in keys:
            _save(drawing, key)
        (drawing / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
        _put_in_place(drawing, folder, manifest)
    finally:
        shutil.rmtree(drawing, ignore_errors=True)


def _put_in_place(drawing: Path, folder: Path, manifest: Parameters) -> None:
    """Rename a complete folder; if another process was faster its folder stays, a damaged one makes room."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    if folder.exists() and not _finished(folder, manifest):
        damaged = drawing.with_name(f".damaged-{uuid4().hex}")
        with suppress(FileNotFoundError):  # another process has just done the same
            folder.rename(damaged)
        shutil.rmtree(damaged, ignore_errors=True)
    try:
        drawing.replace(folder)
    except OSError:
        if not _finished(folder, manifest):
            raise


def _save(folder: Path, key: Key) -> None:
    """Draw one image and, if it is defective, its mask (0 and 255), as PNG."""
    drawn = specimen(key)
    name = f"{key.index:03d}"
    place = folder / key.split / key.defect
    place.mkdir(parents=True, exist_ok=True)
    Image.fromarray(drawn.image).save(place / f"{name}.png", compress_level=3)
    if key.defect != GOOD:
        truth = folder / "ground_truth" / key.defect
        truth.mkdir(parents=True, exist_ok=True)
        Image.fromarray(drawn.mask.astype("uint8") * 255).save(truth / f"{name}_mask.png", compress_level=3)
