"""Layers that keep their own grids, out of features that hold them folded into the channels of the coarsest."""

from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor

from anomaly_lightning.detectors.base import Spec


class Scales:
    """What `features.coarse=packed` folded, and how to undo it.

    Args:
        spec: What a detector sees; without scales, the features are the one layer.

    Attributes:
        channels: Channels of each layer.
        ratios: By what each layer's grid is finer than that of the features, along either axis.
    """

    def __init__(self, spec: Spec) -> None:
        shapes = spec.scales or (spec.features,)
        self.channels = [channels for channels, _, _ in shapes]
        self.ratios = [height // spec.features[1] for _, height, _ in shapes]

    def unfolded(self, features: Tensor) -> list[Tensor]:
        """Layers (B, C_i, r_i h, r_i w) float of features (B, C, h, w) float, which may be a piece of the grid."""
        sizes = [channels * ratio**2 for channels, ratio in zip(self.channels, self.ratios, strict=True)]
        parts = features.split(sizes, 1)
        return [F.pixel_shuffle(part, ratio) for part, ratio in zip(parts, self.ratios, strict=True)]

    def folded(self, layers: list[Tensor]) -> Tensor:
        """Features (B, C, h, w) float of layers (B, C_i, r_i h, r_i w) float."""
        pairs = zip(layers, self.ratios, strict=True)
        return torch.cat([F.pixel_unshuffle(layer, ratio) for layer, ratio in pairs], 1)


@runtime_checkable
class Layered(Protocol):
    """A detector that can take layers as they are: for one image, folding and unfolding them costs a few per cent."""

    def layer_errors(self, layers: list[Tensor]) -> Tensor:
        """What `error_map` gives of the layers folded, (B, h, w) float, of layers (B, C_i, r_i h, r_i w) float."""
        ...
