"""Layers of a backbone on one common grid, or folded into one tensor with each its own."""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anomaly_lightning.errors import UserError

COARSE = ("bilinear", "average", "packed")


class Alignment(nn.Module):
    """Adaptive average pooling of layers to one grid.

    Args:
        layers: How many layers there are.
        grid: Height and width of the common grid, one number for a square; None = that of the shallowest layer.
        coarse: How a layer coarser than the grid is brought to it: "bilinear", or "average" (adaptive average pooling,
            which repeats its values). Finer layers are always pooled. "packed": no layer is resampled; the finer ones
            are folded into the channels of the coarsest grid (space to depth), for detectors that unfold them.
        neighbourhood: Side of the square that each position is averaged over first (odd; 1 = none), as in
            PatchCore (Roth et al. 2021, eq. 2) with adaptive average pooling as the aggregation.
        groups: The layers are cut into so many runs of consecutive ones, as equal as can be, and each run is averaged;
            None = every layer for itself. The layers must have the same number of channels.

    Raises:
        UserError: A value without a meaning.
    """

    def __init__(
        self,
        layers: int,
        grid: int | Sequence[int] | None = None,
        neighbourhood: int = 1,
        coarse: str = "bilinear",
        groups: int | None = None,
    ) -> None:
        super().__init__()
        if groups is not None and not 1 <= groups <= layers:
            raise UserError(f"features.groups={groups}: expected null or 1 to {layers}, the number of backbone.layers.")
        if coarse not in COARSE:
            raise UserError(f"features.coarse={coarse}: expected one of {', '.join(COARSE)}.")
        if coarse == "packed" and (grid is not None or groups is not None):
            raise UserError(
                "features.coarse=packed keeps each layer's grid: expected features.grid=null and features.groups=null, "
                f"got {grid} and {groups}."
            )
        if neighbourhood < 1 or neighbourhood % 2 == 0:
            raise UserError(f"features.neighbourhood={neighbourhood}: expected an odd number, 1 for none.")
        self.grid = None if grid is None else _pair(grid)
        self.neighbourhood, self.coarse, self.groups = neighbourhood, coarse, groups

    def forward(self, layers: list[Tensor]) -> Tensor:
        """Layers (B, C_i, h_i, w_i) float on the common grid, one after the other: (B, C, h, w) float."""
        if self.neighbourhood > 1:
            side = self.neighbourhood
            layers = [F.avg_pool2d(layer, side, 1, side // 2, count_include_pad=False) for layer in layers]
        if self.coarse == "packed":
            return torch.cat([F.pixel_unshuffle(layer, ratio) for layer, ratio in _folding(layers)], dim=1)
        grid = self.grid or (layers[0].shape[-2], layers[0].shape[-1])
        aligned = [self._on_grid(layer, grid) for layer in layers]
        return torch.cat(aligned if self.groups is None else _averaged(aligned, self.groups), dim=1)

    def _on_grid(self, layer: Tensor, grid: tuple[int, int]) -> Tensor:
        """One layer (B, C, h, w) float on the common grid."""
        if layer.shape[-2:] == grid:
            return layer
        if self.coarse == "bilinear" and (layer.shape[-2] < grid[0] or layer.shape[-1] < grid[1]):
            return F.interpolate(layer, size=grid, mode="bilinear", align_corners=False)
        return F.adaptive_avg_pool2d(layer, grid)


def _pair(grid: int | Sequence[int]) -> tuple[int, int]:
    """(height, width) of one number, or of the two.

    Raises:
        UserError: It is neither.
    """
    sides = [grid, grid] if isinstance(grid, int) else list(grid)
    if len(sides) != 2 or not all(isinstance(side, int) and side > 0 for side in sides):
        raise UserError(f"features.grid={grid}: expected null, one number or [height, width], of 1 or more.")
    return sides[0], sides[1]


def _folding(layers: list[Tensor]) -> list[tuple[Tensor, int]]:
    """Layers (B, C_i, h_i, w_i) float, each with the ratio of its grid to the coarsest.

    Raises:
        UserError: The grids are no multiples of the coarsest.
    """
    height, width = min((layer.shape[-2], layer.shape[-1]) for layer in layers)
    ratios = [layer.shape[-2] // height for layer in layers]
    wanted = [(ratio * height, ratio * width) for ratio in ratios]
    if (found := [(layer.shape[-2], layer.shape[-1]) for layer in layers]) != wanted:
        raise UserError(
            f"Layers with grids of {found} can't be packed (features.coarse=packed, or a localiser). Expected "
            "multiples of the coarsest: choose a data.image_size that its stride divides (256, say), or a method that "
            "needs no packed layers (localiser=none, features=default)."
        )
    return list(zip(layers, ratios, strict=True))


def _averaged(layers: list[Tensor], groups: int) -> list[Tensor]:
    """Means (B, C, h, w) float of so many runs of layers (B, C, h, w) float."""
    bounds = [round(number * len(layers) / groups) for number in range(groups + 1)]
    return [torch.stack(layers[start:end]).mean(0) for start, end in pairwise(bounds)]
