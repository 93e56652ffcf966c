"""Files as such: which are images, in which order they come, and what tells one content from another.

What belongs to a folder of images is decided here and nowhere else. Nothing below a hidden folder or one that a system
keeps is data, nor is what this program wrote. Links are followed, each folder is read once.
"""

import hashlib
import os
import re
import unicodedata
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

from anomaly_lightning.runtime.damage import ImageError

# Each format that is decoded (Pillow's names), and what its files are called.
SUFFIXES = {
    "PNG": (".png", ".apng"),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
    "GIF": (".gif",),
    "JPEG2000": (".jp2", ".j2k", ".jpc", ".jpf", ".jpx", ".j2c"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
}
IMAGE_SUFFIXES = tuple(suffix for suffixes in SUFFIXES.values() for suffix in suffixes)

# Folders that systems and storage devices make beside anybody's files, without case: thumbnails, deleted files.
SYSTEM = (
    *("__macosx", "$recycle.bin", "recycler", "system volume information", "lost+found"),
    *("@eadir", "#recycle", "#snapshot", "@recycle", "@recently-snapshot"),
)
# A folder with one of these holds the outputs of a run, of evaluate, predict or line, its images in OUTPUTS.
MARKERS = (
    "run.json",
    "metrics.json",
    "predictions.csv",
    "decisions.csv",
    "decisions.jsonl",
    "journal.jsonl",
    "evaluation.json",
    "scoring.json",
    ".hydra",
)
OUTPUTS = ("heatmaps", "masks", "maps", "panels", "checkpoints", "tensorboard")
# A folder with one of these was written as a whole: a cache (https://bford.info/cachedir), a bundle.
CACHE_TAG = "CACHEDIR.TAG"
WHOLE = (CACHE_TAG, "bundle.json")

HIDDEN = "hidden, or kept by the system"
OWN = "written by a run or by predict"
ABOVE = "linked to a folder that holds this one"
NOWHERE = "linked to nothing"
CLOSED = "in a folder that can't be opened"


def natural_key(path: Path) -> str:
    """Sorting key that puts 2.png before 10.png; digits compare as numbers, the rest without case.

    One text, since a list of parts takes more memory, and there may be millions: a number stands in it behind a
    character that no name holds and the count of its digits.
    """
    return re.sub(r"\d+", _number, path.as_posix().lower())


def _number(digits: re.Match[str]) -> str:
    plain = str(int(digits[0]))
    return f"\0{chr(len(plain))}{plain}"


def is_image(path: Path) -> bool:
    """Whether a file is named like an image that can be decoded."""
    return path.suffix.lower() in IMAGE_SUFFIXES


def images_in(folder: Path, recursive: bool = False) -> list[Path]:
    """Image files that belong to a folder, in natural order.

    Args:
        folder: Where to look; a folder that does not exist holds nothing.
        recursive: Whether to look into folders below, too, links to folders included.
    """
    return sorted((path for path, why in _walk(folder, recursive) if why is None), key=natural_key)


def left_out_of(folder: Path) -> dict[str, list[Path]]:
    """Images at any depth of a folder that are no data, in natural order, by the reason: `HIDDEN`, `OWN`, ..."""
    found: dict[str, list[Path]] = {}
    for path, why in _walk(folder, recursive=True):
        if why is not None:
            found.setdefault(why, []).append(path)
    return {why: sorted(paths, key=natural_key) for why, paths in found.items()}


def walked(folder: Path) -> Iterator[tuple[Path, str | None]]:
    """Images at any depth of a folder, one after the other, each with why it is no data, None where it is.

    Folder by folder and by name within each: no more is held in memory than the names in one folder. What
    `images_in` and `left_out_of` give, but for the order.
    """
    yield from _walk(folder, recursive=True)


def folders_in(folder: Path) -> list[Path]:
    """Folders directly in a folder that may hold data, by name, links included."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if not is_hidden(path.name) and path.is_dir())


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is never data."""
    return name.startswith(".") or name.lower() in SYSTEM


def is_own(folder: Path) -> bool:
    """Whether the images of a folder were written by a run, evaluate or predict, or are a cache or a bundle."""
    marked = folder.name in OUTPUTS and any((folder.parent / name).exists() for name in MARKERS)
    return marked or any((folder / name).is_file() for name in WHOLE)


def why_left_out(path: Path, base: Path) -> str | None:
    """Why a file below a folder is no data, as `left_out_of(base)` would have it for what is in it; None where it is.

    Raises:
        ValueError: It does not lie below `base`.
    """
    parts = path.relative_to(base).parts
    if any(is_hidden(part) for part in parts):
        return HIDDEN
    return OWN if any(is_own(base.joinpath(*parts[:count])) for count in range(1, len(parts))) else None


def mark_cache(folder: Path) -> None:
    """Say in a folder that it is a cache, so that its images are never taken for data, nor backed up."""
    folder.mkdir(parents=True, exist_ok=True)
    tag = folder / CACHE_TAG
    if not tag.exists():
        tag.write_text("Signature: 8a477f597d28d172789f06886806bc55\n", encoding="ascii")


def on_disk(path: Path) -> Path:
    """The path as the disk spells it: a name of the same letters in another Unicode form is the same name.

    A path that is not there in any form stays as it is.
    """
    if path.exists() or path.parent == path:
        return path
    parent, wanted = on_disk(path.parent), unicodedata.normalize("NFC", path.name)
    there = parent.iterdir() if parent.is_dir() and os.access(parent, os.R_OK) else ()
    return next((found for found in there if unicodedata.normalize("NFC", found.name) == wanted), path)


def _walk(folder: Path, recursive: bool) -> Iterator[tuple[Path, str | None]]:
    """Images, each with why it is no data, None where it is.

    Folders in the order of their claim to what is in them: those that are there, links, those that are left out.
    """
    root, seen = folder.resolve(), set[Path]()
    waiting: tuple[deque[tuple[Path, str | None]], ...] = (deque([(folder, None)]), deque(), deque())
    while any(waiting):
        place, why = next(queue for queue in waiting if queue).popleft()
        if (real := place.resolve()) in seen or (place != folder and root.is_relative_to(real)):
            if real != root and real not in seen:
                yield place, ABOVE
            continue
        seen.add(real)
        try:
            entries = sorted(os.scandir(place), key=lambda entry: entry.name) if place.is_dir() else []
        except OSError:
            yield place, CLOSED
            continue
        there = {entry.name for entry in entries}
        marked = not there.isdisjoint(MARKERS)
        if place != folder and not there.isdisjoint(WHOLE):
            why = why or OWN
        for entry in entries:
            reason = why or (HIDDEN if is_hidden(entry.name) else None)
            path = place / entry.name
            if _leads_to(entry.is_dir):
                reason = reason or (OWN if marked and entry.name in OUTPUTS else None)
                if recursive:
                    waiting[2 if reason else int(entry.is_symlink())].append((path, reason))
            elif _leads_to(entry.is_file):
                if is_image(path):
                    yield path, reason
            elif entry.is_symlink() and (is_image(path) or not path.suffix):  # it led to an image, or to a folder
                yield path, reason or NOWHERE


def _leads_to(kind: Callable[[], bool]) -> bool:
    """What an entry of a folder says of itself; False for a link that leads in a circle."""
    try:
        return kind()
    except OSError:
        return False


def content_hash(path: Path) -> str:
    """Hex sha256 of the file's bytes.

    Raises:
        ImageError: The file can't be opened.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ImageError(path, error.strerror or str(error)) from error
