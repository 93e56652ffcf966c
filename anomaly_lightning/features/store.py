"""Where features live between the backbone and the detectors: one file an image, or memory.

`<root>/<hash of the spec>/<2 hex>/<key>` is a header (key, CRC-32) and the features' bytes; `spec.json` beside them
says what they depend on besides the image. A file is written under a temporary name and renamed, so it is there whole
or not at all, on network file systems, too. Nothing is locked: two processes that want the same image both compute
it, which wastes work and harms nothing. Nothing is flushed either: what a power cut spoils, the checksum finds.
"""

import hashlib
import json
import logging
import os
import time
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from anomaly_lightning.errors import CacheError
from anomaly_lightning.features.cache_files import HEADER, SPEC, cache_errors, file_bytes, write
from anomaly_lightning.features.encoding import encode, torch_dtype

TOUCH_EVERY_S = 3600  # a file's mtime is the time of its last use, to this precision
_MAGIC = b"features"
logger = logging.getLogger(__name__)


class LostError(CacheError):
    """Stored features are damaged or were removed; `keys` are absent from now on."""

    def __init__(self, keys: Sequence[str], where: str) -> None:
        super().__init__(f"The stored features of {len(keys)} image(s) in {where} are damaged or gone; start again.")
        self.keys = list(keys)


class FeatureStore(Protocol):
    """Features of images, found by a key that stands for an image's content."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape (C, h, w) of the features of one image."""

    def missing(self, keys: Sequence[str]) -> list[str]:
        """Those of the keys that are absent, each once, in order; the others count as used now."""

    def append(self, keys: Sequence[str], features: Tensor) -> None:
        """Store features (B, C, h, w) float under B keys; keys that are there already are left alone."""

    def batch(self, keys: Sequence[str]) -> Tensor:
        """Features (B, C, h, w) float32 of B keys in any order; a new tensor at every call, else `LostError`."""


class MemoryStore:
    """Features in RAM.

    Args:
        shape: (C, h, w) of the features of one image.
        dtype: Stored dtype: float16, bfloat16 or float32.
    """

    def __init__(self, shape: tuple[int, int, int], dtype: str = "float32") -> None:
        self.shape, self._dtype = shape, torch_dtype(dtype)
        self._kept: dict[str, Tensor] = {}

    def missing(self, keys: Sequence[str]) -> list[str]:
        """Those of the keys that are absent, each once, in order."""
        return [key for key in dict.fromkeys(keys) if key not in self._kept]

    def append(self, keys: Sequence[str], features: Tensor) -> None:
        """Store features (B, C, h, w) float under B keys; raises `CacheError` where one doesn't fit the dtype."""
        for key, row in zip(keys, encode(features, self.shape, self._dtype), strict=True):
            if key not in self._kept:
                self._kept[key] = row.clone()

    def batch(self, keys: Sequence[str]) -> Tensor:
        """Features (B, C, h, w) float32 of B keys in any order."""
        if lost := self.missing(keys):
            raise LostError(lost, "memory")
        found = torch.empty(len(keys), *self.shape)
        for slot, key in zip(found, keys, strict=True):
            slot.copy_(self._kept[key])
        return found


class DiskStore:
    """Features in files, shared by all processes that name the same root, spec, shape and dtype.

    Args:
        root: The cache's folder of features; made where it is missing.
        spec: What determines features besides the image (weights' sha256, layers, grid, image size, transform,
            versions that matter), JSON values only.
        shape: (C, h, w) of the features of one image.
        dtype: Stored dtype: float16, bfloat16 or float32.

    Raises:
        CacheError: The folder can't be made.
    """

    def __init__(
        self, root: Path, spec: Mapping[str, object], shape: tuple[int, int, int], dtype: str = "float16"
    ) -> None:
        self.shape, self._dtype = shape, torch_dtype(dtype)
        text = json.dumps({"spec": dict(spec), "shape": list(shape), "dtype": dtype}, sort_keys=True, allow_nan=False)
        self.folder = Path(root) / hashlib.sha256(text.encode()).hexdigest()[:20]
        self._file_bytes = file_bytes(shape, dtype)
        self._checked: set[str] = set()  # keys whose checksum was computed; once a process is enough
        about = self.folder / SPEC
        with cache_errors(self.folder):
            if not about.is_file() or about.read_text(encoding="utf-8") != text:
                write(about, text.encode())

    def missing(self, keys: Sequence[str]) -> list[str]:
        """Those of the keys that are absent or of another size than features have, each once, in order.

        Raises:
            CacheError: The folder can't be read.
        """
        absent, now = [], time.time()
        with cache_errors(self.folder):
            for key in dict.fromkeys(keys):
                used = self._last_use(key)
                if used is None:
                    absent.append(key)
                elif now - used > TOUCH_EVERY_S:
                    with suppress(OSError):  # a folder that can't be written to is served as it is
                        os.utime(self._path(key))
        return absent

    def append(self, keys: Sequence[str], features: Tensor) -> None:
        """Store features (B, C, h, w) float under B keys; what fits before an error stays.

        Raises:
            CacheError: A value does not fit the dtype, the disk is full, or the folder can't be written to.
        """
        rows = encode(features, self.shape, self._dtype)
        with cache_errors(self.folder):
            for key, row in zip(keys, rows, strict=True):
                if self._last_use(key) is None:
                    data = _bytes(row)
                    write(self._path(key), HEADER.pack(_MAGIC, key.encode(), zlib.crc32(data)), data)

    def batch(self, keys: Sequence[str]) -> Tensor:
        """Features (B, C, h, w) float32 of B keys in any order; a new tensor at every call.

        Raises:
            LostError: Files are damaged or gone; damaged ones are removed, so that they are computed anew.
        """
        found = torch.empty(len(keys), *self.shape)
        buffer = torch.empty(self.shape, dtype=self._dtype)  # stays in the processor's cache, row after row
        lost = []
        with cache_errors(self.folder):
            for slot, key in zip(found, keys, strict=True):
                if self._read(key, _bytes(buffer)):
                    slot.copy_(buffer)
                else:
                    lost.append(key)
        if lost:
            raise LostError(lost, str(self.folder))
        return found

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / key

    def _last_use(self, key: str) -> float | None:
        """Seconds since 1970; None where the file is missing or cut short."""
        try:
            status = self._path(key).stat()
        except FileNotFoundError:
            return None
        return status.st_mtime if status.st_size == self._file_bytes else None

    def _read(self, key: str, buffer: memoryview) -> bool:
        """Fill the buffer; False where the file is gone or damaged."""
        try:
            with self._path(key).open("rb") as file:
                header, count = file.read(HEADER.size), file.readinto(buffer)
        except FileNotFoundError:
            return False
        if count == len(buffer) and key in self._checked:
            return True
        if header == HEADER.pack(_MAGIC, key.encode(), zlib.crc32(buffer)):
            self._checked.add(key)
            return True
        logger.warning("Damaged features in the cache: %s; they are computed anew.", self._path(key))
        with suppress(OSError):
            self._path(key).unlink()
        return False


def _bytes(row: Tensor) -> memoryview:
    """The bytes of a contiguous CPU tensor (C, h, w), without a copy."""
    return row.view(-1).view(torch.uint8).numpy().data  # flat first: a grid of one position need not have a stride of 1
