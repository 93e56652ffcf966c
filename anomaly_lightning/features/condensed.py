"""What a detector's loss looks at of every image, kept for the epochs of one fit."""

import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from anomaly_lightning.features.store.rowfile import RowReader


class CondensedFile:
    """Rows (...) float32 of some images in a file that has no name, so that it is gone however the process ends.

    A file and not memory: a fit holds a batch, however many images there are. It saves every epoch the reading of
    whole features, their conversion and all arithmetic before the first weight.

    Args:
        folder: Where it takes its room; made where it is missing.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 - open as long as this object
        self._shape: tuple[int, ...] = ()
        self._reader: RowReader | None = None

    def append(self, condensed: Tensor) -> None:
        """Keep some more images: (B, ...) float, each as large as those before.

        Raises:
            OSError: The disk is full.
        """
        rows = condensed.detach().to("cpu", torch.float32).contiguous()
        if self._reader is None:
            self._shape = tuple(rows.shape[1:])
            self._reader = RowReader(self._file, rows[:1].numel() * rows.itemsize)
        if tuple(rows.shape[1:]) != self._shape:
            raise ValueError(f"expected rows of shape {self._shape}, got {tuple(rows.shape[1:])}")
        rest = rows.numpy().reshape(-1).view(np.uint8).data
        while len(rest):
            rest = rest[self._file.write(rest) :]

    def batch(self, rows: np.ndarray) -> Tensor:
        """Images (B,) int64 in any order, numbered as they were appended: (B, ...) float32, a new tensor."""
        kept = torch.empty(len(rows), *self._shape)
        if self._reader is None or self._reader.read_into(rows.tolist(), kept.view(torch.uint8).view(-1).numpy().data):
            raise ValueError(f"a row of {rows.tolist()} was never appended")
        return kept

    def close(self) -> None:
        """Give the room back; idempotent."""
        self._file.close()
