"""U-Net over frozen features that predicts where a defect is, trained on defects made on normal images."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anomaly_lightning.detectors.base import Normals, Spec, TrainedDetector
from anomaly_lightning.detectors.parts.known import DEFECTIVE, UNLOCATED, somewhere
from anomaly_lightning.detectors.parts.moments import ChannelMoments
from anomaly_lightning.detectors.parts.planting import planted
from anomaly_lightning.detectors.parts.pyramid import Pyramid
from anomaly_lightning.detectors.parts.scales import Scales
from anomaly_lightning.errors import UserError

FOCAL, DICE, ABSOLUTE = 4.0, 0.5, 0.5  # weights of the loss's terms
GAMMA, SMOOTHING = 2.0, 8.0
REAL = 0.25  # share of `examples` that known defects make up, each in several versions


class UNet(TrainedDetector):
    """Predicts the share of each position that is defective (U-Net: Ronneberger et al., MICCAI 2015, arXiv 1505.04597).

    The encoder is the frozen backbone, whose layers keep their own grids with features.coarse=packed; only the decoder
    is learned. It sees normals, images of them with made defects, and normals with noise planted into their features
    behind a smooth mask; defects of real parts join them where there are some. The loss is 4 times the focal one
    (Lin et al., ICCV 2017, equation 4) plus half of the soft Dice loss plus half of the absolute error.

    The error is -log(1 - p) of the predicted share p: like p where it is small, without an upper bound.

    Args:
        widths: Channels of the decoder from the coarsest layer to the finest.
        examples: Images with made defects, at most; each normal gets up to `versions` of them.
        recipe: How defects are made: arguments of `data.defects.Recipe`.
        planted: Share of the images without a defect that noise is planted into while training.
        noise: Greatest standard deviation of noise on all standardised features while training, drawn for each image.
        dropout: Share of the coarser layers' channels that are dropped while training.
        crop: Side of the random piece of the grid that is trained on, as a share of the grid's.
        seed: Of the noise and of the pieces; the made defects follow the seed of the split.
    """

    steps: Tensor  # () int64, training steps so far

    def __init__(
        self,
        widths: Sequence[int] = (48, 24, 16),
        examples: int = 400,
        recipe: Mapping[str, Any] | None = None,
        planted: float = 0.25,
        noise: float = 0.2,
        dropout: float = 0.1,
        crop: float = 0.5,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not isinstance(widths, Sequence) or not widths or min(widths) < 1 or examples < 0 or noise < 0:
            raise UserError(
                "model.widths must be a list of numbers of 1 or more, model.examples and model.noise 0 or more; got "
                f"{widths}, {examples} and {noise}."
            )
        if not (0 <= planted <= 1 and 0 <= dropout < 1 and 0 < crop <= 1):
            raise UserError(
                "model.planted must be 0 to 1, model.dropout at least 0 and below 1, model.crop above 0 and at most 1; "
                f"got {planted}, {dropout} and {crop}."
            )
        self.widths, self.examples, self.recipe = tuple(widths), examples, dict(recipe or {})
        self.known = round(REAL * examples)
        self.planted, self.noise, self.dropout, self.crop, self.seed = planted, noise, dropout, crop, seed

    def build(self, spec: Spec) -> None:
        """Make network and statistics for features of shape (C, h, w) and the layers that they hold."""
        self.scales, self.channels = Scales(spec), spec.features[0]
        self.finest = max(self.scales.ratios)
        self.order = sorted(range(len(self.scales.ratios)), key=lambda i: -self.scales.ratios[i])
        channels = [self.scales.channels[i] for i in self.order]
        self.moments = nn.ModuleList(ChannelMoments(count) for count in channels)
        self.network = Pyramid(channels, self.widths)
        self.register_buffer("steps", torch.tensor(0))
        self.register_load_state_dict_post_hook(_count_anew)
        self._step: int | None = None

    def grid(self, spec: Spec) -> tuple[int, int]:
        """(h, w) of the finest layer."""
        finest = max(Scales(spec).ratios)
        return finest * spec.features[1], finest * spec.features[2]

    def prepare(self, normals: Normals) -> None:
        """Set the standardisation of each layer from features (B, C, h, w) float of training normals."""
        for features in normals:
            for moments, layer in zip(self._moments, self._ordered(self.scales.unfolded(features)), strict=True):
                moments.observe(layer)
        for moments in self._moments:
            moments.finish()

    def condense(self, inputs: Tensor) -> Tensor:
        """Rows of normals' features (B, C, h, w) float, as `explain` gives them."""
        empty = inputs.new_zeros(len(inputs), self.finest * inputs.shape[-2], self.finest * inputs.shape[-1])
        return self._row(inputs, empty, torch.ones(len(inputs), dtype=torch.bool, device=inputs.device))

    def explain(self, inputs: Tensor, masks: Tensor, known: Tensor) -> Tensor:
        """Features (B, C, h, w) float and behind them their truth: (B, C + r^2 + 1, h, w) float.

        The truth is the share of each position of the finest grid that is defective, folded like the features
        (r = finest / coarsest), and whether it is known.
        """
        size = (self.finest * inputs.shape[-2], self.finest * inputs.shape[-1])
        return self._row(inputs, F.adaptive_avg_pool2d(masks[:, None].to(inputs.dtype), size)[:, 0], known)

    def _row(self, inputs: Tensor, shares: Tensor, known: Tensor) -> Tensor:
        folded = F.pixel_unshuffle(shares[:, None], self.finest)
        flags = known.to(inputs.dtype).view(-1, 1, 1, 1).expand(-1, 1, *inputs.shape[-2:])
        return torch.cat([inputs, folded, flags], 1)

    def losses(self, batch: Tensor, player: str) -> dict[str, Tensor]:
        """Loss of rows (B, C + r^2 + 1, h, w) float; in training of random pieces of them, and of planted noise.

        An image with a defect that nobody has located is seen whole: some of its positions should be defective.
        """
        known = batch[:, -1, 0, 0] > 0.5
        located, unlocated = batch[known], batch[~known]
        total = batch.new_zeros(())
        if self.training:
            generator = self._generator(batch.device)
            located = self._pieces(located, generator)
        if len(located):
            layers, target = self._split(located)
            if self.training:
                layers, target = self._noisy(layers, target, generator)
            total = total + localisation_loss(self.network(layers).float(), target) * len(located) / len(batch)
        if len(unlocated):
            logits = self.network(self._split(unlocated)[0]).float()
            total = total + UNLOCATED * somewhere(logits) * len(unlocated) / len(batch)
        return {"total": total}

    @torch.no_grad()
    def error_map(self, inputs: Tensor) -> Tensor:
        """-log(1 - p) of the predicted share p, on the finest grid: (B, r h, r w) float of features (B, C, h, w)."""
        return self.layer_errors(self.scales.unfolded(inputs))

    @torch.no_grad()
    def layer_errors(self, layers: list[Tensor]) -> Tensor:
        """The same of layers (B, C_i, r_i h, r_i w) float in the backbone's order."""
        was_training = self.network.training
        self.network.eval()
        try:
            logits: Tensor = self.network(self._standardised(layers)).float()
            return F.softplus(logits)[:, 0]
        finally:
            self.network.train(was_training)

    @property
    def _moments(self) -> list[ChannelMoments]:
        return list(self.moments)  # type: ignore[arg-type]

    def _ordered(self, layers: list[Tensor]) -> list[Tensor]:
        """Layers (B, C_i, h_i, w_i) float, the finest first."""
        return [layers[place] for place in self.order]

    def _standardised(self, layers: list[Tensor]) -> list[Tensor]:
        return [moments(layer) for moments, layer in zip(self._moments, self._ordered(layers), strict=True)]

    def _split(self, rows: Tensor) -> tuple[list[Tensor], Tensor]:
        """Standardised layers and the share of the finest grid, (B, 1, h, w) float, of rows."""
        features, folded = rows[:, : self.channels], rows[:, self.channels : -1]
        return self._standardised(self.scales.unfolded(features)), F.pixel_shuffle(folded, self.finest)

    def _pieces(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """A random piece of each row (B, k, h, w) float, at the same place of all its layers: (B, k, h', w') float."""
        height, width = (max(min(side, 2), round(self.crop * side)) for side in rows.shape[-2:])
        limits = torch.tensor([rows.shape[-2] - height + 1, rows.shape[-1] - width + 1], device=rows.device)
        corners = (torch.rand(len(rows), 2, generator=generator, device=rows.device) * limits).long().tolist()
        pieces = [row[:, y : y + height, x : x + width] for row, (y, x) in zip(rows, corners, strict=True)]
        return torch.stack(pieces) if pieces else rows

    def _noisy(self, layers: list[Tensor], target: Tensor, generator: torch.Generator) -> tuple[list[Tensor], Tensor]:
        """Layers with planted, additive and dropping noise, and the target (B, 1, h, w) float that goes with them."""
        count, device = len(target), target.device

        def uniform(*shape: int) -> Tensor:
            return torch.rand(count, *shape, generator=generator, device=device)

        chosen = (target.amax((1, 2, 3)) == 0) & (uniform() < self.planted)
        layers, mask = planted(layers, chosen, generator)
        scale = self.noise * uniform(1, 1, 1)
        layers = [layer + scale * torch.randn(layer.shape, generator=generator, device=device) for layer in layers]
        kept = [1 - (uniform(layer.shape[1], 1, 1) < self.dropout).float() for layer in layers[1:]]
        dropped = [layer * keep / (1 - self.dropout) for layer, keep in zip(layers[1:], kept, strict=True)]
        return [layers[0], *dropped], torch.maximum(target, mask)

    def _generator(self, device: torch.device) -> torch.Generator:
        """Randomness of this training step, which depends on seed and step alone, so that a run can be resumed."""
        if self._step is None:
            self._step = int(self.steps)
        generator = torch.Generator(device).manual_seed(1_000_003 * self.seed + self._step)
        self._step += 1
        self.steps.fill_(self._step)
        return generator


def localisation_loss(logits: Tensor, shares: Tensor) -> Tensor:
    """4 focal + 0.5 Dice + 0.5 absolute, () float.

    Args:
        logits: (B, 1, h, w) float.
        shares: (B, 1, h, w) float in [0, 1]; a position counts as defective from a fifth on.
    """
    target = (shares > DEFECTIVE).to(logits.dtype)
    predicted = logits.sigmoid()
    cross = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    focal = (cross * (target - predicted).abs() ** GAMMA).mean()
    both, either = (predicted * target).sum((1, 2, 3)), (predicted + target).sum((1, 2, 3))
    dice = 1 - ((2 * both + SMOOTHING) / (either + SMOOTHING)).mean()
    return FOCAL * focal + DICE * dice + ABSOLUTE * (predicted - target).abs().mean()


def _count_anew(detector: nn.Module, _: object) -> None:
    """Read the number of steps from a state that was just loaded."""
    assert isinstance(detector, UNet)
    detector._step = None
