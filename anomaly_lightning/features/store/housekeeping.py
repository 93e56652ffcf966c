"""What the cache holds and how it is kept small: oldest used first out, never what somebody has open."""

import json
import math
from collections.abc import Collection, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import Timeout

from anomaly_lightning.errors import CacheError
from anomaly_lightning.features.store.base import torch_dtype
from anomaly_lightning.features.store.failures import cache_errors
from anomaly_lightning.features.store.index import Index
from anomaly_lightning.features.store.layout import INDEX, ROWS, SPEC, is_store, remove_data
from anomaly_lightning.features.store.locks import Guard
from anomaly_lightning.features.store.rowfile import RowFile

_PATIENCE_S = 5.0  # a folder that is locked for longer than that counts as in use


@dataclass(frozen=True)
class CacheEntry:
    """One folder of the cache.

    Attributes:
        folder: The folder.
        spec: What its features depend on besides the image; empty where spec.json can't be read.
        shape: (C, h, w) of the features of one image; empty where unknown.
        dtype: Stored dtype; empty where unknown.
        images: How many images' features it holds.
        bytes: Size of its files.
        last_used: Seconds since 1970; 0 where it holds nothing.
    """

    folder: Path
    spec: dict[str, object]
    shape: tuple[int, ...]
    dtype: str
    images: int
    bytes: int
    last_used: float


@dataclass(frozen=True)
class Freed:
    """What `clear` or `trim` did.

    Attributes:
        bytes: Size of what was removed.
        images: How many images' features were removed.
        in_use: Folders left alone because a process has them open.
    """

    bytes: int
    images: int
    in_use: tuple[Path, ...]


def cache_usage(root: Path) -> list[CacheEntry]:
    """The folders of the cache, last used first; empty where the root is not there.

    Raises:
        CacheError: A folder can't be read.
    """
    return sorted((_entry(folder) for folder in _folders(root)), key=lambda entry: -entry.last_used)


def clear(root: Path, folders: Collection[str] | None = None) -> Freed:
    """Remove folders of the cache, those in use excepted.

    Args:
        root: The cache's root folder.
        folders: Names of the folders to remove; None for all.

    Raises:
        CacheError: A name is not in the cache, or a folder can't be removed.
    """
    there = {folder.name: folder for folder in _folders(root)}
    unknown = sorted(set(folders or ()) - set(there))
    if unknown:
        raise CacheError(f"No folder {', '.join(unknown)} in the cache {root}. There: {', '.join(there) or 'nothing'}.")
    chosen = [there[name] for name in (there if folders is None else folders)]
    return _apply(root, dict.fromkeys(chosen, 0))


def trim(root: Path, max_bytes: int) -> Freed:
    """Bring the cache to at most `max_bytes`: the features used longest ago go first, across all folders.

    Folders in use count but stay; where they alone are larger, the cache stays larger.

    Raises:
        CacheError: A folder can't be read or written to.
    """
    entries = cache_usage(root)
    excess = sum(entry.bytes for entry in entries) - max_bytes
    idle = [entry for entry in entries if not _busy(root, entry.folder)] if excess > 0 else entries
    freed = _apply(root, _to_keep(idle, excess))
    busy = {entry.folder for entry in entries} - {entry.folder for entry in idle}
    return Freed(freed.bytes, freed.images, tuple(sorted(busy | set(freed.in_use))))


def _to_keep(entries: list[CacheEntry], excess: int) -> dict[Path, int]:
    """Images to keep, by folder, where something has to go for `excess` bytes to be freed."""
    keep: dict[Path, int] = {}
    uses = sorted(((used, entry.folder, entry) for entry in entries for used in _uses(entry)), key=lambda use: use[:2])
    for _, folder, entry in uses:
        if excess <= 0:
            break
        rows = entry.images * _row_bytes(entry) if entry.images else 0
        keep[folder] = max(0, keep.get(folder, entry.images) - 1)
        excess -= rows // max(1, entry.images)
        if keep[folder] == 0:  # the folder goes, and its index with it
            excess -= entry.bytes - rows
    return keep


