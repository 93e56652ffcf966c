"""Operations along the grid: averages over squares, and maps that are known at every other position."""

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor


def averages(features: Tensor, side: int) -> Tensor:
    """Averages over side x side positions of (B, C, h, w) float, as avg_pool2d with ceil_mode computes them.

    Where the sides divide and the channels come first in memory, sums of rows and then of every so many columns take a
    third of its time on a CPU.
    """
    height, width = features.shape[-2:]
    if side == 1:
        return features
    if height % side or width % side or not features.is_contiguous():
        return F.avg_pool2d(features, side, ceil_mode=True)
    rows = features.unflatten(2, (height // side, side)).sum(3)
    total = rows[..., ::side].clone()
    for offset in range(1, side):
        total += rows[..., offset::side]
    return total / side**2


def white_squares(maps: Tensor) -> Tensor:
    """Values of (B, k, h, w) float at the white squares of a chessboard on the grid: (B, k, n, 1) float, row by row."""
    white, _ = _chessboard(maps.shape[2], maps.shape[3], maps.dtype, maps.device)
    rows = maps.permute(0, 2, 3, 1).flatten(1, 2)  # (B, h w, k)
    return rows[:, white].mT[..., None]


def from_white_squares(values: Tensor, size: tuple[int, int]) -> Tensor:
    """Map (B, h, w) float, (h, w) = `size`, of its values (B, n, 1) float at the white squares, row by row.

    A black square gets the mean of the white ones beside it.
    """
    white, share = _chessboard(*size, values.dtype, values.device)
    maps = values.new_zeros(len(values), size[0] * size[1])
    maps[:, white] = values[..., 0]
    maps = maps.view(-1, *size)
    padded = F.pad(maps, (1, 1, 1, 1))
    beside = padded[:, :-2, 1:-1] + padded[:, 2:, 1:-1] + padded[:, 1:-1, :-2] + padded[:, 1:-1, 2:]
    return maps + share * beside


@lru_cache(maxsize=64)
def _chessboard(height: int, width: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Places (n,) int64 of the white squares, and for each square (h, w) its share in the sum of those beside it.

    The share is 0 on white squares, and one over the number of those that lie inside on black ones.
    """
    with torch.inference_mode(False), torch.no_grad():
        black = (torch.arange(height)[:, None] + torch.arange(width)) % 2 == 1
        padded = F.pad(torch.ones(height, width), (1, 1, 1, 1))
        beside = padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:]
        share = torch.where(black, 1 / beside.clamp_min(1), 0.0)
        return (~black).flatten().nonzero()[:, 0].to(device), share.to(device, dtype)
