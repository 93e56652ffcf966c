"""What the cache of features holds and how it is kept small: oldest used first out.

Nothing is locked. What a running process needs again after it was removed, it computes again.
"""

import json
import os
import re
import shutil
import time
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from anomaly_lightning.errors import CacheError
from anomaly_lightning.features.store import SPEC, UNFINISHED, cache_errors

_FOLDER = re.compile("[0-9a-f]{20}")
_OLD = ("rows.bin", "index.sqlite", "index.sqlite-journal", "spec.tmp")  # of the layout before this one
Found = tuple[os.stat_result, Path]
_ABANDONED_S = 3600  # an unfinished file of that age belongs to a process that was killed


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
    """How many bytes, and features of how many images, were removed."""

    bytes: int = 0
    images: int = 0


def limit_bytes(max_gb: float) -> int:
    """cache.max_gb (1 GB = 1e9 bytes) in bytes; raises `CacheError` where it is not a number of at least 0."""
    if isinstance(max_gb, bool) or not isinstance(max_gb, int | float) or not 0 <= max_gb < float("inf"):
        raise CacheError(f"Expected cache.max_gb to be a number of gigabytes, 0 or more; got {max_gb!r}.")
    return int(max_gb * 1e9)


def cache_usage(root: Path) -> list[CacheEntry]:
    """The folders of the cache, last used first; raises `CacheError` where one can't be read."""
    with cache_errors(root):
        return sorted((_entry(folder) for folder in _folders(root)), key=lambda entry: -entry.last_used)


def clear(root: Path, names: Collection[str] | None = None) -> Freed:
    """Remove the folders of these names, or all; nothing that the cache did not put there.

    Raises:
        CacheError: A name is not in the cache, or a folder can't be removed.
    """
    there = {folder.name: folder for folder in _folders(root)}
    if unknown := sorted(set(names or ()) - set(there)):
        raise CacheError(f"No folder {', '.join(unknown)} in the cache {root}. There: {', '.join(there) or 'nothing'}.")
    chosen = [there[name] for name in (there if names is None else names)]
    if names is None:
        shutil.rmtree(root / ".locks", ignore_errors=True)  # of the older layout
    files = [file for folder in chosen for _, file in _features(folder) + _other(folder)]
    return _remove(root, [*files, *(folder / SPEC for folder in chosen)])


def trim(root: Path, max_bytes: int) -> Freed:
    """Bring the cache to at most `max_bytes`: the features used longest ago go first, across all folders.

    Files of an older layout and those of killed processes always go.

    Raises:
        CacheError: A folder can't be read or written to.
    """
    with cache_errors(root):
        folders, abandoned = _folders(root), time.time() - _ABANDONED_S
        other = [pair for folder in folders for pair in _other(folder)]
        gone = [file for status, file in other if file.name in _OLD or status.st_mtime < abandoned]
        files = [pair for folder in folders for pair in _features(folder)]
        excess = sum(status.st_size for status, _ in files) - max_bytes
        for status, file in sorted(files, key=lambda pair: (pair[0].st_mtime_ns, pair[1])):
            if excess <= 0:
                break
            gone.append(file)
            excess -= status.st_size
    return _remove(root, gone)


def _folders(root: Path) -> list[Path]:
    with cache_errors(root):
        found = root.iterdir() if root.is_dir() else ()
        return sorted(path for path in found if _FOLDER.fullmatch(path.name) and path.is_dir())


def _features(folder: Path) -> list[Found]:
    """Files of features."""
    return _found(path for path in _listed(folder) if path.parent != folder and not path.name.endswith(UNFINISHED))


def _other(folder: Path) -> list[Found]:
    """Files that no store reads: unfinished ones, and those of an older layout."""
    unfinished = [path for path in _listed(folder) if path.name.endswith(UNFINISHED)]
    return _found((*unfinished, *(folder / name for name in _OLD)))


def _listed(folder: Path) -> list[Path]:
    """All files below a folder; os.walk passes over folders that another process removes meanwhile."""
    return [Path(top, name) for top, _, names in os.walk(folder) for name in names]


def _found(files: Iterable[Path]) -> list[Found]:
    """Files with their status, less those that are gone by now."""
    found = []
    for file in files:
        with suppress(FileNotFoundError):
            found.append((file.stat(), file))
    return found


def _remove(root: Path, files: Collection[Path]) -> Freed:
    """Remove files, then the folders that are left with nothing but a spec."""
    size = images = 0
    with cache_errors(root):
        for file in files:
            with suppress(FileNotFoundError):  # another process was faster
                length = file.stat().st_size
                file.unlink()
                size, images = size + length, images + (file.parent.parent.parent == root)
        for folder in {root / file.relative_to(root).parts[0] for file in files}:
            for part in folder.glob("??"):
                _remove_empty(part)
            if [path.name for path in folder.iterdir()] == [SPEC]:
                (folder / SPEC).unlink()
            _remove_empty(folder)
    return Freed(size, images)


def _remove_empty(folder: Path) -> None:
    with suppress(OSError):  # something lies in it
        folder.rmdir()


def _entry(folder: Path) -> CacheEntry:
    try:
        about = json.loads((folder / SPEC).read_text(encoding="utf-8"))
        known = (dict(about["spec"]), tuple(about["shape"]), str(about["dtype"]))
    except (OSError, ValueError, KeyError, TypeError):
        known = ({}, (), "")
    features = _features(folder)
    size = sum(status.st_size for status, _ in features + _other(folder) + _found([folder / SPEC]))
    last_used = max((status.st_mtime for status, _ in features), default=0.0)
    return CacheEntry(folder, *known, len(features), size, last_used)
