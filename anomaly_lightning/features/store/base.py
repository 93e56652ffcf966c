"""The interface of every feature store, and how features become the stored dtype."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from anomaly_lightning.errors import CacheError

DTYPES: dict[str, torch.dtype] = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


class FeatureStore(Protocol):
    """Features of images, found by a key that stands for an image's content.

    Rows are numbers of the store's own; a row that was handed out keeps meaning the same features as long as the
    store is open.
    """

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape (C, h, w) of the features of one image."""

    def __len__(self) -> int:
        """Images stored."""

    def rows(self, keys: Sequence[str]) -> np.ndarray:
        """Row of each key: (N,) int64, -1 where the key is absent."""

    def append(self, keys: Sequence[str], features: Tensor) -> None:
        """Store features (B, C, h, w) float under B keys; keys that are there already are left alone."""

    def batch(self, rows: np.ndarray | Tensor) -> Tensor:
        """Features (B, C, h, w) float32 of rows (B,) int64 in any order; a new tensor at every call."""

    def filling(self, keys: Sequence[str]) -> AbstractContextManager[None]:
        """Held while features of these keys are computed: a process that wants the same keys waits its turn."""

    def close(self) -> None:
        """Let go of files and locks; idempotent."""


def torch_dtype(name: str) -> torch.dtype:
    """Stored dtype by its name in the config.

    Raises:
        CacheError: The name is none of `DTYPES`.
    """
    if name not in DTYPES:
        raise CacheError(f"Expected cache.dtype to be one of {', '.join(DTYPES)}; got {name!r}.")
    return DTYPES[name]


def encode(features: Tensor, shape: tuple[int, int, int], dtype: torch.dtype) -> Tensor:
    """Features (B, C, h, w) float on any device as a contiguous CPU tensor (B, C, h, w) of the stored dtype.

    Raises:
        ValueError: The features don't have the store's shape.
        CacheError: A value is not finite, or not finite any more in `dtype`.
    """
    if features.ndim != 4 or tuple(features.shape[1:]) != shape:
        raise ValueError(f"expected features (B, {', '.join(map(str, shape))}), got {tuple(features.shape)}")
    encoded = features.detach().to(dtype)
    if not bool(torch.isfinite(encoded).all()):
        raise CacheError(_not_finite(features, dtype))
    return encoded.contiguous().cpu()


def _not_finite(features: Tensor, dtype: torch.dtype) -> str:
    name = str(dtype).removeprefix("torch.")
    if not bool(torch.isfinite(features).all()):
        return "The backbone gave features that are not finite (NaN or infinite). Check its weights and the precision."
    largest, limit = float(features.abs().max()), torch.finfo(dtype).max
    return (
        f"A feature of magnitude {largest:.6g} does not fit cache.dtype={name}, which ends at {limit:.6g}. "
        "Set cache.dtype=bfloat16 (coarser, same range as float32) or cache.dtype=float32 (twice the space)."
    )


def row_list(rows: np.ndarray | Tensor) -> list[int]:
    """Rows (B,) integer as a list.

    Raises:
        ValueError: A row is negative, that is, its key was absent.
    """
    numbers = np.asarray(rows, dtype=np.int64).reshape(-1)
    if numbers.size and numbers.min() < 0:
        absent = int((numbers < 0).sum())
        raise ValueError(f"{absent} of {numbers.size} rows are -1 (absent): fill the store before reading from it")
    return numbers.tolist()


def first_positions(keys: Sequence[str]) -> dict[str, int]:
    """Position of the first occurrence of each distinct key, in order."""
    positions: dict[str, int] = {}
    for position, key in enumerate(keys):
        positions.setdefault(key, position)
    return positions
