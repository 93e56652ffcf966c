"""Mean and standard deviation per channel, in one pass."""

import torch
from torch import Tensor, nn

ROUNDING = 1e-6  # share of their own size that equal values seem to vary by: they came as float32


class ChannelMoments(nn.Module):
    """Standardises features per channel with what it observed, in float64.

    Args:
        channels: C, number of channels.
    """

    mean: Tensor  # (C, 1, 1)
    std: Tensor  # (C, 1, 1)

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels, 1, 1))
        self.register_buffer("std", torch.ones(channels, 1, 1))
        self._count, self._sum, self._squares = 0, torch.empty(0), torch.empty(0)

    def observe(self, features: Tensor) -> None:
        """Take (B, C, h, w) float into the sums; the first call after `finish` starts anew."""
        values = features.double().transpose(0, 1).flatten(1)  # (C, B h w)
        if self._count == 0:
            self._sum, self._squares = torch.zeros_like(values[:, 0]), torch.zeros_like(values[:, 0])
        self._count += values.shape[1]
        self._sum += values.sum(1)
        self._squares += values.square().sum(1)

    def finish(self) -> None:
        """Set mean and std; a channel that hardly varies is not blown up.

        The floor is a twentieth of the mean std: channels of a pretrained backbone vary by more than a fourth of it,
        dead ones by nothing, and dividing by that would let a trace of a response rule every score. Where all of them
        vary by no more than rounding, as on images of one colour, they are only centred.
        """
        if self._count == 0:
            return
        mean = self._sum / self._count
        std = (self._squares / self._count - mean.square()).clamp_min(0).sqrt()
        spread, size = float(std.mean()), float((self._squares / self._count).mean().sqrt())
        floor = 0.05 * spread if spread > ROUNDING * size else 1.0
        self.mean.copy_(mean.view(-1, 1, 1))
        self.std.copy_(std.clamp_min(floor).view(-1, 1, 1))
        self._count = 0

    def forward(self, features: Tensor) -> Tensor:
        """Features (B, C, h, w) float with mean 0 and variance 1 per channel over what was observed."""
        return (features - self.mean) / self.std
