"""Masks of connected blobs: Perlin noise (SIGGRAPH 1985) above a limit."""

import torch
from torch import Tensor


def perlin(count: int, grid: tuple[int, int], cells: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Gradient noise, about -1 to 1, of so many cells along each axis: (count, h, w) float32.

    At a cell's corners lie random unit gradients; between them their ramps are blended by 6 t^5 - 15 t^4 + 10 t^3.

    Args:
        count: Independent fields.
        grid: (h, w).
        cells: Cells along h and along w.
        generator: Source of the gradients, on the device of the result.
    """
    device = generator.device
    angles = torch.rand(count, cells[0] + 1, cells[1] + 1, generator=generator, device=device) * 2 * torch.pi
    (row, down), (column, right) = (_places(*axis, device) for axis in zip(grid, cells, strict=True))
    corners = []
    for below in (0, 1):
        for beside in (0, 1):
            angle = angles[:, row + below][:, :, column + beside]  # (count, h, w)
            corners.append(angle.sin() * (down - below)[:, None] + angle.cos() * (right - beside))
    fade_down, fade_right = (t**3 * (6 * t**2 - 15 * t + 10) for t in (down[:, None], right))
    top, bottom = (torch.lerp(left, other, fade_right) for left, other in (corners[:2], corners[2:]))
    return 2**0.5 * torch.lerp(top, bottom, fade_down)


def perlin_masks(count: int, grid: tuple[int, int], limit: float, generator: torch.Generator) -> Tensor:
    """Masks (count, 1, h, w) float32 of ones and zeros: where noise of a random scale is above `limit`.

    Along each axis there are 1, 2, 4, ... cells, at most half as many as positions: at their corners the noise is zero.
    Every mask has scales of its own, and is empty with a chance of one half, as in SuperSimpleNet.
    """
    return torch.stack([_mask(grid, limit, generator) for _ in range(count)])


def _mask(grid: tuple[int, int], limit: float, generator: torch.Generator) -> Tensor:
    """One mask, (1, h, w) float32."""
    chances = torch.rand(3, generator=generator, device=generator.device).tolist()
    height, width = (2 ** int(chance * (side // 2).bit_length()) for side, chance in zip(grid, chances, strict=False))
    noise = perlin(1, grid, (height, width), generator)
    return (noise > limit).float() * (chances[2] < 0.5)


def _places(length: int, cells: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cell of each position along an axis, (length,) int64, and its place in it from 0 to 1, (length,) float32."""
    at = torch.arange(length, device=device) * (cells / length)
    cell = at.floor()
    return cell.long(), at - cell
