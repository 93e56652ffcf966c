"""Several linear steps on the channels of features, folded into one matrix once they are known."""

import torch
from torch import Tensor, nn

from anomaly_lightning.detectors.parts.moments import ChannelMoments


class ChannelView(nn.Module):
    """Linear map of standardised features that is applied to features as they are.

    What it holds follows from other modules' buffers, so that it is in no state dict: whoever owns it calls `set`
    after those change, and `clear` where they are about to.
    """

    matrix: Tensor  # (C, k)
    offset: Tensor  # (k,)

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("matrix", torch.empty(0), persistent=False)
        self.register_buffer("offset", torch.empty(0), persistent=False)

    @property
    def ready(self) -> bool:
        """Whether `set` was called since the last `clear`."""
        return self.matrix.numel() > 0

    def set(self, rows: Tensor, moments: ChannelMoments) -> None:
        """Look along `rows` (k, C) float of features standardised by `moments`."""
        scaled = rows / moments.std.flatten()
        self.offset = -(scaled @ moments.mean.flatten())
        self.matrix = scaled.T.contiguous()

    def clear(self) -> None:
        """Reset."""
        self.matrix, self.offset = self.matrix.new_empty(0), self.offset.new_empty(0)

    def forward(self, features: Tensor) -> Tensor:
        """What is seen of features (B, C, h, w) float: (B, k, h, w) float, channels last in memory."""
        positions = features.flatten(2).transpose(1, 2)  # (B, h w, C)
        seen = torch.baddbmm(self.offset, positions, self.matrix.expand(features.shape[0], -1, -1))
        return seen.unflatten(1, features.shape[-2:]).permute(0, 3, 1, 2)
