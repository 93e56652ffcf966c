"""Small networks that rebuild what they see through a bottleneck."""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from anomaly_lightning.errors import UserError


class Pointwise(nn.Module):
    """Four 1x1 convolutions, channels, width, latent, width, channels: each position alone (Yang et al. 2020, DFR).

    Args:
        width: Channels of the hidden layers.
        latent: Channels at the bottleneck.
    """

    def __init__(self, width: int = 96, latent: int = 64) -> None:
        super().__init__()
        if min(width, latent) < 1:
            raise UserError(f"model.network.width and latent must be 1 or more; got {width} and {latent}.")
        self.width, self.latent = width, latent

    def build(self, channels: int) -> None:
        """Make the layers for inputs of so many channels."""

        def half(inputs: int, outputs: int) -> list[nn.Module]:
            convolution = nn.Conv2d(inputs, self.width, 1, bias=False)
            return [convolution, nn.BatchNorm2d(self.width), nn.ReLU(), nn.Conv2d(self.width, outputs, 1)]

        self.layers = nn.Sequential(*half(channels, self.latent), *half(self.latent, channels))

    def forward(self, inputs: Tensor) -> Tensor:
        """Reconstruction of (B, C, h, w) float: same shape."""
        rebuilt: Tensor = self.layers(inputs)
        return rebuilt


class Strided(nn.Module):
    """Sizes of networks of strided 3x3 convolutions to a small latent grid and back.

    Args:
        width: Channels of the hidden layers.
        latent: Channels at the bottleneck.
        stages: How often the grid is halved.
    """

    def __init__(self, width: int = 96, latent: int = 64, stages: int = 2) -> None:
        super().__init__()
        check_sizes(width, latent, stages)
        self.width, self.latent, self.stages = width, latent, stages

    def widths(self, channels: int) -> list[int]:
        """Channels from an input of so many to the bottleneck, before and after each halving."""
        return [channels, *[self.width] * (self.stages - 1), self.latent]


class Spatial(Strided):
    """Strided 3x3 convolutions to the bottleneck and transposed ones back.

    A position has to be explained by its surroundings, which holds for rotated objects, where `Pointwise` fails.
    """

    def build(self, channels: int) -> None:
        """Make the layers for inputs of so many channels."""
        widths = self.widths(channels)
        self.layers = nn.Sequential(*halving(widths), *doubling(widths[::-1]))

    def forward(self, inputs: Tensor) -> Tensor:
        """Reconstruction of (B, C, h, w) float: same shape. A decoder doubles sizes, so odd ones are cut."""
        rebuilt: Tensor = self.layers(inputs)
        return rebuilt[..., : inputs.shape[-2], : inputs.shape[-1]]


def check_sizes(width: int, latent: int, stages: int) -> None:
    """Raise `UserError` where a network of so many channels and stages can't be made."""
    if min(width, latent, stages) < 1:
        raise UserError(
            f"model.network.width, latent and stages must be 1 or more; got {width}, {latent} and {stages}."
        )


def halving(widths: Sequence[int]) -> list[nn.Module]:
    """Layers that halve the grid from each of these numbers of channels to the next; odd sizes are rounded up."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Conv2d(inputs, outputs, 3, 2, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
    return layers


def doubling(widths: Sequence[int]) -> list[nn.Module]:
    """Layers that double the grid from each of these numbers of channels to the next, the last one linear."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths[:-1]):
        layers += [nn.ConvTranspose2d(inputs, outputs, 4, 2, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
    return [*layers, nn.ConvTranspose2d(widths[-2], widths[-1], 4, 2, 1)]
