"""A folder on any file system that fsspec knows, and files in it that are whole or not there."""

import os
import uuid
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.arrow import ArrowFSWrapper
from fsspec.implementations.local import LocalFileSystem
from pyarrow import fs as arrow

from anomaly_lightning.errors import DataError, UserError

# Object stores whose clients come inside of pyarrow; any other protocol is fsspec's.
ARROW = ("s3", "gs", "gcs", "hdfs", "abfs", "abfss")
SEPARATOR = "://"
PARTIAL = ".part"  # ends the name of a file that is being written, which begins with a dot


def is_address(text: str) -> bool:
    """Whether a text names a place by its protocol, as in s3://bucket/folder."""
    return SEPARATOR in text


def file_system(given: str) -> tuple[Any, str]:
    """The file system that a path or an address lies on, and the path there.

    Raises:
        UserError: There is no such protocol, what speaks it is not installed, or it does not take the address.
    """
    if not is_address(given):
        return LocalFileSystem(), os.path.abspath(Path(given).expanduser())  # noqa: PTH100 - links stay as they are
    protocol, _, rest = given.partition(SEPARATOR)
    try:
        if protocol in ARROW:
            return _of_arrow(f"{protocol}{SEPARATOR}{rest.partition('/')[0]}"), rest
        found: tuple[Any, str] = fsspec.core.url_to_fs(given)
    except (ImportError, ValueError, OSError) as error:
        raise UserError(f"{given} can't be reached: {error}") from error
    return found


@cache
def _of_arrow(root: str) -> ArrowFSWrapper:
    """One client for each bucket: to make one asks the network where the bucket lies."""
    return ArrowFSWrapper(arrow.FileSystem.from_uri(root)[0])


@dataclass(frozen=True)
class Place:
    """A folder, or a file.

    Attributes:
        address: As it was given; a local one as an absolute path.
        system: Of fsspec.
        path: On that file system.
    """

    address: str
    system: Any
    path: str

    @classmethod
    def at(cls, given: str) -> "Place":
        """The place that a path or an address names; raises `UserError` as `file_system` does."""
        system, path = file_system(given)
        path = path.rstrip("/") or "/"
        return cls(given.rstrip("/") if is_address(given) else path, system, path)

    def __truediv__(self, name: str) -> "Place":
        return Place(f"{self.address}/{name}", self.system, f"{self.path}/{name}")

    @property
    def local(self) -> Path | None:
        """The path on this machine; None where it lies elsewhere."""
        return Path(self.path) if isinstance(self.system, LocalFileSystem) else None

    def read(self) -> bytes:
        """All bytes of a file; raises `DataError` where it can't be read."""
        try:
            content: bytes = self.system.cat_file(self.path)
        except OSError as error:
            raise DataError(f"{self.address} can't be read: {error}") from error
        return content

    def exists(self) -> bool:
        """Whether there is such a file or folder."""
        return bool(self.system.exists(self.path))

    def write(self, content: bytes) -> None:
        """Write a file whole or not at all, in the place of what lies there."""
        target = self.local
        if target is None:
            self.system.pipe_file(self.path, content)  # an object store shows an object when all of it has arrived
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.{uuid.uuid4().hex}{PARTIAL}")
        try:
            partial.write_bytes(content)
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)

    def files(self, suffix: str) -> list["Place"]:
        """Files directly in a folder whose names end so, by name; hidden ones are none. [] where there is no folder."""
        try:
            self.system.invalidate_cache()
            found = self.system.ls(self.path, detail=False)
        except FileNotFoundError:
            return []
        names = sorted(str(path).rstrip("/").rpartition("/")[2] for path in found)
        return [self / name for name in names if name.endswith(suffix) and not name.startswith(".")]

    def clear_partial(self) -> None:
        """Remove what writers that were killed have left half in a folder."""
        target = self.local
        if target is not None and target.is_dir():
            for path in target.glob(f".*{PARTIAL}"):
                path.unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove a file."""
        self.system.rm_file(self.path)
