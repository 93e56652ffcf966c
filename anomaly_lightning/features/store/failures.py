"""What the operating system and sqlite say, as errors that tell a user what to do."""

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from anomaly_lightning.errors import CacheError

_FULL = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}
_STAYS = "What was stored before stays usable."


@contextmanager
def cache_errors(folder: Path) -> Iterator[None]:
    """Turn OSError and sqlite3.Error of the block into CacheError naming `folder` and the way out."""
    try:
        yield
    except OSError as error:
        raise CacheError(explain(folder, error)) from error
    except sqlite3.Error as error:
        raise CacheError(_explain_sqlite(folder, error)) from error


def explain(folder: Path, error: OSError) -> str:
    """One paragraph for an error of the operating system met in the store's `folder`."""
    reason = error.strerror or str(error)
    if error.errno in _FULL:
        return _full(folder, reason)
    if error.errno in _FORBIDDEN:
        return _forbidden(folder, reason)
    return (
        f"The feature cache in {folder} failed: {reason}. {_STAYS} "
        "Check cache.dir, or run without it: cache.mode=memory or cache.mode=off."
    )


def _explain_sqlite(folder: Path, error: sqlite3.Error) -> str:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the low byte is the primary code
    if code == sqlite3.SQLITE_FULL:
        return _full(folder, str(error))
    if code in {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM}:
        return _forbidden(folder, str(error))
    return (
        f"The index of the feature cache in {folder} failed: {error}. If the folder was removed or is held by another "
        "program, start again; if it stays, remove it with `python -m anomaly_lightning.cache action=clear`."
    )


def _full(folder: Path, reason: str) -> str:
    return (
        f"There is no room to store features in {folder}: {reason}. {_STAYS} "
        "Free some space, shrink the cache with `python -m anomaly_lightning.cache action=trim cache.max_gb=...`, "
        "point cache.dir to a larger disk, or run with cache.mode=memory or cache.mode=off."
    )


def _forbidden(folder: Path, reason: str) -> str:
    return (
        f"The feature cache in {folder} can't be written to: {reason}. {_STAYS} "
        "Point cache.dir to a folder you may write to, or run with cache.mode=memory or cache.mode=off."
    )
