"""An error bound to positions and one that knows none, in one map: held-out normals say how much each counts."""

import torch
from torch import Tensor, nn

from anomaly_lightning.detectors.parts.patch_memory import PatchMemory
from anomaly_lightning.errors import UserError

FEWEST = 3  # held-out normals whose standard deviation says anything
TINY = 1e-6


class StandardisedSum(nn.Module):
    """Sum of an error and a distance to normal patches, each divided by the spread of held-out normals' scores on it.

    A map on which normals differ much from image to image counts little. Where parts lie at any angle that is the
    error, bound to positions; where they always lie alike it is the distance. No label and no category has a say in
    it. A map's score of an image is the mean of its top `share`, about what scoring makes of it later.

    The mean that the sum has over all positions of held-out normals is taken off, and what is less is 0: else good
    parts would lie close below any threshold, and a heatmap of them would show how even they are.

    Args:
        memory: Gives the distance.
        share: Share of the positions that make the score, in (0, 1].
    """

    weights: Tensor  # (2,) float, one over the standard deviations; without held-out normals the error alone
    offset: Tensor  # () float, mean of the weighted sum over held-out normals

    def __init__(self, memory: PatchMemory, share: float = 0.01) -> None:
        super().__init__()
        if not isinstance(memory, PatchMemory):
            raise UserError(f"model.fusion.memory={memory}: expected a block with the _target_ of a PatchMemory.")
        if not 0 < share <= 1:
            raise UserError(f"model.fusion.share={share}: expected a share above 0 and at most 1.")
        self.memory, self.share = memory, share
        self.register_buffer("weights", torch.tensor([1.0, 0.0]))
        self.register_buffer("offset", torch.tensor(0.0))

    def reset(self) -> None:
        """Let the error count alone."""
        self.weights.copy_(torch.tensor([1.0, 0.0]))
        self.offset.zero_()

    def finish(self, maps: list[tuple[Tensor, Tensor]]) -> None:
        """Set weights and offset from errors and distances (B, h, w) float of held-out normals, a pair a batch.

        Idempotent. With fewer than three normals the mean of their scores stands in for its standard deviation.
        """
        self.reset()
        if not maps:
            return
        scores = [torch.cat([self._scores(one) for one in kind]) for kind in zip(*maps, strict=True)]
        spreads = [values.std() if len(values) >= FEWEST else values.mean() for values in scores]
        self.weights.copy_(1 / torch.stack(spreads).clamp_min(TINY))
        self.offset.copy_(torch.cat([self(*pair) for pair in maps]).mean())

    def forward(self, error: Tensor, distance: Tensor) -> Tensor:
        """Weighted sum of two maps (B, h, w) float less the offset, at least 0: (B, h, w) float."""
        return (self.weights[0] * error + self.weights[1] * distance - self.offset).clamp_min(0)

    def _scores(self, maps: Tensor) -> Tensor:
        """Mean of the top share of maps (B, h, w) float: (B,) float."""
        values = maps.flatten(1)
        return values.topk(max(1, round(self.share * values.shape[1])), dim=1).values.mean(1)
