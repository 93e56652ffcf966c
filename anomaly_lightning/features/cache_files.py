"""Files of the feature cache: how one is written whole, how large it is, and what its errors say. Imports no torch."""

import errno
import math
import struct
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from anomaly_lightning.errors import CacheError

SPEC, UNFINISHED = "spec.json", ".tmp"
WRITE_ATTEMPTS = 20  # a process that trims beside may take a new folder away again and again, for a moment each
HEADER = struct.Struct("<8s64sI")  # magic and version, key, CRC-32 of the rest of the file
VALUE_BYTES = {"float16": 2, "bfloat16": 2, "float32": 4}  # of the stored dtypes
_FULL = (
    "has no room",
    "Free some space, shrink it with `python -m anomaly_lightning.cache action=trim cache.max_gb=...`, point cache.dir "
    "to a larger disk",
)
_FORBIDDEN = ("can't be written to", "Point cache.dir to a folder you may write to")
_WAYS_OUT = dict.fromkeys((errno.ENOSPC, errno.EFBIG, errno.EDQUOT), _FULL) | dict.fromkeys(
    (errno.EACCES, errno.EPERM, errno.EROFS), _FORBIDDEN
)


def file_bytes(shape: Sequence[int], dtype: str) -> int:
    """Size of the file of one image's features (C, h, w); raises `CacheError` for an unknown dtype."""
    return HEADER.size + math.prod(shape) * value_bytes(dtype)


def value_bytes(dtype: str) -> int:
    """Size of one value of a stored dtype; raises `CacheError` where it is none of `VALUE_BYTES`."""
    if dtype not in VALUE_BYTES:
        raise CacheError(f"Expected cache.dtype to be one of {', '.join(VALUE_BYTES)}; got {dtype!r}.")
    return VALUE_BYTES[dtype]


def write(path: Path, *parts: bytes | memoryview) -> None:
    """Write a file whole or not at all."""
    for _ in range(WRITE_ATTEMPTS - 1):
        # Another process may trim the folder away just now; mkdir says that it exists if that falls between its two
        # looks at it.
        with suppress(FileNotFoundError, FileExistsError):
            _write_and_rename(path, parts)
            return
    _write_and_rename(path, parts)


def _write_and_rename(path: Path, parts: Sequence[bytes | memoryview]) -> None:
    aside = path.with_name(f"{path.name}.{uuid.uuid4().hex}{UNFINISHED}")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with aside.open("wb") as file:
            file.writelines(parts)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def cache_errors(folder: Path) -> Iterator[None]:
    """Turn OSError of the block into CacheError that names `folder` and the way out."""
    try:
        yield
    except OSError as error:
        what, way = _WAYS_OUT.get(error.errno or 0, ("failed", "Check cache.dir"))
        raise CacheError(
            f"The feature cache in {folder} {what}: {error.strerror or error}. What was stored before stays usable. "
            f"{way}, or run without it: cache.mode=memory or cache.mode=off."
        ) from error
