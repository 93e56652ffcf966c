"""Discriminator that tells frozen features of good parts from the same features with noise on them."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anomaly_lightning.detectors.base import Normals, Spec, TrainedDetector
from anomaly_lightning.detectors.parts.chance import StepChance, normal
from anomaly_lightning.detectors.parts.grid import averages, surroundings
from anomaly_lightning.detectors.parts.margins import focal, masked_truncated_l1, truncated_l1
from anomaly_lightning.detectors.parts.moments import ChannelMoments
from anomaly_lightning.detectors.parts.perlin import perlin_masks
from anomaly_lightning.errors import UserError

KINDS = ("gaussian", "ascent", "perlin")
MARGIN = 0.5  # of the truncated L1 loss, in SimpleNet and SuperSimpleNet
GAMMA = 4.0  # of the focal loss, in SuperSimpleNet
BETWEEN = 5  # steps of the ascent from one projection to the next, in GLASS


class Noise(TrainedDetector):
    """An adaptor and a discriminator on features standardised per channel and averaged over 3 x 3 positions.

    Noise is added behind the adaptor, and the discriminator learns to tell where. Its scale is in units of standardised
    features, so that it means the same for every backbone. The error is -log P(normal) = log(1 + exp(logit)), in nats:
    it rises with the logit and does not saturate. What is added, and what is minimised, `noise` says:

    - "gaussian", SimpleNet (Liu et al., CVPR 2023, arXiv 2303.15140): noise everywhere, truncated L1 (equation 7).
    - "ascent", the global branch of GLASS (Chen et al., ECCV 2024, arXiv 2407.09359): that noise climbs the
      discriminator's loss by steps of equal length, and every five steps its length is brought between two bounds
      (truncated projection under the manifold hypothesis, section 3.3); cross entropy.
    - "perlin", SuperSimpleNet (Rolih et al., ICPR 2024, arXiv 2408.03143): noise within Perlin masks; truncated L1 and
      focal loss of the map, and focal loss of a second head, which judges whole images from features and map.

    Args:
        noise: "gaussian", "ascent" or "perlin".
        std: Standard deviation of the noise.
        width: Hidden channels of the discriminator.
        positions: Positions drawn of every batch, whose features are told from their noisy ones; "perlin" takes all.
        climbs: Steps of the ascent.
        stride: Length of one of them, in units of the noise's expected length std * sqrt(channels).
        reach: Bounds of the offset's length, in the same unit.
        limit: Perlin noise above it is masked.
        judge: Hidden channels of the head for whole images, which sees averages over 2 x 2 positions.
        trust: How much that head's error raises the whole map of an image: every position's is multiplied by 1 + trust
            times it; 0 = the head only trains the adaptor.
        seed: Of the noise.
    """

    def __init__(
        self,
        noise: str = "perlin",
        std: float = 0.25,
        width: int = 128,
        positions: int = 1024,
        climbs: int = 20,
        stride: float = 0.002,
        reach: tuple[float, float] = (0.85, 1.7),
        limit: float = 0.2,
        judge: int = 16,
        trust: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if noise not in KINDS:
            raise UserError(f"model.noise={noise}: expected one of {', '.join(KINDS)}.")
        if std <= 0 or min(width, positions, judge) < 1:
            raise UserError(
                "model.std must be above 0, model.width, positions and judge 1 or more; got "
                f"{std}, {width}, {positions} and {judge}."
            )
        low, high = reach
        if climbs < 0 or stride <= 0 or not 0 < low <= high or trust < 0 or not -1 < limit < 1:
            raise UserError(
                "model.climbs and trust must be 0 or more, model.stride above 0, model.reach two lengths above 0 in "
                f"order, model.limit between -1 and 1; got {climbs}, {trust}, {stride}, {[*reach]} and {limit}."
            )
        self.noise, self.std, self.width, self.positions = noise, std, width, positions
        self.climbs, self.stride, self.reach = climbs, stride, (low, high)
        self.limit, self.judge, self.trust, self.seed = limit, judge, trust, seed

    def build(self, spec: Spec) -> None:
        """Make adaptor and heads for features of shape (C, h, w)."""
        channels = spec.features[0]
        self.moments, self.chance = ChannelMoments(channels), StepChance(self.seed)
        self.adaptor = nn.Conv2d(channels, channels, 1)
        nn.init.dirac_(self.adaptor.weight)  # so that noise has its scale from the first step on
        self.pointwise = nn.Sequential(
            nn.Conv2d(channels, self.width, 1), nn.LeakyReLU(0.2), nn.Conv2d(self.width, 1, 1)
        )
        self.whole = ImageHead(channels, self.judge) if self.noise == "perlin" else None
        self.length = self.std * channels**0.5  # expected, of the noise

    def prepare(self, normals: Normals) -> None:
        """Set the standardisation from features (B, C, h, w) float of training normals."""
        for features in normals:
            self.moments.observe(features)
        self.moments.finish()

    def condense(self, inputs: Tensor) -> Tensor:
        """Standardised averages over 3 x 3 positions of features (B, C, h, w) float: same shape."""
        return surroundings(self.moments(inputs))

    def losses(self, batch: Tensor, player: str) -> dict[str, Tensor]:
        """Loss of telling what `condense` gave, (B, C, h, w) float, from the same with noise on it."""
        generator = self.chance(batch.device)
        if self.whole is not None:
            return self._masked(batch, self.whole, generator)
        normals = self.adaptor(drawn(batch, self.positions, generator))
        offsets = self.std * normal(normals.shape, generator)
        if self.noise == "gaussian":
            return {"total": truncated_l1(self.pointwise(normals), self.pointwise(normals + offsets), MARGIN)}
        # Validation may run without gradients: there the noise stays where it is.
        offsets = self._climbed(normals.detach(), offsets, self.climbs if self.training else 0)
        told, missed = F.softplus(self.pointwise(normals)), F.softplus(-self.pointwise(normals + offsets))
        return {"total": told.mean() + missed.mean()}

    @torch.no_grad()
    def error_map(self, inputs: Tensor) -> Tensor:
        """-log P(normal) of features (B, C, h, w) float: (B, h, w) float."""
        adapted = self.adaptor(self.condense(inputs))
        logits = self.pointwise(adapted)
        error: Tensor = F.softplus(logits)[:, 0]
        if self.whole is None or self.trust == 0:
            return error
        return error * (1 + self.trust * F.softplus(self.whole(adapted, logits)))[:, None, None]

    def _masked(self, batch: Tensor, whole: "ImageHead", generator: torch.Generator) -> dict[str, Tensor]:
        """Losses of maps and images, () float each, with noise in Perlin masks on what `condense` gave, twice."""
        adapted = self.adaptor(batch).repeat(2, 1, 1, 1)
        masks = perlin_masks(len(adapted), (batch.shape[-2], batch.shape[-1]), self.limit, generator)
        noisy = adapted + self.std * masks * normal(adapted.shape, generator)
        logits = self.pointwise(noisy)
        maps = masked_truncated_l1(logits, masks, MARGIN) + focal(logits, masks, GAMMA)
        images = focal(whole(noisy, logits), masks.flatten(1).amax(1), GAMMA)
        return {"total": maps + images, "maps": maps, "images": images}

    def _climbed(self, features: Tensor, offsets: Tensor, climbs: int) -> Tensor:
        """Offsets from features, both (n, C, 1, 1) float, moved to where the discriminator is the more mistaken."""
        low, high = (bound * self.length for bound in self.reach)
        for number in range(1, climbs + 1):
            point = (features + offsets).requires_grad_()
            (gradient,) = torch.autograd.grad(F.softplus(-self.pointwise(point)).sum(), point)
            offsets = offsets + self.stride * self.length * F.normalize(gradient, dim=1)
            if number % BETWEEN == 0:
                offsets = truncated(offsets, low, high)
        return offsets


class ImageHead(nn.Module):
    """Judges whole images: 5 x 5 convolution of features and map, largest and mean of it and of the map, one logit.

    Args:
        channels: C.
        width: Of the convolution.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.seen = nn.Sequential(nn.Conv2d(channels + 1, width, 5, padding=2), nn.ReLU())
        self.score = nn.Linear(2 * width + 2, 1)

    def forward(self, features: Tensor, logits: Tensor) -> Tensor:
        """Logits (B,) float of features (B, C, h, w) float and the map's logits (B, 1, h, w) float."""
        seen = self.seen(averages(torch.cat((features, logits), 1), 2))
        parts = (seen.amax((2, 3)), seen.mean((2, 3)), logits.amax((2, 3)), logits.mean((2, 3)))
        score: Tensor = self.score(torch.cat(parts, 1))
        return score[:, 0]


def drawn(batch: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """So many random positions of features (B, C, h, w) float: (count, C, 1, 1) float, drawn with return."""
    vectors = batch.permute(0, 2, 3, 1).flatten(0, 2)  # (B h w, C)
    places = torch.randint(0, len(vectors), (count,), generator=generator, device=batch.device)
    return vectors.index_select(0, places)[:, :, None, None]


def truncated(offsets: Tensor, low: float, high: float) -> Tensor:
    """Offsets (n, C, ...) float whose length along the channels is brought between two bounds, direction unchanged."""
    lengths = offsets.norm(dim=1, keepdim=True)
    return offsets * (lengths.clamp(low, high) / lengths.clamp_min(1e-10))
