"""How features become the stored dtype, and what does not fit into it."""

import torch
from torch import Tensor

from anomaly_lightning.errors import CacheError
from anomaly_lightning.features.cache_files import VALUE_BYTES, value_bytes

DTYPES: dict[str, torch.dtype] = {name: getattr(torch, name) for name in VALUE_BYTES}


def torch_dtype(name: str) -> torch.dtype:
    """Stored dtype by its name in the config; raises `CacheError` where it is none of `DTYPES`."""
    value_bytes(name)  # refuses any other
    return DTYPES[name]


def encode(features: Tensor, shape: tuple[int, int, int], dtype: torch.dtype) -> Tensor:
    """Features (B, C, h, w) float on any device as a contiguous CPU tensor (B, C, h, w) of the stored dtype.

    Raises:
        ValueError: The features don't have the store's shape.
        CacheError: A value is not finite, or not finite any more in `dtype`.
    """
    if features.ndim != 4 or tuple(features.shape[1:]) != tuple(shape):
        raise ValueError(f"expected features (B, {', '.join(map(str, shape))}), got {tuple(features.shape)}")
    encoded = features.detach().to(dtype)
    if bool(torch.isfinite(encoded).all()):
        return encoded.contiguous().cpu()
    if not bool(torch.isfinite(features).all()):
        raise CacheError(
            "The backbone gave features that are not finite (NaN or infinite). Check its weights and the precision."
        )
    name, largest = str(dtype).removeprefix("torch."), float(features.abs().max())
    raise CacheError(
        f"A feature of magnitude {largest:.6g} does not fit cache.dtype={name}, which ends at "
        f"{torch.finfo(dtype).max:.6g}. Set cache.dtype=bfloat16 (coarser, same range as float32) or "
        "cache.dtype=float32 (twice the space)."
    )
