"""Small networks that rebuild what they see through a bottleneck."""

from itertools import pairwise

from torch import nn


def pointwise(channels: int, hidden: int, latent: int) -> nn.Sequential:
    """Four 1x1 convolutions, channels, hidden, latent, hidden, channels: from (B, channels, h, w) float to the same.

    Every position is squeezed on its own (Yang et al. 2020, DFR).
    """

    def half(inputs: int, outputs: int) -> list[nn.Module]:
        convolution = nn.Conv2d(inputs, hidden, 1, bias=False)
        return [convolution, nn.BatchNorm2d(hidden), nn.ReLU(), nn.Conv2d(hidden, outputs, 1)]

    return nn.Sequential(*half(channels, latent), *half(latent, channels))


def spatial(channels: int, hidden: int, latent: int, stages: int) -> nn.Sequential:
    """Strided 3x3 convolutions to the bottleneck and transposed ones back: channels, hidden, ..., hidden, latent.

    From (B, channels, h, w) float to as many channels on a grid whose sides are h and w rounded up to a multiple of
    2 ** stages.
    """
    widths = [channels, *[hidden] * (stages - 1), latent]
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Conv2d(inputs, outputs, 3, 2, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
    for inputs, outputs in zip(widths[:1:-1], widths[-2:0:-1], strict=True):
        layers += [nn.ConvTranspose2d(inputs, outputs, 4, 2, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.ConvTranspose2d(widths[1], channels, 4, 2, 1))
