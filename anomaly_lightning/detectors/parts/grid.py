"""Operations along the grid: averages over squares, surroundings, and a map known at every other position."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def averages(features: Tensor, side: int) -> Tensor:
    """Averages over side x side positions of (B, C, h, w) float, as avg_pool2d with ceil_mode computes them.

    Where the sides divide and the channels come first in memory, sums of rows and then of every so many columns take a
    third of its time on a CPU.
    """
    height, width = features.shape[-2:]
    if side == 1:
        return features
    even = height % side == 0 and width % side == 0
    if not even or torch.compiler.is_exporting() or not features.is_contiguous():
        return F.avg_pool2d(features, side, ceil_mode=not even)
    rows = features.unflatten(2, (height // side, side)).sum(3)
    total = rows[..., ::side].clone()
    for offset in range(1, side):
        total += rows[..., offset::side]
    return total / side**2


def surroundings(maps: Tensor) -> Tensor:
    """Averages over 3 x 3 positions of (..., h, w) float, zeros beyond the rim: same shape.

    The zeros matter: they shrink values at the rim, where the backbone's own padding makes features vary most.
    """
    return F.avg_pool2d(maps, 3, 1, 1)


def enlarged(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps (B, k, h', w') float brought bilinearly to (h, w) = `size`: (B, k, h, w) float.

    Ten times as fast on a CPU with the channels last in memory.
    """
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)


class Chessboard(nn.Module):
    """Reads maps at the white squares of a chessboard alone and fills in the black ones, at half the cost.

    Args:
        grid: (h, w).
    """

    white: Tensor  # (n,) int64, places of the white squares
    share: Tensor  # (h, w), for black squares one over the number of white neighbours inside, 0 for white ones
    back: Tensor  # (h w,) int64, for each position its place among (white squares, then a zero)

    def __init__(self, grid: tuple[int, int]) -> None:
        super().__init__()
        height, width = grid
        black = (torch.arange(height)[:, None] + torch.arange(width)) % 2 == 1
        share = torch.where(black, 1 / _beside(torch.ones(1, height, width))[0].clamp_min(1), 0.0)
        white = (~black).flatten().nonzero()[:, 0]
        back = torch.full((height * width,), len(white))
        back[white] = torch.arange(len(white))
        for name, value in (("white", white), ("share", share), ("back", back)):
            self.register_buffer(name, value, persistent=False)

    def take(self, maps: Tensor) -> Tensor:
        """Values of (B, k, h, w) float at the white squares, row by row: (B, n, k) float."""
        return maps.permute(0, 2, 3, 1).flatten(1, 2).index_select(1, self.white)

    def fill(self, values: Tensor) -> Tensor:
        """Map (B, h, w) float of values (B, n) float at the white squares; a black one gets its neighbours' mean."""
        maps = F.pad(values, (0, 1)).index_select(1, self.back).unflatten(1, self.share.shape)
        return maps + self.share * _beside(maps)


def _beside(maps: Tensor) -> Tensor:
    """Sum of the four neighbours of each position of (B, h, w) float, zeros outside."""
    padded = F.pad(maps, (1, 1, 1, 1))
    return padded[:, :-2, 1:-1] + padded[:, 2:, 1:-1] + padded[:, 1:-1, :-2] + padded[:, 1:-1, 2:]
