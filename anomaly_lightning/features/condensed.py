"""What a detector's loss looks at of every image, kept for the epochs of one fit."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor


class CondensedFile:
    """Rows (...) float32 of some images in a file that has no name, so that it is gone however the process ends.

    A file and not memory: a fit holds a batch, however many images there are. It saves every epoch the reading of
    whole features, their conversion and all arithmetic before the first weight.

    Args:
        folder: Where it takes its room; made where it is missing.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - open as long as this object
        self._shape: torch.Size | None = None
        self._count = 0

    def __len__(self) -> int:
        """Images that were appended."""
        return self._count

    def append(self, condensed: Tensor) -> None:
        """Keep some more images: (B, ...) float, each as large as those before.

        Raises:
            OSError: The disk is full.
        """
        rows = condensed.detach().to("cpu", torch.float32).contiguous()
        if self._shape is None:
            self._shape = rows.shape[1:]
        if rows.shape[1:] != self._shape:
            raise ValueError(f"expected rows of shape {tuple(self._shape)}, got {tuple(rows.shape[1:])}")
        self._file.write(rows.numpy().data)
        self._file.flush()
        self._count += len(rows)

    def batch(self, keys: Sequence[int]) -> Tensor:
        """Images in any order, numbered as they were appended: (B, ...) float32, a new tensor."""
        kept = torch.empty(len(keys), *(self._shape or ()))
        for number, row in zip(keys, kept.view(len(keys), -1).numpy() if len(keys) else (), strict=True):
            self._file.seek(number * row.nbytes)
            if self._shape is None or self._file.readinto(row.data) < row.nbytes:
                raise ValueError(f"row {number} was never appended")
        return kept

    def close(self) -> None:
        """Give the room back; idempotent."""
        self._file.close()
