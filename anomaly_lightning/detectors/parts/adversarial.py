"""What a GAN that rebuilds its input is made of: networks for a grid of features and for pixels, and its losses."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anomaly_lightning.detectors.parts.networks import Strided, doubling, halving
from anomaly_lightning.errors import UserError


class GridNetworks(Strided):
    """Makes the networks for a grid of features."""

    def encoder(self, channels: int, grid: tuple[int, int]) -> nn.Sequential:
        """From (B, C, h, w) to (B, latent, h', w') float."""
        return nn.Sequential(*halving(self.widths(channels)))

    def decoder(self, channels: int, grid: tuple[int, int]) -> nn.Sequential:
        """Back again; the result may be larger than the grid at its lower and right edge."""
        return nn.Sequential(*doubling(self.widths(channels)[::-1]))

    def critic(self, channels: int, grid: tuple[int, int]) -> tuple[nn.Sequential, nn.Conv2d]:
        """From (B, C, h, w) float to the features that are matched, and from those to logits, both half as large."""
        return nn.Sequential(*halving((channels, self.width))), nn.Conv2d(self.width, 1, 1)


class PixelNetworks(nn.Module):
    """Makes GANomaly's networks for images: those of DCGAN, to one latent vector and back.

    4 x 4 convolutions halve the image and double the channels from the second on; one as large as the rest gives
    the vector. What is rebuilt has no tanh at its end, because images are standardised here.

    Args:
        width: Channels of the first layer, 64 in the paper.
        latent: Length of the vector, 100 in the paper.
        stages: How often the image is halved; None = until four to seven rows or columns are left.
    """

    def __init__(self, width: int = 64, latent: int = 100, stages: int | None = None) -> None:
        super().__init__()
        if min(width, latent, stages or 1) < 1 or stages == 0:
            raise UserError(
                "model.network.width, latent and stages must be 1 or more (stages: or null); got "
                f"{width}, {latent} and {stages}."
            )
        self.width, self.latent, self.stages = width, latent, stages

    def encoder(self, channels: int, grid: tuple[int, int]) -> nn.Sequential:
        """From (B, C, H, W) to (B, latent, 1, 1) float."""
        body, widths, rest = self._body(channels, grid)
        return nn.Sequential(*body, nn.Conv2d(widths[-1], self.latent, rest, bias=False))

    def decoder(self, channels: int, grid: tuple[int, int]) -> nn.Sequential:
        """Back again."""
        _, widths, rest = self._body(channels, grid)
        layers: list[nn.Module] = [nn.ConvTranspose2d(self.latent, widths[-1], rest, bias=False)]
        for inputs, outputs in zip(widths[:0:-1], widths[-2::-1], strict=True):
            layers += [nn.BatchNorm2d(inputs), nn.ReLU(), nn.ConvTranspose2d(inputs, outputs, 4, 2, 1, bias=False)]
        return nn.Sequential(*layers)

    def critic(self, channels: int, grid: tuple[int, int]) -> tuple[nn.Sequential, nn.Conv2d]:
        """The encoder's layers but the last, and one that makes a logit, (B, 1, 1, 1) float, of what they give."""
        body, widths, rest = self._body(channels, grid)
        return nn.Sequential(*body), nn.Conv2d(widths[-1], 1, rest)

    def _body(self, channels: int, grid: tuple[int, int]) -> tuple[list[nn.Module], list[int], tuple[int, int]]:
        """Layers that halve, the channels before and behind each, and the (h, w) that is left.

        Raises:
            UserError: A side can't be halved so often.
        """
        stages = self.stages or max(1, (min(grid) // 4).bit_length() - 1)
        if any(side % 2**stages for side in grid):
            raise UserError(
                f"data.image_size: this model halves {grid[0]}x{grid[1]} pixels {stages} times. Expected sides that "
                f"are multiples of {2**stages}."
            )
        widths = [channels, *(self.width * 2**stage for stage in range(stages))]
        layers: list[nn.Module] = []
        for stage in range(stages):
            layers.append(nn.Conv2d(widths[stage], widths[stage + 1], 4, 2, 1, bias=False))
            layers += [nn.BatchNorm2d(widths[stage + 1])] * bool(stage)
            layers.append(nn.LeakyReLU(0.2))
        return layers, widths, (grid[0] // 2**stages, grid[1] // 2**stages)


class Generator(nn.Module):
    """Encoder, decoder, and the second encoder, which looks at what was rebuilt.

    Args:
        networks: Makes them.
        channels: C of what is rebuilt.
        grid: Its (h, w).
    """

    def __init__(self, networks: GridNetworks | PixelNetworks, channels: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.encoder, self.decoder = networks.encoder(channels, grid), networks.decoder(channels, grid)
        self.second = networks.encoder(channels, grid)

    def forward(self, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Latents (B, c, h', w') and reconstruction (B, C, h, w), float, of (B, C, h, w) float."""
        latent = self.encoder(seen)
        return latent, self.decoder(latent)[..., : seen.shape[-2], : seen.shape[-1]]


class Critic(nn.Module):
    """Logits of whether an input is real, and the features behind them.

    Args:
        networks: Makes it.
        channels: C of its inputs.
        grid: Their (h, w).
    """

    def __init__(self, networks: GridNetworks | PixelNetworks, channels: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.features, self.head = networks.critic(channels, grid)

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits (B, 1, h', w') float of inputs (B, C, h, w) float."""
        logits: Tensor = self.head(self.features(inputs))
        return logits


def critic_losses(real: Tensor, rebuilt: Tensor) -> dict[str, Tensor]:
    """Cross entropy of logits (...) float of real and rebuilt inputs, and the mean probability of "real" for both."""
    total = (F.softplus(-real).mean() + F.softplus(rebuilt).mean()) / 2
    return {"total": total, "real": real.detach().sigmoid().mean(), "rebuilt": rebuilt.detach().sigmoid().mean()}


def generator_losses(
    pairs: tuple[tuple[Tensor, Tensor], ...], weights: tuple[float, float, float]
) -> dict[str, Tensor]:
    """GANomaly's losses of a generator, each () float; their weighted sum is "total" (Akcay et al., section 3.2).

    Args:
        pairs: (original, rebuilt), each (...) float: the critic's features, the inputs, the latents.
        weights: Of adversarial, contextual and latent loss, in the paper 1, 50 and 1.
    """
    matched, seen, latent = pairs
    losses = {
        "adversarial": F.mse_loss(matched[1], matched[0]),  # feature matching, equation 1
        "contextual": F.l1_loss(seen[1], seen[0]),  # equation 2
        "latent": F.mse_loss(latent[1], latent[0]),  # equation 3
    }
    total = torch.stack([weight * loss for weight, loss in zip(weights, losses.values(), strict=True)]).sum()
    return {"total": total, **losses}


class Variation:
    """Variance between images at each position and channel, from sums that stream."""

    def __init__(self) -> None:
        self.count, self._sum, self._squares = 0, torch.zeros(()), torch.zeros(())

    def observe(self, values: Tensor) -> None:
        """Take (B, ...) float into the sums."""
        self.count += len(values)
        self._sum = self._sum + values.double().sum(0)
        self._squares = self._squares + values.double().square().sum(0)

    def mean(self) -> float:
        """Mean of the variances over all positions and channels."""
        return float((self._squares / self.count - (self._sum / self.count).square()).mean())
