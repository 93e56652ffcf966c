"""Autoencoder of frozen features, trained to rebuild those of good parts; the error is what it can't rebuild."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anomaly_lightning.detectors.base import Detector
from anomaly_lightning.detectors.parts import (
    ChannelMoments,
    ChannelView,
    PatchMemory,
    PositionWhitening,
    PrincipalAxes,
    Projection,
)
from anomaly_lightning.detectors.parts.grid import averages, from_white_squares, white_squares
from anomaly_lightning.detectors.parts.networks import pointwise, spatial
from anomaly_lightning.errors import UserError

FORMS = ("spatial", "pointwise")
HELD = 64  # held-out images that length and memory are compared on: 42 MB of 128 and 32 channels on 32 x 32
TINY = 1e-6  # distances and lengths below it are as good as none


class Autoencoder(Detector):
    """Encoder and decoder over features standardised per channel, trained with the mean squared error.

    Two forms. `pointwise` squeezes each position through 1x1 convolutions on its own, the classic of the field
    (Yang et al. 2020, DFR). `spatial` halves the grid in every stage with strided 3x3 convolutions and builds it up
    again, so that a position has to be told by its surroundings; it holds for rotated objects, where the first fails.
    Either sees and rebuilds the features' coordinates on their leading principal axes (`components`); what lies beside
    those counts as not rebuilt.

    The residual r = features - reconstruction becomes the error in up to three steps, each of which can be left out:
    its mean square over the channels (the plain method), or its Mahalanobis length under the residuals of normals at
    the same position (`whiten`); times the distance to the nearest of a coreset of normal patches, to a power
    (`memory`); attenuated at the rim of the grid, where the backbone saw padding (`rim`). The power is how far the
    memory's mean square distance of held-out normals stays below that of standardised noise, in [0, 1]: where normals
    repeat, the memory counts, where they don't, it is silent. It is up to doubled where the length is the less even of
    the two over held-out normals, as it is where parts lie at any angle and a position means little: by the ratio of
    their logarithms' standard deviations.

    Args:
        form: "spatial" or "pointwise".
        width: Channels of the hidden layers.
        latent: Channels at the bottleneck.
        components: Principal axes that the network works on; None = the channels themselves.
        stages: How often `spatial` halves the grid, after `pool`.
        pool: The network works on averages over pool x pool positions; its reconstruction is enlarged bilinearly.
        noise: Standard deviation of Gaussian noise on the standardised input while training (0 = none).
        whiten: Whether residuals are measured by their covariance per position.
        prior: Images' worth of the covariance common to all positions in that of each.
        directions: Most channels that the covariance works on; more are projected at random. While fitting it takes
            4 h w directions^2 bytes (32 x 32 and 128: 67 MB).
        rank: Directions of its own that the covariance of a position has; 4 h w rank directions bytes (13 MB).
        memory: Patches in the memory, 0 = none.
        memory_components: Principal axes that the memory works on.
        memory_sparse: Whether the memory is asked at the white squares of a chessboard alone, at half the cost; the
            black ones get the mean of those beside them.
        rim: Whether errors at the rim of the grid are attenuated, by 1/3 at an edge and 5/9 in a corner.
        seed: Of the projection and of the memory's sample.
    """

    trainable = True
    power: Tensor  # () float in [0, 2], how much the memory counts
    steps: Tensor  # () int64, noisy batches so far
    back: Tensor  # (k, components, 1, 1), from what the network rebuilds to what `view` sees of it

    def __init__(
        self,
        form: str = "spatial",
        width: int = 96,
        latent: int = 64,
        components: int | None = 48,
        stages: int = 2,
        pool: int = 2,
        noise: float = 0.25,
        whiten: bool = True,
        prior: float = 64.0,
        directions: int = 128,
        rank: int = 24,
        memory: int = 2000,
        memory_components: int = 32,
        memory_sparse: bool = True,
        rim: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if form not in FORMS:
            raise UserError(f"model.form={form}: expected one of {', '.join(FORMS)}.")
        counts = (width, latent, stages, pool, directions, rank, memory_components)
        if min(counts) < 1 or (components is not None and components < 1):
            raise UserError(
                "model.width, latent, components, stages, pool, directions, rank and memory_components must be "
                "1 or more."
            )
        if min(noise, memory) < 0 or prior <= 0:
            raise UserError("model.noise and memory must be 0 or more, model.prior more than 0.")
        self.form, self.width, self.latent, self.stages, self.pool = form, width, latent, stages, pool
        self.noise, self.prior, self.directions, self.rank = noise, prior, directions, rank
        self.components, self.memory_components, self.rim, self.seed = components, memory_components, rim, seed
        self.memory_sparse = memory_sparse
        self.whiten, self.memory_size, self.refines = whiten, memory, whiten or memory > 0

    def build(self, shape: tuple[int, int, int]) -> None:
        """Make networks and statistics for features of shape (C, h, w)."""
        channels, height, width = shape
        self.moments = ChannelMoments(channels)
        if self.components is not None and self.components >= channels:
            self.components = None  # all axes say what the channels say
        self.axes = PrincipalAxes(channels, max(self.components or 1, self.memory_components))
        self.projection = Projection(channels, self.directions, self.seed)
        if self.form == "pointwise":
            self.network: nn.Module = pointwise(self.components or channels, self.width, self.latent)
        else:
            self.network = spatial(self.components or channels, self.width, self.latent, self.stages)
        # Twice the values would be as many bytes: what is kept is float32, features mostly lie in half of that.
        self.condenses = 2 * (self.components or channels) <= channels * self.pool**2
        grid, directions = (height, width), self.projection.channels
        self.whitening = PositionWhitening(directions, grid, self.prior, self.rank) if self.whiten else None
        kept = min(self.memory_components, channels)
        self.memory = PatchMemory(kept, self.memory_size, channels, self.seed) if self.memory_size else None
        self.inlet, self.view = ChannelView(), ChannelView()
        self.register_buffer("back", torch.empty(0), persistent=False)
        self.register_buffer("power", torch.tensor(0.0))
        self.register_buffer("steps", torch.tensor(0))
        self.register_load_state_dict_post_hook(_take_up)
        self._step: int | None = None
        self._held: list[tuple[Tensor | None, Tensor]] = []  # projected residuals and patches

    def observe(self, features: Tensor) -> None:
        """Take training features (B, C, h, w) float into the channels' moments and, as averages, into the axes."""
        self.view.clear()
        if self.whitening is not None:
            self.whitening.clear()
        self.power.zero_()  # whatever a memory of an earlier fit holds
        self.moments.observe(features)
        if self.components is not None or self.memory is not None:  # else nothing looks along them
            self.axes.observe(averages(features, self.pool))

    def finish(self) -> None:
        """Set the standardisation and the axes."""
        self.moments.finish()
        self.axes.finish(self.moments.std.flatten())
        self._open()

    def condense(self, features: Tensor) -> Tensor:
        """What the network rebuilds of features (B, C, h, w) float: (B, components, h / pool, w / pool) float."""
        pooled = averages(features, self.pool)  # averages first: the same, on fewer values
        return self.moments(pooled) if self.components is None else self.inlet(pooled)

    def loss(self, condensed: Tensor) -> Tensor:
        """Mean squared error of what `condense` gave, (B, k, h', w') float: () float.

        While training the input is noisy, the target clean.
        """
        return F.mse_loss(self._rebuilt(self._noisy(condensed) if self.training else condensed), condensed)

    @torch.no_grad()
    def refine(self, features: Tensor) -> None:
        """Take training features (B, C, h, w) float into the residuals' covariance and the memory."""
        if self.whitening is not None:
            self.whitening.observe(self.projection(self._residual(features)))
        if self.memory is not None:
            self.memory.observe(self._patches(features))

    @torch.no_grad()
    def refine_held_out(self, features: Tensor) -> None:
        """Take features (B, C, h, w) float of held-out normals: how far scales and memory are to be trusted."""
        residual = None
        if self.whitening is not None:
            residual = self.projection(self._residual(features))
            self.whitening.observe_held_out(residual)
        room = HELD - sum(len(patches) for _, patches in self._held)
        if self.memory is not None and room > 0:
            self._held.append((None if residual is None else residual[:room], self._patches(features[:room])))

    @torch.no_grad()
    def finish_refine(self) -> None:
        """Set covariance factors, memory and its power."""
        if self.whitening is not None:
            self.whitening.finish()
        if self.memory is not None:
            self.memory.finish()
        if self._held:
            self.power.copy_(self._trust())
            self._held = []
        self._fold()

    @torch.no_grad()
    def error_map(self, features: Tensor) -> Tensor:
        """Error of features (B, C, h, w) float: (B, h, w) float; see the class for what it is made of."""
        if self.view.ready:
            assert self.whitening is not None
            seen = self.view(features)
            residual, coordinates = seen.split((self.whitening.channels, seen.shape[1] - self.whitening.channels), 1)
            rebuilt = F.conv2d(self._evaluated(features), self.back)  # on the small grid, where it is cheap
            error = self.whitening.length(residual - _enlarged(rebuilt, features))
        else:
            coordinates = None if self.memory is None else self._leading(features)
            error = self._residual(features).square().mean(1)
        if self.memory is not None and coordinates is not None:
            patches = _surroundings(coordinates)
            if self.memory_sparse:
                height, width = error.shape[1:]
                distance = from_white_squares(self.memory(white_squares(patches)), (height, width))
            else:
                distance = self.memory(patches)
            error = error * distance.clamp_min(TINY) ** self.power
        return error * _surroundings(torch.ones_like(error)) if self.rim else error

    def _trust(self) -> Tensor:
        """The memory's power, () float in [0, 2], from the held-out normals."""
        assert self.memory is not None
        distances = torch.cat([self.memory(patches) for _, patches in self._held])
        power = (1.0 - distances.square().mean()).clamp(0, 1)
        residuals = [residual for residual, _ in self._held if residual is not None]
        if self.whitening is None or distances.numel() < 2:
            return power
        lengths = torch.cat([self.whitening(residual) for residual in residuals])
        spread_of_lengths, spread = (values.clamp_min(TINY).log().std() for values in (lengths, distances))
        return power * (spread_of_lengths / spread.clamp_min(TINY)).clamp(1, 2)

    def _open(self) -> None:
        """Make one matrix of standardisation and axes for what the network works on."""
        if self.components is not None:
            self.inlet.set(self.axes.axes[: self.components], self.moments)

    @torch.no_grad()
    def _fold(self) -> None:
        """Make one matrix of all that is linear on the way to whitened residuals and patches, where they are known."""
        self.view.clear()
        if self.whitening is None or not self.whitening.fitted:
            return
        basis = self.projection.basis
        rows = self.whitening.factor if basis is None else self.whitening.factor @ basis.flatten(1)  # (k, C)
        leading = None if self.memory is None else self.axes.axes[: self.memory_components]
        self.view.set(rows if leading is None else torch.cat((rows, leading)), self.moments)
        back = rows if self.components is None else rows @ self.axes.axes[: self.components].T
        self.back = back[:, :, None, None].contiguous()

    def _noisy(self, target: Tensor) -> Tensor:
        """Target (B, C, h', w') float plus noise that depends on seed and step alone, so that a resumed run goes on."""
        if not self.noise:
            return target
        if self._step is None:  # a number beside the buffer: a device need not be asked for it in every step
            self._step = int(self.steps)
        generator = torch.Generator(target.device).manual_seed(1_000_003 * self.seed + self._step)
        self._step += 1
        self.steps.fill_(self._step)
        return target + self.noise * torch.randn(target.shape, generator=generator, device=target.device)

    def _rebuilt(self, condensed: Tensor) -> Tensor:
        """Reconstruction of (B, k, h', w') float, same shape; a decoder doubles sizes, odd ones are cut."""
        return self.network(condensed)[..., : condensed.shape[-2], : condensed.shape[-1]].float()

    def _evaluated(self, features: Tensor) -> Tensor:
        """What the network in evaluation mode rebuilds of features (B, C, h, w) float: (B, k, h', w') float."""
        condensed = self.condense(features).contiguous(memory_format=torch.channels_last)
        was_training = self.network.training
        self.network.eval()
        try:
            return self._rebuilt(condensed)
        finally:
            self.network.train(was_training)

    def _residual(self, features: Tensor) -> Tensor:
        """Standardised features (B, C, h, w) float less their reconstruction: same shape."""
        rebuilt = self._evaluated(features)
        rebuilt = rebuilt if self.components is None else self.axes.back(rebuilt)
        return self.moments(features) - _enlarged(rebuilt, features)

    def _patches(self, features: Tensor) -> Tensor:
        """Averages over 3x3 positions on the leading axes: (B, k, h, w) float; zeros beyond the rim, which tame it."""
        return _surroundings(self._leading(features))

    def _leading(self, features: Tensor) -> Tensor:
        """Coordinates of features (B, C, h, w) float on the memory's axes: (B, k, h, w) float."""
        return self.axes(self.moments(features), self.memory_components)


def _enlarged(maps: Tensor, like: Tensor) -> Tensor:
    """Maps (B, k, h', w') float brought bilinearly to the grid of (B, C, h, w): (B, k, h, w) float.

    Ten times as fast with the channels last in memory, as `_evaluated` leaves them.
    """
    return F.interpolate(maps, size=like.shape[-2:], mode="bilinear", align_corners=False)


def _surroundings(maps: Tensor) -> Tensor:
    """Averages over 3 x 3 positions of (..., h, w) float, zeros beyond the rim: same shape."""
    return F.avg_pool2d(maps, 3, 1, 1)


def _take_up(detector: Autoencoder, _: object) -> None:
    """Make what follows from a state that was just loaded."""
    detector._step = None
    detector._open()
    detector._fold()