def _apply(root: Path, keep: dict[Path, int]) -> Freed:
    """Keep that many of the images used last in each folder; a folder that keeps none is removed."""
    size, images, in_use = 0, 0, []
    for folder, wanted in keep.items():
        with cache_errors(folder), _claimed(root, folder) as free:
            if not free:
                in_use.append(folder)
                continue
            before = _entry(folder)
            if wanted:
                _shrink(before, wanted)
            else:
                _remove(folder)
            after = _entry(folder)
        size, images = size + before.bytes - after.bytes, images + before.images - after.images
    return Freed(size, images, tuple(in_use))


def _remove(folder: Path) -> None:
    """Remove what a store puts into its folder, and the folder unless somebody put something else there."""
    remove_data(folder)
    (folder / SPEC).unlink(missing_ok=True)
    with suppress(OSError):
        folder.rmdir()


def _shrink(entry: CacheEntry, keep: int) -> None:
    """Forget the rows used longest ago, move the others into the gaps, cut the file. Needs the exclusive lock.

    A kill in between leaves entries that point at complete bytes: rows are copied before the index changes, in one
    transaction, and the file is cut after it.
    """
    index = Index(entry.folder / INDEX)
    index.drop_oldest(keep)
    stays = sorted(row for _, row in index.uses())
    gaps = sorted(set(range(len(stays))) - set(stays))
    moves = dict(zip((row for row in stays if row >= len(stays)), gaps, strict=True))
    with closing(RowFile(entry.folder / ROWS, _row_bytes(entry))) as rows:
        trusted = rows.stamp() == index.stamp()
        rows.move(moves)
        index.renumber(moves, len(stays))
        rows.truncate(len(stays))
        if trusted:
            index.restamp(rows.stamp())


@contextmanager
def _claimed(root: Path, folder: Path) -> Iterator[bool]:
    """Hold the folder for the block: True where nobody has it open, and nobody can open it until the block ends."""
    guard = Guard(root, folder.name)
    lock = guard.exclusive(timeout=_PATIENCE_S)
    try:
        lock.acquire()
    except Timeout:
        yield False
        return
    try:
        yield not guard.in_use()
    finally:
        lock.release()


def _busy(root: Path, folder: Path) -> bool:
    with cache_errors(folder), _claimed(root, folder) as free:
        return not free


def _folders(root: Path) -> list[Path]:
    with cache_errors(root):
        return sorted(path for path in root.iterdir() if is_store(path)) if root.is_dir() else []


def _entry(folder: Path) -> CacheEntry:
    with cache_errors(folder):
        uses = _index_uses(folder)
        size = sum(path.stat().st_size for path in folder.iterdir()) if folder.is_dir() else 0
    try:
        about = json.loads((folder / SPEC).read_text(encoding="utf-8"))
        known = (dict(about["spec"]), tuple(about["shape"]), str(about["dtype"]))
    except (OSError, ValueError, KeyError, TypeError):
        known = ({}, (), "")
    return CacheEntry(folder, *known, len(uses), size, uses[-1][0] if uses else 0.0)


def _index_uses(folder: Path) -> list[tuple[float, int]]:
    """(time of last use, row), oldest first; nothing where the index is missing or damaged."""
    index = Index(folder / INDEX, writable=False)
    return index.uses() if index.path.is_file() and index.sound() else []


def _uses(entry: CacheEntry) -> list[float]:
    """Times of last use of the entry's images; one of long ago for a folder that holds none."""
    return [used for used, _ in _index_uses(entry.folder)] or [0.0]


def _row_bytes(entry: CacheEntry) -> int:
    if not entry.shape:
        raise CacheError(
            f"{entry.folder / SPEC} can't be read, so that the folder can't be trimmed. Remove it with "
            f"`python -m anomaly_lightning.cache action=clear folders=[{entry.folder.name}]`."
        )
    return math.prod(entry.shape) * torch_dtype(entry.dtype).itemsize


def limit_bytes(max_gb: float) -> int:
    """cache.max_gb (1 GB = 1e9 bytes) in bytes.

    Raises:
        CacheError: Not a number of at least 0.
    """
    if isinstance(max_gb, bool) or not isinstance(max_gb, int | float) or not 0 <= max_gb < float("inf"):
        raise CacheError(f"Expected cache.max_gb to be a number of gigabytes, 0 or more; got {max_gb!r}.")
    return int(max_gb * 1e9)
