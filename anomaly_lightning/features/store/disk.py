"""The feature store on disk: safe with several processes at once, and with a kill at any point.

`<root>/<name>/` holds `spec.json` (what the features depend on besides the image), `rows.bin` (see `rowfile`) and
`index.sqlite` (see `index`). A row's bytes are on the disk before its index entry is: an entry always points at
complete bytes, and what a killed process left behind the last entry is overwritten. Bytes that don't match their
checksum are never served.
"""

import errno
import logging
import threading
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

import numpy as np
import torch
from filelock import Timeout
from torch import Tensor

from anomaly_lightning.errors import CacheError
from anomaly_lightning.features.store.base import encode, first_positions, row_list, torch_dtype
from anomaly_lightning.features.store.checks import RowChecks
from anomaly_lightning.features.store.failures import cache_errors, explain
from anomaly_lightning.features.store.index import Index, Place
from anomaly_lightning.features.store.layout import INDEX, ROWS, SPEC, canonical, folder_name, remove_data
from anomaly_lightning.features.store.locks import Guard
from anomaly_lightning.features.store.rowfile import RowFile

_READ_ONLY = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}

_log = logging.getLogger(__name__)


class DiskStore:
    """Features in files, shared by every process that names the same root, spec, shape and dtype.

    A folder that can't be written to is served as it is; only `append` fails then.

    Args:
        root: The cache's root folder; made where it is missing.
        spec: What determines features besides the image (weights' sha256, layers, grid, image size, transform,
            versions that matter), JSON values only.
        shape: (C, h, w) of the features of one image.
        dtype: Stored dtype: float16, bfloat16 or float32.

    Raises:
        CacheError: The folder can neither be opened nor made.
    """

    def __init__(
        self, root: Path, spec: Mapping[str, object], shape: tuple[int, int, int], dtype: str = "float16"
    ) -> None:
        channels, height, width = shape
        self.shape = (channels, height, width)
        self.folder = Path(root) / folder_name(spec, self.shape, dtype)
        self._arguments = (Path(root), dict(spec), self.shape, dtype)
        self._dtype = torch_dtype(dtype)
        self._row_bytes = channels * height * width * self._dtype.itemsize
        self._guard = Guard(Path(root), self.folder.name)
        self._local = threading.local()
        with cache_errors(self.folder):
            self._open(canonical(spec, self.shape, dtype))

    def __len__(self) -> int:
        """Images stored, those of other processes included."""
        with cache_errors(self.folder):
            return self._index.count()

    def rows(self, keys: Sequence[str]) -> np.ndarray:
        """Row of each key: (N,) int64, -1 where the key is absent or its bytes turned out damaged.

        Bytes are checked here, at once, where the row file was changed since its last entry was made (a killed
        process, a foreign hand); else at the first use in `batch`.

        Raises:
            CacheError: The index can't be read.
        """
        with cache_errors(self.folder):
            self._still_ours()
            changed = self._rows.stamp() != self._index.stamp()
            found = self._index.find(first_positions(keys))
            self._checks.remember(found.values())
            if changed:
                damaged = self._drop(self._checks.verify([place.row for place in found.values()]))
                found = {key: place for key, place in found.items() if place.row not in damaged}
            if self.writable:
                self._index.touch(found)
        absent = Place(-1, -1)
        return np.fromiter((found.get(key, absent).row for key in keys), dtype=np.int64, count=len(keys))

    def append(self, keys: Sequence[str], features: Tensor) -> None:
        """Store features (B, C, h, w) float under B keys; on the disk when it returns. Keys that are there are ignored.

        Raises:
            CacheError: A value does not fit the dtype, the disk is full, or the folder can't be written to.
        """
        if len(keys) != len(features):
            raise ValueError(f"expected one key an image, got {len(keys)} keys for {len(features)} images")
        if not self.writable:
            raise CacheError(self._why_read_only)
        encoded = encode(features, self.shape, self._dtype)
        with cache_errors(self.folder), self._guard.exclusive():
            self._still_ours()
            there = self._index.find(keys)
            fresh = {key: at for key, at in first_positions(keys).items() if key not in there}
            if fresh:
                self._write(list(fresh), encoded[list(fresh.values())])

    def batch(self, rows: np.ndarray | Tensor) -> Tensor:
        """Features (B, C, h, w) float32 of rows (B,) int64 in any order; a new tensor at every call.

        Raises:
            ValueError: A row is -1.
            CacheError: A row's bytes are damaged or gone; they are forgotten, so that the next run computes them anew.
        """
        numbers = row_list(rows)
        stored = self._buffer(len(numbers))
        raw = stored.view(torch.uint8).view(-1).numpy().data
        with cache_errors(self.folder):
            self._checks.forget(self._rows.read_into(numbers, raw))
            if damaged := self._drop(self._checks.mismatches(numbers, raw)):
                raise CacheError(
                    f"The stored features of {len(damaged)} image(s) in {self.folder / ROWS} are damaged (checksum). "
                    "They were dropped from the index; start the same command again to compute them anew."
                )
        return stored.to(torch.float32)

    @contextmanager
    def filling(self, keys: Sequence[str]) -> Iterator[None]:
        """Held while features of these keys are computed: a process that wants the same keys waits its turn.

        Raises:
            CacheError: The folder can't be written to.
        """
        if not self.writable:
            raise CacheError(self._why_read_only)
        lock = self._guard.filling(keys)
        with cache_errors(self.folder):
            try:
                lock.acquire(timeout=0)
            except Timeout:
                _log.info("Another process computes the features of the same images; waiting for it.")
                lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def close(self) -> None:
        """Let go of the files and of the mark that keeps the folder from being trimmed; idempotent."""
        self._rows.close()
        if self._mark is not None:
            self._mark.release()

    def __enter__(self) -> "DiskStore":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[type["DiskStore"], tuple[object, ...]]:
        """A copy in another process opens the folder by itself."""
        return DiskStore, self._arguments

    def _open(self, spec_text: str) -> None:
        self.writable, self._why_read_only, self._mark = True, "", None
        try:
            with self._guard.exclusive():
                self._prepare(spec_text)
                self._mark = self._guard.mark_in_use()
        except OSError as error:
            if error.errno not in _READ_ONLY or not (self.folder / INDEX).is_file():
                raise
            self.writable, self._why_read_only = False, explain(self.folder, error)
        self._index = Index(self.folder / INDEX, self.writable)
        self._rows = RowFile(self.folder / ROWS, self._row_bytes)
        self._checks = RowChecks(self._rows, self._index, once=self.writable)

    def _prepare(self, spec_text: str) -> None:
        """Make what is missing, and fix what a killed process left. Needs the exclusive lock."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / SPEC
        if not path.is_file() or path.read_text(encoding="utf-8") != spec_text:
            whole = path.with_suffix(".tmp")
            whole.write_text(spec_text, encoding="utf-8")
            whole.replace(path)
        index = Index(self.folder / INDEX)
        if index.path.is_file() and not index.sound():
            _log.warning(
                "The index of the feature cache in %s is damaged; its features are computed anew.", self.folder
            )
            remove_data(self.folder)
        index.create()
        rows = self.folder / ROWS
        if not rows.exists():  # touching it would make all its rows suspect
            rows.touch()
        if rows.stat().st_size > index.next_row() * self._row_bytes:
            with rows.open("r+b") as file:
                file.truncate(index.next_row() * self._row_bytes)

    def _still_ours(self) -> None:
        if self._rows.replaced():
            raise CacheError(f"The feature cache in {self.folder} was removed or rebuilt meanwhile; start again.")

    def _write(self, keys: Sequence[str], encoded: Tensor) -> None:
        """Bytes first, then the index. Needs the exclusive lock."""
        first = self._index.next_row()
        data, size = encoded.contiguous().view(torch.uint8).view(-1).numpy().data, self._row_bytes
        try:
            self._rows.write(first, data)
            places = {
                key: Place(first + at, zlib.crc32(data[at * size : (at + 1) * size])) for at, key in enumerate(keys)
            }
            self._index.add(places, self._rows.stamp())
        except Exception:
            with suppress(OSError):
                self._rows.truncate(first)
            raise

    def _drop(self, damaged: set[Place]) -> set[int]:
        """Forget damaged rows, as far as the folder can be written to; returns their numbers."""
        if damaged:
            _log.warning("%d damaged row(s) of the feature cache in %s are left out.", len(damaged), self.folder)
            if self.writable:
                self._index.drop(damaged)
        return {place.row for place in damaged}

    def _buffer(self, rows: int) -> Tensor:
        """Where stored rows are read to, (rows, C, h, w): kept for the next call where a conversion follows."""
        if self._dtype is torch.float32:
            return torch.empty((rows, *self.shape))
        buffer: Tensor | None = getattr(self._local, "buffer", None)
        if buffer is None or len(buffer) < rows:
            buffer = self._local.buffer = torch.empty((rows, *self.shape), dtype=self._dtype)
        return buffer[:rows]
