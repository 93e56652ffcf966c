"""What the cache of features holds and how it is kept small: oldest used first out.

Nothing is locked. What a running process needs again after it was removed, it computes again.
"""

import json
import os
import re
import shutil
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from anomaly_lightning.errors import CacheError
from anomaly_lightning.features.cache_files import SPEC, UNFINISHED, cache_errors, file_bytes

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

    Files of an older layout and those of killed processes always go. As long as all is within the limit, names are
    counted and no file is looked at.

    Raises:
        CacheError: A folder can't be read or written to.
    """
    with cache_errors(root):
        folders, abandoned = _folders(root), time.time() - _ABANDONED_S
        other = [pair for folder in folders for pair in _other(folder)]
        gone = [file for status, file in other if file.name in _OLD or status.st_mtime < abandoned]
        if sum(map(_counted_bytes, folders)) > max_bytes:
            gone += _oldest(folders, max_bytes)
    return _remove(root, gone)


def _counted_bytes(folder: Path) -> int:
    """Size of a folder's features, by their number where the spec tells the size of one."""
    try:
        about = json.loads((folder / SPEC).read_text(encoding="utf-8"))
        each = file_bytes(about["shape"], about["dtype"])
    except (OSError, ValueError, KeyError, TypeError, CacheError):
        return sum(status.st_size for status, _ in _features(folder))
    return each * sum(1 for _ in _feature_files(folder))


def _oldest(folders: Iterable[Path], max_bytes: int) -> list[Path]:
    """Files that were used longest ago, so many that the others are at most so large."""
    found: list[tuple[int, str, int]] = []  # of a million files: as little as can be
    for file in (file for folder in folders for file in _feature_files(folder)):
        with suppress(FileNotFoundError):
            status = os.stat(file)  # noqa: PTH116 - a Path takes more than all the rest
            found.append((status.st_mtime_ns, file, status.st_size))
    excess, gone = sum(size for *_, size in found) - max_bytes, []
    for _, file, size in sorted(found):
        if excess <= 0:
            break
        gone.append(Path(file))
        excess -= size
    return gone


def _folders(root: Path) -> list[Path]:
    with cache_errors(root):
        found = root.iterdir() if root.is_dir() else ()
        return sorted(path for path in found if _FOLDER.fullmatch(path.name) and path.is_dir())


def _features(folder: Path) -> list[Found]:
    """Files of features."""
    return _found(map(Path, _feature_files(folder)))


def _feature_files(folder: Path) -> Iterator[str]:
    """Files of features, which lie in folders of two letters."""
    own = str(folder)
    return (file for file in _listed(folder) if file.rpartition(os.sep)[0] != own and not file.endswith(UNFINISHED))


def _other(folder: Path) -> list[Found]:
    """Files that no store reads: unfinished ones, and those of an older layout."""
    unfinished = [Path(file) for file in _listed(folder) if file.endswith(UNFINISHED)]
    return _found((*unfinished, *(folder / name for name in _OLD)))


def _listed(folder: Path) -> Iterator[str]:
    """All files below a folder; os.walk passes over folders that another process removes meanwhile."""
    return (os.path.join(top, name) for top, _, names in os.walk(folder) for name in names)  # noqa: PTH118 - as above


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
