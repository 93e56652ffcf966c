"""Backbone features of several layers on one common grid."""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anomaly_lightning.errors import UserError
from anomaly_lightning.features.backbone import Backbone
from anomaly_lightning.features.precision import Precision

COARSE = ("bilinear", "average", "packed")


class FeatureExtractor(nn.Module):
    """Backbone plus adaptive average pooling of its layers to one grid.

    Args:
        backbone: The frozen network.
        grid: Height and width of the common grid, one number for a square; None = that of the shallowest layer.
        coarse: How a layer coarser than the grid is brought to it: "bilinear", or "average" (adaptive average pooling,
            which repeats its values). Finer layers are always pooled. "packed": no layer is resampled; the finer ones
            are folded into the channels of the coarsest grid (space to depth), for detectors that unfold them.
        neighbourhood: Side of the square that each position is averaged over first (odd; 1 = none), as in
            PatchCore (Roth et al. 2021, eq. 2) with adaptive average pooling as the aggregation.
        precision: Arithmetic of the backbone's forward, 32 or "bf16"; pooling is done in float32.
        groups: The layers are cut into so many runs of consecutive ones, as equal as can be, and each run is averaged;
            None = every layer for itself. The layers must have the same number of channels.
    """

    def __init__(
        self,
        backbone: Backbone,
        grid: int | Sequence[int] | None = None,
        neighbourhood: int = 1,
        coarse: str = "bilinear",
        precision: int | str = 32,
        groups: int | None = None,
    ) -> None:
        super().__init__()
        if groups is not None and not 1 <= groups <= len(backbone.layers):
            raise UserError(
                f"features.groups={groups}: expected null or 1 to {len(backbone.layers)}, the number of "
                "backbone.layers."
            )
        if coarse not in COARSE:
            raise UserError(f"features.coarse={coarse}: expected one of {', '.join(COARSE)}.")
        self.coarse = coarse
        if coarse == "packed" and (grid is not None or groups is not None):
            raise UserError(
                "features.coarse=packed keeps each layer's grid: expected features.grid=null and features.groups=null, "
                f"got {grid} and {groups}."
            )
        if neighbourhood < 1 or neighbourhood % 2 == 0:
            raise UserError(f"features.neighbourhood={neighbourhood}: expected an odd number, 1 for none.")
        self.backbone = backbone
        self.grid = None if grid is None else (grid, grid) if isinstance(grid, int) else (int(grid[0]), int(grid[1]))
        self.neighbourhood, self.groups = neighbourhood, groups
        self.precision = Precision(precision)

    def train(self, mode: bool = True) -> "FeatureExtractor":
        """Stay in evaluation mode, like the backbone."""
        return super().train(False)

    def forward(self, images: Tensor) -> Tensor:
        """Aligned features (B, C, h, w) float of images (B, 3, H, W) float32; C is the sum over layers, or groups.

        In memory the channels come last, as the backbone computes them; a store turns them round for its file.
        """
        with self.precision(images.device):
            layers = self.backbone(images)
        return self._aligned([layer.to(images.dtype) for layer in layers])

    def _aligned(self, layers: list[Tensor]) -> Tensor:
        """Taps (B, C_i, h_i, w_i) float on the common grid, one after the other."""
        if self.neighbourhood > 1:
            side = self.neighbourhood
            layers = [F.avg_pool2d(layer, side, 1, side // 2, count_include_pad=False) for layer in layers]
        if self.coarse == "packed":
            return torch.cat([F.pixel_unshuffle(layer, ratio) for layer, ratio in self._folding(layers)], dim=1)
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

    def _folding(self, layers: list[Tensor]) -> list[tuple[Tensor, int]]:
        """Layers (B, C_i, h_i, w_i) float, each with the ratio of its grid to the coarsest.

        Raises:
            UserError: The grids are no multiples of the coarsest.
        """
        height, width = min((layer.shape[-2], layer.shape[-1]) for layer in layers)
        ratios = [layer.shape[-2] // height for layer in layers]
        wanted = [(ratio * height, ratio * width) for ratio in ratios]
        if (found := [(layer.shape[-2], layer.shape[-1]) for layer in layers]) != wanted:
            raise UserError(
                f"features.coarse=packed: the layers of {self.backbone.name} have grids of {found}. Expected multiples "
                f"of the coarsest: choose a data.image_size that its stride divides (256, say)."
            )
        return list(zip(layers, ratios, strict=True))

    @torch.inference_mode()
    def scales(self, size: tuple[int, int]) -> tuple[tuple[int, int, int], ...]:
        """(C_i, h_i, w_i) of each layer for an image of `size` (H, W), where they are packed; else ()."""
        if self.coarse != "packed":
            return ()
        parameter = next(self.parameters())
        layers = self.backbone(torch.zeros(1, 3, *size, device=parameter.device))
        return tuple((layer.shape[1], layer.shape[2], layer.shape[3]) for layer in layers)

    @torch.inference_mode()
    def shape(self, size: tuple[int, int]) -> tuple[int, int, int]:
        """Shape (C, h, w) of the features of an image of `size` (H, W), found by one forward.

        Raises:
            UserError: The network can't see images of this size, or gives no grids, or ones that can't be averaged.
        """
        parameter, name = next(self.parameters()), self.backbone.name
        self.backbone.fit_to(size)
        try:
            layers = self.backbone(torch.zeros(1, 3, *size, device=parameter.device))
        except (AssertionError, RuntimeError) as error:
            raise UserError(f"data.image_size={list(size)}: {name} can't see images of this size ({error}).") from error
        if flat := [tuple(layer.shape) for layer in layers if layer.ndim != 4]:
            raise UserError(
                f"backbone.layers={list(self.backbone.layers)}: expected grids of features (B, C, h, w), as "
                f"convolutional networks have them; {name} gives {flat[0]}."
            )
        if self.groups is not None and len({layer.shape[1] for layer in layers}) > 1:
            raise UserError(
                f"features.groups={self.groups}: the layers of {name} have {[layer.shape[1] for layer in layers]} "
                "channels. Only layers of as many channels can be averaged; set features.groups=null."
            )
        channels, height, width = self._aligned(layers)[0].shape
        return channels, height, width


def _averaged(layers: list[Tensor], groups: int) -> list[Tensor]:
    """Means (B, C, h, w) float of so many runs of layers (B, C, h, w) float."""
    bounds = [round(number * len(layers) / groups) for number in range(groups + 1)]
    return [torch.stack(layers[start:end]).mean(0) for start, end in pairwise(bounds)]
