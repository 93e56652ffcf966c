"""What an evaluation computes, gathered batch by batch: memory holds a score an image, a file the error maps."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from anomaly_lightning.features.condensed import CondensedFile, OrderedRows

AT_ONCE = 256  # maps that processes exchange at once


class Scored:
    """Scores and error maps of images, each with its place in its set.

    Args:
        folder: Where the file of the maps takes its room; it has no name, and is gone with this object.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._maps = folder, CondensedFile(folder)
        self._places: list[Tensor] = []
        self._scores: list[Tensor] = []

    def __len__(self) -> int:
        """Rows that were added, those of one image twice included."""
        return len(self._maps)

    def add(self, places: Tensor, scores: Tensor, error_maps: Tensor) -> None:
        """Add a batch.

        Args:
            places: (B,) int64.
            scores: (B,) float.
            error_maps: (B, h, w) float.

        Raises:
            OSError: The disk is full.
        """
        self._maps.append(error_maps)
        self._places.append(places.cpu())
        self._scores.append(scores.detach().float().cpu())

    def gathered(self) -> "Scored":
        """The rows of all processes, in the same order in each of them; these alone where there is one."""
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            return self
        places, scores = self._columns()
        counts = [0] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(counts, len(self))
        every = Scored(self._folder)
        for start in range(0, max(counts), AT_ONCE):
            some = slice(start, start + AT_ONCE)
            own = (places[some], scores[some], self._maps.batch(range(len(self))[some]))
            parts: list[tuple[Tensor, Tensor, Tensor]] = [own for _ in counts]
            torch.distributed.all_gather_object(parts, own)
            for part in parts:
                if len(part[0]):
                    every.add(*part)
        return every

    def ordered(self) -> tuple[Tensor, OrderedRows]:
        """Scores (N,) float32 and error maps (N, h, w) of N images in the order of their set, the last row of each."""
        places, scores = self._columns()
        _, last = np.unique(places.numpy()[::-1], return_index=True)
        rows = len(places) - 1 - last
        return scores[torch.from_numpy(rows)], OrderedRows(self._maps, rows)

    def _columns(self) -> tuple[Tensor, Tensor]:
        """Places (B,) int64 and scores (B,) float32 of all rows."""
        if not self._places:
            return torch.zeros(0, dtype=torch.int64), torch.zeros(0)
        return torch.cat(self._places), torch.cat(self._scores)
