"""Backbone features of several layers on one common grid."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from anomaly_lightning.errors import UserError
from anomaly_lightning.features.alignment import Alignment
from anomaly_lightning.features.backbone import Backbone
from anomaly_lightning.features.precision import Precision


class FeatureExtractor(nn.Module):
    """Backbone plus alignment of its layers.

    Args:
        backbone: The frozen network.
        grid: As the next two and `groups`, of `Alignment`.
        neighbourhood: See there.
        coarse: See there.
        precision: Arithmetic of the backbone's forward, 32 or "bf16"; pooling is done in float32.
        groups: See there.
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
        self.alignment = Alignment(len(backbone.layers), grid, neighbourhood, coarse, groups)
        self.backbone, self.precision = backbone, Precision(precision)

    def packed(self) -> "FeatureExtractor":
        """One of the same backbone whose layers keep their own grids, folded into the channels of the coarsest."""
        return FeatureExtractor(self.backbone, coarse="packed", precision=self.precision.name)

    def train(self, mode: bool = True) -> "FeatureExtractor":
        """Stay in evaluation mode, like the backbone."""
        return super().train(False)

    def forward(self, images: Tensor) -> Tensor:
        """Aligned features (B, C, h, w) float of images (B, 3, H, W) float32; C is the sum over layers, or groups.

        In memory the channels come last, as the backbone computes them; a store turns them round for its file.
        """
        aligned: Tensor = self.alignment(self.layers(images))
        return aligned

    def layers(self, images: Tensor) -> list[Tensor]:
        """Layers (B, C_i, h_i, w_i) float of images (B, 3, H, W) float32, each on its own grid."""
        with self.precision(images.device):
            layers = self.backbone(images)
        return [layer.to(images.dtype) for layer in layers]

    @torch.inference_mode()
    def scales(self, size: tuple[int, int]) -> tuple[tuple[int, int, int], ...]:
        """(C_i, h_i, w_i) of each layer for an image of `size` (H, W), where they are packed; else ()."""
        if self.alignment.coarse != "packed":
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
        parameter, name, groups = next(self.parameters()), self.backbone.name, self.alignment.groups
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
        if groups is not None and len({layer.shape[1] for layer in layers}) > 1:
            raise UserError(
                f"features.groups={groups}: the layers of {name} have {[layer.shape[1] for layer in layers]} "
                "channels. Only layers of as many channels can be averaged; set features.groups=null."
            )
        channels, height, width = self.alignment(layers)[0].shape
        return channels, height, width
