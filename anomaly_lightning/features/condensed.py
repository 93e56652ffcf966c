"""Rows of many images in a file: what a detector's loss looks at of every image, or an evaluation's error maps."""

import contextlib
import os
import tempfile
import threading
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class CondensedFile:
    """Rows (...) float32 of some images in a file that has no name, so that it is gone however the process ends.

    A file and not memory: a process holds a batch, however many images there are. It saves every epoch of a fit the
    reading of whole features, their conversion and all arithmetic before the first weight.

    Args:
        folder: Where it takes its room; made where it is missing.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - open as long as this object
        self.close = weakref.finalize(self, give_back, self._file)  # idempotent
        self._reading = threading.Lock()
        self._count = 0
        self.shape: torch.Size | None = None

    def __len__(self) -> int:
        """Images that were appended."""
        return self._count

    def append(self, condensed: Tensor) -> None:
        """Keep some more images: (B, ...) float, each as large as those before.

        Raises:
            OSError: The disk is full.
        """
        rows = condensed.detach().to("cpu", torch.float32).contiguous()
        if self.shape is None:
            self.shape = rows.shape[1:]
        if rows.shape[1:] != self.shape:
            raise ValueError(f"expected rows of shape {tuple(self.shape)}, got {tuple(rows.shape[1:])}")
        self._file.write(rows.numpy().data)
        self._file.flush()
        self._count += len(rows)

    @property
    def row_bytes(self) -> int:
        """Size of a row; 0 before the first."""
        return 0 if self.shape is None else 4 * self.shape.numel()

    def expect(self, start: int, stop: int) -> None:
        """Let the system read these rows in one piece into its page cache, where it can be told to."""
        if hasattr(os, "posix_fadvise"):
            place, size = start * self.row_bytes, (stop - start) * self.row_bytes
            os.posix_fadvise(self._file.fileno(), place, size, os.POSIX_FADV_WILLNEED)

    def batch(self, keys: Sequence[int]) -> Tensor:
        """Images in any order, numbered as they were appended: (B, ...) float32, a new tensor; from any thread."""
        kept = torch.empty(len(keys), *(self.shape or ()))
        for number, row in zip(keys, kept.view(len(keys), -1).numpy() if len(keys) else (), strict=True):
            with self._reading:
                self._file.seek(number * row.nbytes)
                count = 0 if self.shape is None else self._file.readinto(row.data)
            if count < row.nbytes:
                raise ValueError(f"row {number} was never appended")
        return kept


def give_back(file: IO[bytes]) -> None:
    """Close a file without a name. Rows for which a full disk had no room still wait in it, and nobody wants them."""
    with contextlib.suppress(OSError):
        file.close()


class OrderedRows:
    """Rows of a file in an order of one's own, read as they are asked for: what a tensor (N, ...) would be.

    Args:
        file: Holds them all.
        order: Number in the file of each of the N rows.
    """

    def __init__(self, file: CondensedFile, order: NDArray[np.int64]) -> None:
        self.file, self.order = file, order

    def __len__(self) -> int:
        return len(self.order)

    @property
    def shape(self) -> torch.Size:
        """(N, ...)."""
        return torch.Size((len(self), *(self.file.shape or ())))

    def __getitem__(self, places: slice) -> Tensor:
        """Some of the rows, (B, ...) float32, a new tensor."""
        return self.file.batch(self.order[places].tolist())

    def split(self, size: int) -> Iterator[Tensor]:
        """All of the rows, so many at once: tensors (B, ...) float32."""
        return (self[start : start + size] for start in range(0, len(self), size))
