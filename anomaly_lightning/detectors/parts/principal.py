"""Principal axes of standardised features: the few directions that hold most of what normal images vary in."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PrincipalAxes(nn.Module):
    """Leading eigenvectors of the correlation of the channels, from one pass in float64 sums.

    Args:
        channels: C.
        count: Axes kept, at most C.
    """

    axes: Tensor  # (count, C) float32, orthonormal rows, the largest variance first

    def __init__(self, channels: int, count: int) -> None:
        super().__init__()
        self.register_buffer("axes", torch.zeros(min(count, channels), channels))
        self._count, self._sum, self._products = 0, torch.empty(0), torch.empty(0)

    def observe(self, features: Tensor) -> None:
        """Take (B, C, h, w) float into the sums; the first call after `finish` starts anew."""
        vectors = features.transpose(0, 1).flatten(1)  # (C, B h w)
        if self._count == 0:
            self._sum = vectors.new_zeros(len(vectors), dtype=torch.float64)
            self._products = vectors.new_zeros(len(vectors), len(vectors), dtype=torch.float64)
        self._count += vectors.shape[1]
        self._sum += vectors.sum(1, dtype=torch.float64)
        self._products += vectors @ vectors.T  # a batch's products in float32 are exact enough, their sums are not

    def finish(self, std: Tensor) -> None:
        """Set the axes for features divided by `std`, (C,) float."""
        if self._count == 0:
            return
        mean = self._sum / self._count
        scale = 1 / std.double()
        covariance = (self._products / self._count - torch.outer(mean, mean)) * torch.outer(scale, scale)
        vectors = torch.linalg.eigh(covariance).eigenvectors  # (C, C), ascending
        self.axes.copy_(vectors.flip(1)[:, : len(self.axes)].T)
        self._count, self._sum, self._products = 0, torch.empty(0), torch.empty(0)

    def forward(self, standardised: Tensor, count: int) -> Tensor:
        """Coordinates on the first `count` axes: (B, count, h, w) float of (B, C, h, w) float."""
        return F.conv2d(standardised, self.axes[:count, :, None, None])

    def back(self, coordinates: Tensor) -> Tensor:
        """What has these coordinates on the first k axes and none beside: (B, C, h, w) float of (B, k, h, w) float."""
        return F.conv2d(coordinates, self.axes[: coordinates.shape[1]].T[:, :, None, None])
