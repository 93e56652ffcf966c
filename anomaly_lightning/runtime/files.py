"""Files as such: which are images, in which order they come, and what tells one content from another."""

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path

from anomaly_lightning.runtime.damage import ImageError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")


def natural_key(path: Path) -> tuple[tuple[int, int | str], ...]:
    """Sorting key that puts 2.png before 10.png; digits compare as numbers, the rest without case."""
    parts = re.split(r"(\d+)", path.as_posix().lower())
    return tuple((0, int(part)) if part.isdigit() else (1, part) for part in parts)


def images_in(folder: Path, recursive: bool = False) -> list[Path]:
    """Image files of a folder in natural order; hidden files are left out.

    Args:
        folder: Where to look; a folder that does not exist holds nothing.
        recursive: Whether to look into folders below, too.
    """
    found: Iterable[Path] = folder.rglob("*") if recursive else folder.glob("*")
    images = (p for p in found if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith(".") and p.is_file())
    return sorted(images, key=natural_key)


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


class ContentHashes:
    """Content hashes of files, each computed once as long as the file's size and time of change stay."""

    def __init__(self) -> None:
        self._known: dict[tuple[Path, int, int], str] = {}

    def __call__(self, path: Path) -> str:
        """Hex sha256 of the file's bytes; raises `ImageError` where it can't be opened."""
        try:
            status = path.stat()
        except OSError as error:
            raise ImageError(path, error.strerror or str(error)) from error
        known = (path, status.st_size, status.st_mtime_ns)
        if known not in self._known:
            self._known[known] = content_hash(path)
        return self._known[known]
