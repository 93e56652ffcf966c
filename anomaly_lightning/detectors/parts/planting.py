"""Defects made of features: noise behind a mask, for what no image of a defect shows."""

import torch
import torch.nn.functional as F
from torch import Tensor


def planted(
    layers: list[Tensor], chosen: Tensor, generator: torch.Generator, strength: tuple[float, float] = (1.0, 4.0)
) -> tuple[list[Tensor], Tensor]:
    """Layers with a random direction added behind a smooth random mask, after SuperSimpleNet (ICPR 2024, section 3.2).

    Args:
        layers: (B, C_i, h_i, w_i) float, standardised; the first has the finest grid.
        chosen: (B,) bool, images that get some.
        generator: Draws it, on the layers' device.
        strength: Least and greatest standard deviation of what is added, in those of the features.

    Returns:
        The layers, and the share of every position of the finest grid that was changed, (B, 1, h, w) float.
    """
    count, device = len(chosen), layers[0].device
    size = (layers[0].shape[-2], layers[0].shape[-1])

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, 1, 1, 1, generator=generator, device=device)

    def normal(*shape: int) -> Tensor:
        return torch.randn(count, *shape, generator=generator, device=device)

    cells = F.interpolate(normal(1, 5, 5), size=size, mode="bilinear", align_corners=True)
    level = cells.amax((2, 3), keepdim=True) * uniform(0.3, 0.8)
    mask = ((cells > level) & (cells > 0)).float() * chosen.view(-1, 1, 1, 1)
    scale = uniform(*strength)

    def changed(layer: Tensor) -> Tensor:
        there = F.adaptive_avg_pool2d(mask, (layer.shape[-2], layer.shape[-1]))
        return layer + there * scale * (normal(layer.shape[1], 1, 1) + 0.5 * normal(*layer.shape[1:]))

    return [changed(layer) for layer in layers], mask
