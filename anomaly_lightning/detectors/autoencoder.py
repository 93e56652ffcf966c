"""Autoencoder of frozen features, trained to rebuild those of good parts; the error is what it can't rebuild."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anomaly_lightning.detectors.base import Normals, Spec, TrainedDetector
from anomaly_lightning.detectors.parts.fusion import StandardisedSum
from anomaly_lightning.detectors.parts.grid import averages, enlarged
from anomaly_lightning.detectors.parts.memory_weight import memory_power, rim_share, weighted
from anomaly_lightning.detectors.parts.moments import ChannelMoments
from anomaly_lightning.detectors.parts.networks import Pointwise, Spatial
from anomaly_lightning.detectors.parts.patch_memory import PatchMemory
from anomaly_lightning.detectors.parts.principal import PrincipalAxes
from anomaly_lightning.detectors.parts.view import ChannelView
from anomaly_lightning.detectors.parts.whitening import PositionWhitening
from anomaly_lightning.errors import UserError

HELD = 64  # held-out images that length and memory are compared on: 42 MB of 128 and 32 channels on 32 x 32


class Autoencoder(TrainedDetector):
    """Encoder and decoder over features standardised per channel, trained with the mean squared error.

    The network sees and rebuilds the features' coordinates on their leading principal axes, averaged over `pool` x
    `pool` positions; what lies beside those axes counts as not rebuilt. The residual r = features - reconstruction
    becomes the error in up to three steps, each of which can be left out: its mean square over the channels (the plain
    method), or its Mahalanobis length under the residuals of normals at the same position (`whitening`); times the
    distance to the nearest of a coreset of normal patches, to a power (`memory`, `parts.memory_weight`); attenuated at
    the rim of the grid, where the backbone saw padding (`rim`). To that error a distance to normal patches can be added
    that knows no positions, both by how evenly they tell held-out normals (`fusion`).

    Args:
        network: Rebuilds what it sees: `Spatial` or `Pointwise`.
        components: Principal axes that the network works on; None = the channels themselves.
        pool: The network works on averages over pool x pool positions; its reconstruction is enlarged bilinearly.
        noise: Standard deviation of Gaussian noise on the standardised input while training (0 = none).
        whitening: Measures residuals by their covariance per position; None = plain squared error.
        memory: Nearest-neighbour factor; None = none.
        rim: Whether errors at the rim of the grid are attenuated.
        fusion: Adds a distance to normal patches to the error, both standardised; None = the error alone.
        seed: Of the noise, the projection and the memories' samples.
    """

    power: Tensor  # () float in [0, 2], how much the memory counts
    steps: Tensor  # () int64, noisy batches so far
    back: Tensor  # (k, components, 1, 1), from what the network rebuilds to what `view` sees of it
    edge: Tensor  # (h, w) float, attenuation at the rim

    def __init__(
        self,
        network: Spatial | Pointwise,
        components: int | None = 48,
        pool: int = 2,
        noise: float = 0.25,
        whitening: PositionWhitening | None = None,
        memory: PatchMemory | None = None,
        rim: bool = True,
        fusion: StandardisedSum | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if pool < 1 or noise < 0 or (components is not None and components < 1):
            raise UserError(
                "model.pool must be 1 or more, model.noise 0 or more, model.components null or 1 or more; got "
                f"{pool}, {noise} and {components}."
            )
        kinds = (("whitening", PositionWhitening), ("memory", PatchMemory), ("fusion", StandardisedSum))
        for (name, kind), part in zip(kinds, (whitening, memory, fusion), strict=True):
            if not isinstance(part, kind | None):
                raise UserError(f"model.{name}={part}: expected a block with a _target_, or null.")
        self.network, self.whitening, self.memory, self.fusion = network, whitening, memory, fusion
        self.components, self.pool, self.noise, self.rim, self.seed = components, pool, noise, rim, seed

    def build(self, spec: Spec) -> None:
        """Make network and statistics for features of shape (C, h, w)."""
        channels, *grid = spec.features
        if self.components is not None and self.components >= channels:
            self.components = None  # all axes say what the channels say
        seen = self.components or channels
        self.moments = ChannelMoments(channels)
        remembered = (part.components for part in self._memories if part.components < channels)
        self.axes = PrincipalAxes(channels, max((self.components or 1, *remembered)))
        self.network.build(seen)
        # Twice the values would be as many bytes: what is kept is float32, features mostly lie in half of that.
        self.condenses = 2 * seen <= channels * self.pool**2
        for part in (self.whitening, *self._memories):
            if part is not None:
                part.build(channels, (grid[0], grid[1]), self.seed)
        self.inlet, self.view = ChannelView(), ChannelView()
        self.register_buffer("edge", rim_share((grid[0], grid[1])), persistent=False)
        self.register_buffer("back", torch.empty(0), persistent=False)
        self.register_buffer("power", torch.tensor(0.0))
        self.register_buffer("steps", torch.tensor(0))
        self.register_load_state_dict_post_hook(_fold_loaded)
        self._step: int | None = None

    def prepare(self, normals: Normals) -> None:
        """Set the standardisation and the principal axes from features (B, C, h, w) float of training normals."""
        self.view.clear()
        if self.whitening is not None:
            self.whitening.reset()
        self.power.zero_()  # whatever the memory of an earlier fit holds
        if self.fusion is not None:
            self.fusion.reset()
        for features in normals:
            self.moments.observe(features)
            if self.components is not None or self._axes_remembered:  # else nothing looks along them
                self.axes.observe(averages(features, self.pool))
        self.moments.finish()
        self.axes.finish(self.moments.std.flatten())
        self._open()

    def condense(self, inputs: Tensor) -> Tensor:
        """What the network rebuilds of features (B, C, h, w) float: (B, components, h / pool, w / pool) float."""
        pooled = averages(inputs, self.pool)  # averages first: the same, on fewer values
        return self.moments(pooled) if self.components is None else self.inlet(pooled)

    def losses(self, batch: Tensor, player: str) -> dict[str, Tensor]:
        """Mean squared error of what `condense` gave, (B, k, h', w') float; in training the input is noisy."""
        rebuilt = self.network(self._noisy(batch) if self.training else batch).float()
        return {"total": F.mse_loss(rebuilt, batch)}

    @torch.no_grad()
    def conclude(self, normals: Normals, held_out: Normals) -> None:
        """Set covariance factors, memory and its power from features (B, C, h, w) float, with the trained weights."""
        if self.whitening is None and not self._memories:
            return
        for features in normals:
            if self.whitening is not None:
                self.whitening.observe(self._residual(features))
            for memory in self._memories:
                memory.observe(self._leading(features, memory.components))
        compared: list[tuple[Tensor | None, Tensor]] = []  # residuals and coordinates
        for features in held_out:
            residual = None if self.whitening is None else self._residual(features)
            if self.whitening is not None and residual is not None:
                self.whitening.observe_held_out(residual)
            room = HELD - sum(len(coordinates) for _, coordinates in compared)
            if self.memory is not None and room > 0:
                coordinates = self._leading(features[:room], self.memory.components)
                compared.append((None if residual is None else residual[:room], coordinates))
        for part in (self.whitening, *self._memories):
            if part is not None:
                part.finish()
        if compared:
            self.power.copy_(self._trust(compared))
        self._fold()
        if self.fusion is not None:
            self.fusion.finish([self._maps(features) for features in held_out])

    @property
    def absorbs(self) -> bool:
        """Whether there is a whitening or a memory to renew."""
        return self.whitening is not None or bool(self._memories)

    def absorb(self, normals: Normals, held_out: Normals) -> None:
        """Make whitening, memories and their weights anew from features (B, C, h, w) float of old and new normals.

        Standardisation, axes and network stay: the network was trained in these coordinates.
        """
        self.conclude(normals, held_out)

    @torch.no_grad()
    def error_map(self, inputs: Tensor) -> Tensor:
        """Error of features (B, C, h, w) float: (B, h, w) float; see the class for what it is made of."""
        error, distance = self._maps(inputs)
        return error if self.fusion is None else self.fusion(error, distance)

    def _maps(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Error of features (B, C, h, w) float and the distance that the fusion adds, 0 without: each (B, h, w)."""
        size = (inputs.shape[-2], inputs.shape[-1])
        seen = None
        if self.view.ready and self.whitening is not None:
            residual, seen = self.view(inputs).split((self.whitening.channels, self._axes_remembered), 1)
            rebuilt = F.conv2d(self._evaluated(inputs), self.back)  # on the small grid, where it is cheap
            error = self.whitening.length(residual - enlarged(rebuilt, size))
        else:
            error = self._residual(inputs).square().mean(1)
        if self.memory is not None:
            error = weighted(error, self.memory(self._remembered(inputs, seen, self.memory)), self.power)
        if self.rim:
            error = error * self.edge
        if self.fusion is None:
            return error, torch.zeros_like(error)
        return error, self.fusion.memory(self._remembered(inputs, seen, self.fusion.memory))

    def _remembered(self, features: Tensor, seen: Tensor | None, memory: PatchMemory) -> Tensor:
        """What a memory works on of features (B, C, h, w) float: (B, k, h, w) float; `seen`: all axes, if known."""
        whole = memory.components == features.shape[1]
        return self._leading(features, memory.components) if seen is None or whole else seen[:, : memory.components]

    @property
    def _memories(self) -> tuple[PatchMemory, ...]:
        """The memories that there are: the factor's and the fusion's."""
        fused = None if self.fusion is None else self.fusion.memory
        return tuple(memory for memory in (self.memory, fused) if memory is not None)

    @property
    def _axes_remembered(self) -> int:
        """Principal axes that the memories look along; one that sees all channels needs none of them."""
        channels = self.moments.mean.shape[0]
        return max((part.components for part in self._memories if part.components < channels), default=0)

    def _trust(self, compared: list[tuple[Tensor | None, Tensor]]) -> Tensor:
        """The memory's power, () float, from held-out residuals (B, C, h, w) and coordinates (B, k, h, w)."""
        assert self.memory is not None
        distances = torch.cat([self.memory.everywhere(coordinates) for _, coordinates in compared])
        residuals = [residual for residual, _ in compared if residual is not None]
        whiten = self.whitening
        lengths = None if whiten is None else torch.cat([whiten(residual) for residual in residuals])
        return memory_power(distances, lengths)

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
        rows = self.whitening.rows  # (k, C)
        self.view.set(torch.cat((rows, self.axes.axes[: self._axes_remembered])), self.moments)
        back = rows if self.components is None else rows @ self.axes.axes[: self.components].T
        self.back = back[:, :, None, None].contiguous()

    def _noisy(self, target: Tensor) -> Tensor:
        """Target (B, C, h', w') float plus noise that depends on seed and step alone, so that a run can be resumed."""
        if not self.noise:
            return target
        if self._step is None:  # a number beside the buffer: a device need not be asked for it in every step
            self._step = int(self.steps)
        generator = torch.Generator(target.device).manual_seed(1_000_003 * self.seed + self._step)
        self._step += 1
        self.steps.fill_(self._step)
        return target + self.noise * torch.randn(target.shape, generator=generator, device=target.device)

    def _evaluated(self, features: Tensor) -> Tensor:
        """What the network in evaluation mode rebuilds of features (B, C, h, w) float: (B, k, h', w') float."""
        condensed = self.condense(features).contiguous(memory_format=torch.channels_last)
        was_training = self.network.training
        self.network.eval()
        try:
            rebuilt: Tensor = self.network(condensed).float()
            return rebuilt
        finally:
            self.network.train(was_training)

    def _residual(self, features: Tensor) -> Tensor:
        """Standardised features (B, C, h, w) float less their reconstruction: same shape."""
        rebuilt = self._evaluated(features)
        rebuilt = rebuilt if self.components is None else self.axes.back(rebuilt)
        standardised: Tensor = self.moments(features)
        return standardised - enlarged(rebuilt, (features.shape[-2], features.shape[-1]))

    def _leading(self, features: Tensor, count: int) -> Tensor:
        """Coordinates of standardised features (B, C, h, w) float on the first `count` axes: (B, count, h, w) float.

        All C of them are a rotation, which no distance sees: then the standardised channels themselves.
        """
        standardised: Tensor = self.moments(features)
        return standardised if count == features.shape[1] else self.axes(standardised, count)


def _fold_loaded(detector: nn.Module, _: object) -> None:
    """Make what follows from a state that was just loaded."""
    assert isinstance(detector, Autoencoder)
    detector._step = None
    detector._open()
    detector._fold()
