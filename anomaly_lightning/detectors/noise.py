"""Discriminator that tells frozen features of good parts from the same features with noise on them."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anomaly_lightning.detectors.base import Normals, Spec, TrainedDetector
from anomaly_lightning.detectors.parts.chance import StepChance, normal
from anomaly_lightning.detectors.parts.grid import averages, surroundings
from anomaly_lightning.detectors.parts.known import UNLOCATED, read, rows, somewhere
from anomaly_lightning.detectors.parts.margins import focal, masked_truncated_l1
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
        known: Images of known defects (labelled_defects) that join the training, each in several versions.
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
        known: int = 100,
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
        low, high = reach if len(reach) == 2 else (0.0, 0.0)  # which is refused
        if known < 0:
            raise UserError(f"model.known={known}: expected 0 or more.")
        if climbs < 0 or stride <= 0 or not 0 < low <= high or trust < 0 or not -1 < limit < 1:
            raise UserError(
                "model.climbs and trust must be 0 or more, model.stride above 0, model.reach two lengths above 0 in "
                f"order, model.limit between -1 and 1; got {climbs}, {trust}, {stride}, {[*reach]} and {limit}."
            )
        self.noise, self.std, self.width, self.positions = noise, std, width, positions
        self.climbs, self.stride, self.reach = climbs, stride, (low, high)
        self.limit, self.judge, self.trust, self.known, self.seed = limit, judge, trust, known, seed

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
        """Standardised averages over 3 x 3 positions of normals' features (B, C, h, w) float, as `parts.known.rows`."""
        return rows(self._standardised(inputs))

    def explain(self, inputs: Tensor, masks: Tensor, known: Tensor) -> Tensor:
        """The same of features whose defects are known: (B, C + 2, h, w) float."""
        return rows(self._standardised(inputs), masks, known)

    def _standardised(self, inputs: Tensor) -> Tensor:
        return surroundings(self.moments(inputs))

    def losses(self, batch: Tensor, player: str) -> dict[str, Tensor]:
        """Loss of telling normal positions of rows (B, C + 2, h, w) float from noise on them, and from defects."""
        generator = self.chance(batch.device)
        seen = read(batch)
        if seen.located.all():
            return self._told(seen.inputs, seen.defective, generator)
        located, missing = seen.located, ~seen.located
        adapted = self.adaptor(seen.inputs[missing])
        logits = self.pointwise(adapted)
        vague = somewhere(logits)
        if self.whole is not None:
            vague = vague + focal(self.whole(adapted, logits), torch.ones_like(logits[:, 0, 0, 0]), GAMMA)
        parts = {"total": UNLOCATED * vague * missing.float().mean()}
        if located.any():
            told = self._told(seen.inputs[located], seen.defective[located], generator)
            parts = {**told, "total": parts["total"] + told["total"] * located.float().mean()}
        return parts

    def _told(self, features: Tensor, defective: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Losses, () float each, of features (B, C, h, w) float and which positions are defective, (B, 1, h, w)."""
        if self.whole is not None:
            return self._masked(features, defective, self.whole, generator)
        real = self.pointwise(self.adaptor(drawn(features, defective, self.positions, generator)))
        normals = self.adaptor(drawn(features, 1 - defective, self.positions, generator))
        if not len(normals):
            return {"total": self._missed(real)}
        offsets = self.std * normal(normals.shape, generator)
        # Validation may run without gradients: there the noise of an ascent stays where it is.
        climbs = self.climbs if self.noise == "ascent" and self.training else 0
        missed = self._missed(self.pointwise(normals + self._climbed(normals.detach(), offsets, climbs)))
        if len(real):
            missed = (missed + self._missed(real)) / 2
        return {"total": self._missed(-self.pointwise(normals)) + missed}

    def _missed(self, logits: Tensor) -> Tensor:
        """Loss () float of logits (...) float that should be high."""
        return F.relu(MARGIN - logits).mean() if self.noise == "gaussian" else F.softplus(-logits).mean()

    @torch.no_grad()
    def error_map(self, inputs: Tensor) -> Tensor:
        """-log P(normal) of features (B, C, h, w) float: (B, h, w) float."""
        adapted = self.adaptor(self._standardised(inputs))
        logits = self.pointwise(adapted)
        error: Tensor = F.softplus(logits)[:, 0]
        if self.whole is None or self.trust == 0:
            return error
        return error * (1 + self.trust * F.softplus(self.whole(adapted, logits)))[:, None, None]

    def _masked(
        self, features: Tensor, defective: Tensor, whole: "ImageHead", generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Losses of maps and images, () float each, with noise in Perlin masks on every image, twice.

        A position that shows a known defect gets no noise and counts as anomalous (SuperSimpleNet, section 3.3).
        """
        adapted, known = self.adaptor(features).repeat(2, 1, 1, 1), defective.repeat(2, 1, 1, 1)
        masks = perlin_masks(len(adapted), (features.shape[-2], features.shape[-1]), self.limit, generator)
        masks = masks * (1 - known)
        noisy = adapted + self.std * masks * normal(adapted.shape, generator)
        masks = masks + known
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


def drawn(batch: Tensor, chosen: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """So many random positions of features (B, C, h, w) float, of those that are 1 in `chosen` (B, 1, h, w) float.

    Drawn with return: (count, C, 1, 1) float; none where nothing is chosen.
    """
    vectors = batch.permute(0, 2, 3, 1).flatten(0, 2)  # (B h w, C)
    places = chosen.flatten().nonzero()[:, 0]
    if len(places):
        places = places[torch.randint(0, len(places), (count,), generator=generator, device=batch.device)]
    return vectors.index_select(0, places)[:, :, None, None]


def truncated(offsets: Tensor, low: float, high: float) -> Tensor:
    """Offsets (n, C, ...) float whose length along the channels is brought between two bounds, direction unchanged."""
    lengths = offsets.norm(dim=1, keepdim=True)
    return offsets * (lengths.clamp(low, high) / lengths.clamp_min(1e-10))
