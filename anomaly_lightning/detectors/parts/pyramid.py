"""The U-Net's network: from layers of several grids to one map on the finest."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from anomaly_lightning.detectors.parts.grid import enlarged


class Pyramid(nn.Module):
    """Decoder of a U-Net (Ronneberger et al., MICCAI 2015) whose encoder is a frozen backbone.

    From the coarsest layer to the finest: two 3 x 3 convolutions (one after the first), a 1 x 1 convolution to half as
    many channels, enlarged bilinearly and put beside the next layer.

    Args:
        channels: Of each layer, the finest first.
        widths: Channels behind each layer's convolutions, the coarsest first; the last holds for all further ones.

    Attributes:
        packed: Blocks and links with packed weights, while they are asked for (see `pack`).
    """

    def __init__(self, channels: Sequence[int], widths: Sequence[int]) -> None:
        super().__init__()
        wide = [widths[min(level, len(widths) - 1)] for level in range(len(channels))]
        self.blocks, self.links = nn.ModuleList(), nn.ModuleList()
        below = 0
        for level, (inputs, width) in enumerate(zip(reversed(channels), wide, strict=True)):
            block = [_block(inputs + below, width), *([_block(width, width)] if level == 0 else [])]
            self.blocks.append(nn.Sequential(*block))
            below = max(1, width // 2)
            last = level == len(channels) - 1
            self.links.append(nn.Conv2d(width, 1 if last else below, 1))
        self.packed: list[tuple[nn.Module, nn.Module]] | None = None
        self.register_load_state_dict_post_hook(_unpacked)

    def pack(self, by: Callable[[nn.Module], nn.Module] | None) -> None:
        """Compute with what `by` makes of each block and link from now on (`features.packing`); None = no longer.

        For inference on the CPU. Loading other weights, or training, undoes it.
        """
        self.packed = None
        if by is not None:
            self.eval()
            self.packed = [(by(block), by(link)) for block, link in self._steps()]

    def train(self, mode: bool = True) -> "Pyramid":
        """As `nn.Module.train`."""
        if mode:
            self.packed = None
        return super().train(mode)

    def _steps(self) -> list[tuple[nn.Module, nn.Module]]:
        return list(zip(self.blocks, self.links, strict=True))

    def forward(self, layers: list[Tensor]) -> Tensor:
        """Logits (B, 1, h, w) float of layers (B, C_i, h_i, w_i) float, the finest first, whose grid they have."""
        seen: Tensor | None = None
        for layer, (block, link) in zip(reversed(layers), self.packed or self._steps(), strict=True):
            below = [] if seen is None else [enlarged(seen, (layer.shape[-2], layer.shape[-1]))]
            seen = link(block(torch.cat([layer, *below], 1)))
        assert seen is not None, "there is a layer"
        return seen


def _unpacked(pyramid: Pyramid, _: object) -> None:
    pyramid.pack(None)


def _block(inputs: int, outputs: int) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())
