"""Random projection of channels, so that the cost of what follows does not depend on the backbone."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Projection(nn.Module):
    """Projects C channels onto at most `directions` random orthonormal directions; fewer channels pass as they are.

    Distances are kept in the mean (Johnson & Lindenstrauss 1984); a random orthonormal basis in place of a choice of
    channels is what Defard et al. 2021 (section III-C) do by the latter.

    Args:
        channels: C.
        directions: Most channels that leave.
        seed: Of the directions.
    """

    basis: Tensor | None  # (k, C, 1, 1)

    def __init__(self, channels: int, directions: int, seed: int = 0) -> None:
        super().__init__()
        self.channels = min(channels, directions)
        basis = None
        if channels > directions:
            normal = torch.randn(channels, directions, generator=torch.Generator().manual_seed(seed))
            basis = torch.linalg.qr(normal).Q.T[:, :, None, None].contiguous()
        self.register_buffer("basis", basis)

    def forward(self, features: Tensor) -> Tensor:
        """Features (B, C, h, w) float as (B, k, h, w) float, k = min(C, directions)."""
        return features if self.basis is None else F.conv2d(features, self.basis)
