"""Autoencoder of frozen features, trained to rebuild those of good parts; the error is what it can't rebuild."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anomaly_lightning.errors import UserError
from anomaly_lightning.models.base import Detector

FORMS = ("spatial", "pointwise")


class Autoencoder(Detector):
    """Encoder and decoder over features standardised per channel, trained with the mean squared error.

    Two forms. `pointwise` squeezes each position through 1x1 convolutions on its own, the classic of the field
    (Yang et al. 2020, DFR). `spatial` halves the grid in every stage with strided 3x3 convolutions and builds it up
    again, so that a position has to be told by its surroundings; it holds for rotated objects, where the first fails.

    Args:
        form: "spatial" or "pointwise".
        width: Channels of the hidden layers.
        latent: Channels at the bottleneck.
        stages: How often `spatial` halves the grid.
        noise: Standard deviation of Gaussian noise on the standardised input while training (0 = none).
    """

    trainable = True
    mean: Tensor
    std: Tensor

    def __init__(
        self, form: str = "spatial", width: int = 128, latent: int = 64, stages: int = 3, noise: float = 0.0
    ) -> None:
        super().__init__()
        if form not in FORMS:
            raise UserError(f"model.form={form}: expected one of {', '.join(FORMS)}.")
        if min(width, latent, stages) < 1 or noise < 0:
            raise UserError("model.width, model.latent and model.stages must be 1 or more, model.noise 0 or more.")
        self.form, self.width, self.latent, self.stages, self.noise = form, width, latent, stages, noise
        self._count, self._sum, self._squares = 0, torch.empty(0), torch.empty(0)

    def build(self, shape: tuple[int, int, int]) -> None:
        """Make both networks for features of shape (C, h, w)."""
        channels, height, width = shape
        self.register_buffer("mean", torch.zeros(channels, 1, 1))
        self.register_buffer("std", torch.ones(channels, 1, 1))
        if self.form == "pointwise":
            self.encoder: nn.Module = _pointwise(channels, self.width, self.latent)
            self.decoder: nn.Module = _pointwise(self.latent, self.width, channels)
            return
        sizes = [(math.ceil(height / 2**i), math.ceil(width / 2**i)) for i in range(self.stages)]
        self.encoder = _encoder(channels, self.width, self.latent, self.stages)
        self.decoder = _decoder(self.latent, self.width, channels, sizes[::-1])

    def observe(self, features: Tensor) -> None:
        """Take (B, C, h, w) float into the channels' mean and standard deviation, in float64."""
        values = features.double().transpose(0, 1).flatten(1)  # (C, B * h * w)
        if self._count == 0:
            self._sum, self._squares = torch.zeros_like(values[:, 0]), torch.zeros_like(values[:, 0])
        self._count += values.shape[1]
        self._sum += values.sum(1)
        self._squares += (values**2).sum(1)

    def finish(self) -> None:
        """Set the standardisation; a channel that never varies keeps its scale."""
        if self._count == 0:
            return
        mean = self._sum / self._count
        std = (self._squares / self._count - mean**2).clamp_min(0).sqrt()
        std = torch.where(std > 1e-6, std, torch.ones_like(std))
        self.mean.copy_(mean.view(-1, 1, 1))
        self.std.copy_(std.view(-1, 1, 1))
        self._count = 0

    def standardised(self, features: Tensor) -> Tensor:
        """Features (B, C, h, w) float with mean 0 and variance 1 per channel over the training set."""
        return (features - self.mean) / self.std

    def reconstruct(self, standardised: Tensor) -> Tensor:
        """What the network makes of standardised features (B, C, h, w) float, same shape."""
        return self.decoder(self.encoder(standardised))

    def loss(self, features: Tensor) -> Tensor:
        """Mean squared error over features (B, C, h, w) float: () float; noisy input, clean target while training."""
        target = self.standardised(features)
        noisy = target + self.noise * torch.randn_like(target) if self.training and self.noise else target
        return F.mse_loss(self.reconstruct(noisy), target)

    def error_map(self, features: Tensor) -> Tensor:
        """Squared error averaged over the channels: (B, h, w) float for features (B, C, h, w) float."""
        was_training = self.training
        self.eval()
        try:
            target = self.standardised(features)
            return ((self.reconstruct(target) - target) ** 2).mean(1)
        finally:
            self.train(was_training)


def _pointwise(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, hidden, 1, bias=False), nn.BatchNorm2d(hidden), nn.ReLU(), nn.Conv2d(hidden, outputs, 1)
    )


def _encoder(inputs: int, hidden: int, latent: int, stages: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(stages - 1):
        layers += [nn.Conv2d(inputs, hidden, 3, 2, 1, bias=False), nn.BatchNorm2d(hidden), nn.ReLU()]
        inputs = hidden
    return nn.Sequential(*layers, nn.Conv2d(inputs, latent, 3, 2, 1))


def _decoder(latent: int, hidden: int, outputs: int, sizes: list[tuple[int, int]]) -> nn.Sequential:
    """Upsample and convolve: cheaper than transposed convolutions, and without their checkerboard."""
    layers: list[nn.Module] = []
    for size in sizes[:-1]:
        layers += [nn.Upsample(size), nn.Conv2d(latent, hidden, 3, 1, 1, bias=False), nn.BatchNorm2d(hidden), nn.ReLU()]
        latent = hidden
    return nn.Sequential(*layers, nn.Upsample(sizes[-1]), nn.Conv2d(latent, outputs, 3, 1, 1))
