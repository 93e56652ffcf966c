"""A GAN that rebuilds what it sees, on frozen features or on pixels, after GANomaly (Akcay et al., ACCV 2018)."""

import logging
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from anomaly_lightning.detectors.base import Normals, Spec, TrainedDetector
from anomaly_lightning.detectors.parts.adversarial import (
    Critic,
    Generator,
    GridNetworks,
    PixelNetworks,
    Variation,
    critic_losses,
    generator_losses,
)
from anomaly_lightning.detectors.parts.chance import StepChance, normal
from anomaly_lightning.detectors.parts.grid import averages, enlarged
from anomaly_lightning.detectors.parts.moments import ChannelMoments
from anomaly_lightning.detectors.parts.whitening import PositionWhitening
from anomaly_lightning.errors import TrainingError, UserError

logger = logging.getLogger(__name__)

COLLAPSED = 0.01  # share of the images' variance below which what is rebuilt is the same for all


class GAN(TrainedDetector):
    """Generator G = decoder(encoder) with a second encoder, and a critic of real and rebuilt features.

    Source: arXiv 1805.06725.

    The generator lowers three losses: the critic's features of what is rebuilt match those of the original
    (adversarial), the original is rebuilt (contextual), and the second encoder finds the first one's latents in what
    is rebuilt (latent). The critic lowers the cross entropy of telling both apart.

    The error is the weighted sum of three lengths: of the residual, of the difference of the latents and of that of
    the critic's features. Each is the root mean square over channels that are standardised by the differences of the
    training normals, so that each is about 1 on those; with `whitening` the residual's is its Mahalanobis length under
    the covariance of its position. The paper's score is the latents' length alone (equation 5), `errors` = [0, 1, 0].

    Args:
        network: Makes the networks: `GridNetworks` or `PixelNetworks`.
        pool: They work on averages over pool x pool positions; what they rebuild is enlarged bilinearly.
        noise: Standard deviation of Gaussian noise on what the generator sees while training (0 = none, the paper).
        loss_weights: Of adversarial, contextual and latent loss.
        errors: Weights of residual, latents and critic's features in the error.
        whitening: Measures residuals by their covariance at each position; None = channel by channel.
        seed: Of the noise and of the whitening's projection.
    """

    def __init__(
        self,
        network: GridNetworks | PixelNetworks,
        pool: int = 2,
        noise: float = 0.25,
        loss_weights: tuple[float, float, float] = (1.0, 50.0, 1.0),
        errors: tuple[float, float, float] = (1.0, 0.5, 0.5),
        whitening: PositionWhitening | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not isinstance(network, GridNetworks | PixelNetworks) or not isinstance(whitening, PositionWhitening | None):
            raise UserError(
                f"model.network={network}, model.whitening={whitening}: expected blocks with a _target_, "
                "or null for the whitening."
            )
        weights = [*loss_weights, *errors]
        threes = len(loss_weights) == len(errors) == 3
        if pool < 1 or noise < 0 or not threes or min(weights) < 0 or not sum(errors):
            raise UserError(
                "model.pool must be 1 or more, model.noise 0 or more, model.loss_weights and model.errors three "
                f"weights of 0 or more, not all errors 0; got {pool}, {noise}, {[*loss_weights]} and {[*errors]}."
            )
        self.network, self.pool, self.noise, self.whitening, self.seed = network, pool, noise, whitening, seed
        first, second, third = loss_weights
        self.loss_weights, self.errors = (first, second, third), tuple(errors)

    def build(self, spec: Spec) -> None:
        """Make networks and statistics for what is seen, (C, h, w)."""
        channels, height, width = self._seen(spec)
        grid = (-(-height // self.pool), -(-width // self.pool))
        self.condenses = self.pool > 1
        self.moments, self.chance = ChannelMoments(channels), StepChance(self.seed)
        self.generator, self.critic = Generator(self.network, channels, grid), Critic(self.network, channels, grid)
        widths = channels, self.network.latent, self.critic.head.in_channels
        self.residual_scale, self.latent_scale, self.critic_scale = (ChannelMoments(width) for width in widths)
        if self.whitening is not None:
            self.whitening.build(channels, (height, width), self.seed)

    def prepare(self, normals: Normals) -> None:
        """Set the standardisation from what is seen, (B, C, h, w) float, of training normals."""
        if self.whitening is not None:
            self.whitening.reset()
        for scale in self._scales:
            scale.mean.zero_()
            scale.std.fill_(1)
        for inputs in normals:
            self.moments.observe(inputs)
        self.moments.finish()

    def condense(self, inputs: Tensor) -> Tensor:
        """What is rebuilt of (B, C, h, w) float: standardised averages, (B, C, h / pool, w / pool) float."""
        condensed: Tensor = self.moments(averages(inputs, self.pool))
        return condensed

    def players(self) -> dict[str, list[nn.Parameter]]:
        """The critic, and the generator with its second encoder."""
        return {"critic": list(self.critic.parameters()), "generator": list(self.generator.parameters())}

    def losses(self, batch: Tensor, player: str) -> dict[str, Tensor]:
        """Losses of "critic" or "generator" for what `condense` gave, (B, C, h', w') float."""
        seen = batch
        if self.training and self.noise:
            seen = batch + self.noise * normal(batch.shape, self.chance(batch.device))
        if player == "critic":
            with torch.no_grad():
                _, rebuilt = self.generator(seen)
            return critic_losses(self.critic(batch), self.critic(rebuilt))
        latent, rebuilt = self.generator(seen)
        matched = self.critic.features(batch).detach(), self.critic.features(rebuilt)
        pairs = (matched, (batch, rebuilt), (latent, self.generator.second(rebuilt)))
        return generator_losses(pairs, self.loss_weights)

    @torch.no_grad()
    def conclude(self, normals: Normals, held_out: Normals) -> None:
        """Set the scales of the differences from training normals; say what went wrong in the training.

        Raises:
            TrainingError: The training diverged: what is rebuilt is not finite.
        """
        original, rebuilt = Variation(), Variation()
        for inputs in normals:
            differences, condensed, made = self._differences(inputs)
            original.observe(condensed)
            rebuilt.observe(made)
            for scale, difference in zip(self._scales, differences, strict=True):
                scale.observe(difference)
            if self.whitening is not None:
                self.whitening.observe(differences[0])
        self._judge(original, rebuilt)
        for scale in self._scales:
            scale.finish()
        if self.whitening is not None:
            for inputs in held_out:
                self.whitening.observe_held_out(self._differences(inputs)[0][0])
            self.whitening.finish()

    @torch.no_grad()
    def error_map(self, inputs: Tensor) -> Tensor:
        """Weighted sum of the three lengths of (B, C, h, w) float: (B, h, w) float."""
        size = (inputs.shape[-2], inputs.shape[-1])
        differences, *_ = self._differences(inputs)
        pairs = zip(self._scales, differences, strict=True)
        lengths = [enlarged(scale(one).square().mean(1, keepdim=True).sqrt(), size)[:, 0] for scale, one in pairs]
        if self.whitening is not None and self.whitening.fitted:
            lengths[0] = self.whitening(differences[0])
        return torch.stack([weight * length for weight, length in zip(self.errors, lengths, strict=True)]).sum(0)

    def _seen(self, spec: Spec) -> tuple[int, int, int]:
        """(C, h, w) of what it sees."""
        return spec.features

    @property
    def _scales(self) -> tuple[ChannelMoments, ...]:
        """Standardise the differences, in their order."""
        return self.residual_scale, self.latent_scale, self.critic_scale

    def _differences(self, inputs: Tensor) -> tuple[tuple[Tensor, ...], Tensor, Tensor]:
        """Of (B, C, h, w) float in evaluation mode: differences, what is rebuilt, and its reconstruction.

        The differences, (B, c, h', w') float each: residual, latents less those found again, critic's features.
        """
        condensed, players = self.condense(inputs), (self.generator, self.critic)
        modes = [part.training for part in players]
        for part in players:
            part.eval()
        try:
            latent, rebuilt = self.generator(condensed)
            latents = latent - self.generator.second(rebuilt)
            matched = self.critic.features(condensed) - self.critic.features(rebuilt)
        finally:
            for player, mode in zip(players, modes, strict=True):
                player.train(mode)
        residual = self.moments(inputs) - enlarged(rebuilt, (inputs.shape[-2], inputs.shape[-1]))
        return (residual, latents, matched), condensed, rebuilt

    def _judge(self, original: Variation, rebuilt: Variation) -> None:
        """Say whether the training diverged or the generator collapsed."""
        variance, made = original.mean(), rebuilt.mean()
        if not made < float("inf"):  # NaN as well
            raise TrainingError(
                "The training of the GAN diverged: what it rebuilds is not finite. Expected numbers. Choose a smaller "
                "optimizer.lr, a smaller optimizer.clip, or fewer trainer.max_steps."
            )
        if original.count > 1 and made < COLLAPSED * variance:
            logger.warning(
                "The generator collapsed: between images what it rebuilds varies by %.2g of what the images vary. The "
                "error then hardly depends on it. Choose more trainer.max_steps, a larger model.loss_weights[1] or "
                "another seed.",
                made / max(variance, 1e-12),
            )


class PixelGAN(GAN):
    """The same on images, GANomaly as it was published: `experiment=ganomaly`."""

    inputs: ClassVar[Literal["features", "images"]] = "images"

    def grid(self, spec: Spec) -> tuple[int, int]:
        """That of the pixels."""
        return spec.image

    def _seen(self, spec: Spec) -> tuple[int, int, int]:
        return (3, *spec.image)
