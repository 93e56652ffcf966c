"""The feature store that lives in this process's memory and ends with it."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from torch import Tensor

from anomaly_lightning.features.store.base import encode, first_positions, row_list, torch_dtype


class MemoryStore:
    """Features in RAM; same interface as `DiskStore`.

    The table grows by half of its size, so appending N images copies about 2 N of them in all.

    Args:
        shape: (C, h, w) of the features of one image.
        dtype: Stored dtype: float16, bfloat16 or float32.
    """

    def __init__(self, shape: tuple[int, int, int], dtype: str = "float32") -> None:
        channels, height, width = shape
        self.shape = (channels, height, width)
        self._table = torch.empty((0, *self.shape), dtype=torch_dtype(dtype))
        self._row_of: dict[str, int] = {}

    def __len__(self) -> int:
        """Images stored."""
        return len(self._row_of)

    def rows(self, keys: Sequence[str]) -> np.ndarray:
        """Row of each key: (N,) int64, -1 where the key is absent."""
        return np.fromiter((self._row_of.get(key, -1) for key in keys), dtype=np.int64, count=len(keys))

    def append(self, keys: Sequence[str], features: Tensor) -> None:
        """Store features (B, C, h, w) float under B keys; keys that are there already are left alone.

        Raises:
            CacheError: A value is not finite, or not finite any more in the store's dtype.
        """
        if len(keys) != len(features):
            raise ValueError(f"expected one key an image, got {len(keys)} keys for {len(features)} images")
        encoded = encode(features, self.shape, self._table.dtype)
        fresh = {key: at for key, at in first_positions(keys).items() if key not in self._row_of}
        start = len(self)
        self._reserve(start + len(fresh))
        self._table[start : start + len(fresh)] = encoded[list(fresh.values())]
        self._row_of.update(zip(fresh, range(start, start + len(fresh)), strict=True))

    def batch(self, rows: np.ndarray | Tensor) -> Tensor:
        """Features (B, C, h, w) float32 of rows (B,) int64 in any order; a new tensor at every call."""
        numbers = row_list(rows)
        if numbers and max(numbers) >= len(self):
            raise IndexError(f"row {max(numbers)} is not in a store of {len(self)} images")
        return self._table.index_select(0, torch.tensor(numbers, dtype=torch.int64)).to(torch.float32)

    def filling(self, keys: Sequence[str]) -> AbstractContextManager[None]:
        """Nobody else can see this store: nothing to wait for."""
        del keys
        return nullcontext()

    def close(self) -> None:
        """Nothing to let go of."""

    def _reserve(self, rows: int) -> None:
        if rows <= len(self._table):
            return
        table = self._table.new_empty((max(rows, len(self._table) * 3 // 2), *self.shape))
        table[: len(self)] = self._table[: len(self)]
        self._table = table
