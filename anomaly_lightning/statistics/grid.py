"""Linear operations along the grid, each as cheap as its layout allows: averages, enlargement, surroundings."""

import math
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


def enlarged(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps (B, k, h, w) float brought to `size` as `F.interpolate` does it bilinearly: (B, k, *size) float.

    Bilinear enlargement is one small matrix along each axis. With the channels last, which is how the result lies in
    memory, both are matrix products: a fifth of the time of `F.interpolate` on a CPU.
    """
    rows, columns = (linear(*pair, maps.dtype, maps.device) for pair in zip(maps.shape[-2:], size, strict=True))
    return _along_both(maps, rows, columns)


def surroundings(maps: Tensor, every: int = 1) -> Tensor:
    """Averages over the 3 x 3 positions around every n-th one of (B, k, h, w) float, zeros beyond the rim.

    Returns:
        (B, k, ceil(h / every), ceil(w / every)) float, channels last in memory.
    """
    rows, columns = _bands(maps)
    return _along_both(maps, rows[::every], columns[::every])


def between(maps: Tensor, size: tuple[int, int], every: int) -> Tensor:
    """Values at every n-th position, (B, ceil(h / every), ...) float, as values everywhere: (B, h, w) = (B, *size).

    Linear between the positions, constant beyond the last one.
    """
    if every == 1:
        return maps
    rows, columns = (_between(side, every, maps.dtype, maps.device) for side in size)
    return rows @ maps @ columns.T


def inside(maps: Tensor) -> Tensor:
    """Share of the 3 x 3 surroundings of each position of (..., h, w) float that lies inside the grid: (h, w) float."""
    rows, columns = (band.sum(1) for band in _bands(maps))
    return torch.outer(rows, columns)


def _along_both(maps: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Maps (B, k, h, w) times `rows` (H, h) along the height and `columns` (W, w) along the width: (B, k, H, W)."""
    last = maps.permute(0, 2, 3, 1)  # (B, h, w, k)
    batch, height, width, channels = last.shape
    down = torch.matmul(rows, last.reshape(batch, height, width * channels))  # (B, H, w k)
    across = torch.matmul(columns, down.view(batch, len(rows), width, channels))  # (B, H, W, k)
    return across.permute(0, 3, 1, 2)


@lru_cache(maxsize=64)
def linear(cells: int, wanted: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """What each of `cells` values adds to each of `wanted` ones under bilinear interpolation, (wanted, cells)."""
    with torch.inference_mode(False), torch.no_grad():
        each = torch.eye(cells, dtype=torch.float64)[:, None, :, None]  # (cells, 1, cells, 1): one map a cell
        resized = F.interpolate(each, size=(wanted, 1), mode="bilinear", align_corners=False)
        return resized[:, 0, :, 0].T.contiguous().to(device, dtype)


def _bands(maps: Tensor) -> tuple[Tensor, Tensor]:
    """The matrices of `surroundings` for the height and the width of maps (..., h, w) float."""
    height, width = (_band(side, maps.dtype, maps.device) for side in maps.shape[-2:])
    return height, width


@lru_cache(maxsize=64)
def _band(side: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A third of each value and of its two neighbours, (side, side)."""
    with torch.inference_mode(False), torch.no_grad():
        return (torch.ones(side, side).triu(-1).tril(1) / 3).to(device, dtype)


@lru_cache(maxsize=64)
def _between(side: int, every: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """What the value at each n-th position adds to each position, (side, ceil(side / every))."""
    with torch.inference_mode(False), torch.no_grad():
        known = math.ceil(side / every)
        place = (torch.arange(side, dtype=torch.float64) / every).clamp(max=known - 1)
        return (1 - (place[:, None] - torch.arange(known)).abs()).clamp_min(0).to(device, dtype)
