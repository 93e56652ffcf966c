"""Transformer decoder that rebuilds features through a noisy bottleneck, after Dinomaly (Guo et al., CVPR 2025)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anomaly_lightning.detectors.base import Normals, Spec, TrainedDetector
from anomaly_lightning.detectors.parts.attention import Decoder
from anomaly_lightning.detectors.parts.grid import averages, enlarged
from anomaly_lightning.detectors.parts.moments import ChannelMoments
from anomaly_lightning.detectors.parts.whitening import PositionWhitening
from anomaly_lightning.errors import UserError


class Transformer(TrainedDetector):
    """Rebuilds groups of layers from their mean; the error is one minus the cosine between both (arXiv 2405.14325).

    What is seen is made noisy by dropout in a bottleneck (section 3.2), rebuilt by blocks of linear attention, which
    can't copy single positions (3.3), and compared group by group, not layer by layer (3.4). The channels are `groups`
    equal parts: those that `features.groups` made of a Vision Transformer's layers, or one part, a CNN's grid whole.
    The deepest blocks rebuild the shallowest group.

    The loss is one minus the cosine of whole images' features; the gradient of positions that are rebuilt well already
    counts `easy` times (equation 3). Their share rises to `mined` over the first `ramp` steps.

    On a CNN's grid the cosine says little: standardised features are short where an image is ordinary, and their
    direction is noise. There `whitening` measures the residual instead, by its covariance at each position. The loss
    leaves the length of what is rebuilt open, so that it is scaled to the image first, by least squares.

    Args:
        width: Channels of the decoder; None, or as many as there are: the channels of a group, without projections.
        depth: Blocks, a multiple of `groups`.
        heads: Of the attention, at most.
        blind: Side of the square of positions, odd, that a position does not attend to; 0 = it attends to all.
        groups: Parts that the channels are.
        dropout: Share of the bottleneck's inputs, hidden and outgoing values that are dropped while training.
        standardise: Whether channels get mean 0 and variance 1 over the training normals.
        pool: The decoder works on averages over pool x pool positions; what it rebuilds is enlarged bilinearly.
        mined: Share of the positions, in [0, 1), that count as rebuilt well at last.
        ramp: Steps in which that share rises from 0.
        easy: What their gradient is multiplied by, in [0, 1].
        whitening: Measures residuals in place of the cosine; None = the cosine.
        seed: Of the dropout.
    """

    steps: Tensor  # () int64, training steps so far

    def __init__(
        self,
        width: int | None = None,
        depth: int = 8,
        heads: int = 12,
        blind: int = 0,
        groups: int = 2,
        dropout: float = 0.2,
        standardise: bool = False,
        pool: int = 1,
        mined: float = 0.9,
        ramp: int = 1000,
        easy: float = 0.1,
        whitening: PositionWhitening | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if min(depth, heads, groups, pool, ramp, width or 1) < 1 or depth % groups:
            raise UserError(
                "model.depth, heads, groups, pool, ramp and width must be 1 or more (width: or null), and depth a "
                f"multiple of groups; got {depth}, {heads}, {groups}, {pool}, {ramp} and {width}."
            )
        if not (0 <= dropout < 1 and 0 <= mined < 1 and 0 <= easy <= 1) or blind < 0 or (blind and blind % 2 == 0):
            raise UserError(
                "model.dropout and model.mined must be at least 0 and below 1, model.easy 0 to 1, model.blind 0 or "
                f"odd; got {dropout}, {mined}, {easy} and {blind}."
            )
        if not isinstance(whitening, PositionWhitening | None):
            raise UserError(f"model.whitening={whitening}: expected a block with a _target_, or null.")
        self.width, self.depth, self.heads, self.blind, self.groups = width, depth, heads, blind, groups
        self.dropout, self.standardise, self.pool = dropout, standardise, pool
        self.mined, self.ramp, self.easy, self.whitening, self.seed = mined, ramp, easy, whitening, seed

    def build(self, spec: Spec) -> None:
        """Make decoder and statistics for features of shape (C, h, w).

        Raises:
            UserError: The channels can't be cut into the groups.
        """
        channels, *grid = spec.features
        if channels % self.groups:
            raise UserError(
                f"model.groups={self.groups}: the {channels} channels of the features can't be cut into so many equal "
                f"parts. Expected 1, or features.groups={self.groups} with a Vision Transformer."
            )
        self.condenses = self.pool > 1
        self.moments = ChannelMoments(channels)
        self.decoder = Decoder(
            channels, self.groups, self.width, self.depth, self.heads, self.blind, self.dropout, self.seed
        )
        if self.whitening is not None:
            self.whitening.build(channels, (grid[0], grid[1]), self.seed)
        self.register_buffer("steps", torch.tensor(0))
        self.register_load_state_dict_post_hook(_count_anew)
        self._step: int | None = None

    def prepare(self, normals: Normals) -> None:
        """Set the standardisation from features (B, C, h, w) float of training normals."""
        if self.whitening is not None:
            self.whitening.reset()
        if not self.standardise:
            return
        for features in normals:
            self.moments.observe(features)
        self.moments.finish()

    def condense(self, inputs: Tensor) -> Tensor:
        """What is rebuilt of features (B, C, h, w) float: (B, C, h / pool, w / pool) float."""
        condensed: Tensor = self.moments(averages(inputs, self.pool))
        return condensed

    def losses(self, batch: Tensor, player: str) -> dict[str, Tensor]:
        """Mined cosine loss of what `condense` gave, (B, C, h', w') float; dropout while training alone."""
        step = self._next_step() if self.training else self.ramp
        rebuilt = self.decoder(batch, step if self.training else None)
        mined = self.mined * min(step / self.ramp, 1.0)
        parts = zip(batch.chunk(self.groups, 1), rebuilt.float().chunk(self.groups, 1), strict=True)
        return {"total": torch.stack([mined_cosine(*part, mined, self.easy) for part in parts]).mean()}

    @torch.no_grad()
    def conclude(self, normals: Normals, held_out: Normals) -> None:
        """Set the residuals' covariance from features (B, C, h, w) float, with the trained weights."""
        if self.whitening is None:
            return
        for features in normals:
            self.whitening.observe(self._residual(features))
        for features in held_out:
            self.whitening.observe_held_out(self._residual(features))
        self.whitening.finish()

    @property
    def absorbs(self) -> bool:
        """Whether there is a whitening to renew."""
        return self.whitening is not None

    def absorb(self, normals: Normals, held_out: Normals) -> None:
        """Make the residuals' covariance anew from features (B, C, h, w) float of old and new normals."""
        self.conclude(normals, held_out)

    @torch.no_grad()
    def error_map(self, inputs: Tensor) -> Tensor:
        """Error of features (B, C, h, w) float: (B, h, w) float; the cosine's where no covariance is known yet."""
        if self.whitening is not None and self.whitening.fitted:
            lengths: Tensor = self.whitening(self._residual(inputs))
            return lengths
        condensed = self.condense(inputs)
        parts = zip(condensed.chunk(self.groups, 1), self._evaluated(condensed).chunk(self.groups, 1), strict=True)
        errors = torch.stack([1 - F.cosine_similarity(*part, dim=1) for part in parts]).mean(0).clamp_min(0)
        return enlarged(errors[:, None], (inputs.shape[-2], inputs.shape[-1]))[:, 0]

    def _residual(self, features: Tensor) -> Tensor:
        """Standardised features (B, C, h, w) float less what is rebuilt of them: same shape."""
        condensed = self.condense(features)
        rebuilt = self._evaluated(condensed)
        length = rebuilt.square().sum((1, 2, 3), keepdim=True).clamp_min(1e-12)
        scale = (condensed * rebuilt).sum((1, 2, 3), keepdim=True) / length
        standardised: Tensor = self.moments(features)
        return standardised - enlarged(scale * rebuilt, (features.shape[-2], features.shape[-1]))

    def _evaluated(self, condensed: Tensor) -> Tensor:
        """What is rebuilt without dropout of (B, C, h', w') float: same shape."""
        rebuilt: Tensor = self.decoder(condensed, None).float()
        return rebuilt

    def _next_step(self) -> int:
        """Number of this training step; kept beside the buffer, so that a device need not be asked for it."""
        if self._step is None:
            self._step = int(self.steps)
        self._step += 1
        self.steps.fill_(self._step)
        return self._step


def mined_cosine(target: Tensor, rebuilt: Tensor, mined: float, easy: float) -> Tensor:
    """One minus the cosine of whole images, () float, mean over the images; the gradient prefers hard positions.

    Args:
        target: (B, C, h, w) float.
        rebuilt: The same shape.
        mined: Share of the batch's positions, those rebuilt best, whose gradient is multiplied by `easy`.
        easy: 1 = the plain loss.
    """
    with torch.no_grad():
        distances = 1 - F.cosine_similarity(target, rebuilt, dim=1)  # (B, h, w)
        count = min(int(mined * distances.numel()), distances.numel() - 1)
        limit = distances.flatten().kthvalue(count + 1).values
        weights = torch.where(distances < limit, easy, 1.0)[:, None]
    # The same value as `rebuilt` whatever the weights; they scale what flows back.
    held = weights * rebuilt + (1 - weights) * rebuilt.detach()
    return (1 - F.cosine_similarity(target.flatten(1), held.flatten(1), dim=1)).mean()


def _count_anew(detector: nn.Module, _: object) -> None:
    """Read the number of steps from a state that was just loaded."""
    assert isinstance(detector, Transformer)
    detector._step = None
