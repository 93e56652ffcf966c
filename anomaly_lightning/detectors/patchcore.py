"""PatchCore: distance to the nearest of a memory bank of normal patches (Roth et al. 2022, arXiv 2106.08265)."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from anomaly_lightning.detectors.base import Detector
from anomaly_lightning.detectors.parts import PatchSample, greedy_k_center
from anomaly_lightning.errors import UserError

DISTANCES_AT_ONCE = 2**22  # entries of one block of the distance matrix: 16 MB in float32


class PatchCore(Detector):
    """Euclidean distance of each patch to its nearest neighbour in a bank of normal patches.

    A patch is the average of the features in its `neighbourhood` (section 3.1), zeros outside the grid, as in the
    authors' code. That matters: it shrinks the features at the grid's rim, where the backbone's own padding makes them
    vary most, and with them their errors; without it normal images have their maximum there.

    While fitting, a uniform sample of at most `pool` patches is kept (4 pool C bytes, whatever the number of
    images); of these the bank is chosen by the greedy k-center coreset on a random projection (algorithm 1), in
    O(bank * pool * projection).

    Re-weighting (equation 7) is a matter of the image's score, and a detector returns a map. So the whole map of a
    image is multiplied by the weight of its top patch, w = 1 - exp(|x - m*|) / sum over the `neighbours` m of m* in
    the bank of exp(|x - m|): the map's maximum is then the paper's score, and the order of positions within the
    image is unchanged.

    Args:
        bank: Patches in the memory bank, at most. The paper has 1 to 10 % of all training patches.
        pool: Patches the bank is chosen from, at least `bank`.
        projection: Dimension of the random projection that the coreset is chosen in; None: the features themselves.
        neighbourhood: Side of the window that a patch averages, odd; 1: none.
        neighbours: How many neighbours of m* re-weight the map, m* among them; 1: no re-weighting.
        seed: Of the sample and the projection.
    """

    memory: Tensor  # (bank, C)

    def __init__(
        self,
        *,
        bank: int = 2000,
        pool: int = 20000,
        projection: int | None = 64,
        neighbourhood: int = 3,
        neighbours: int = 9,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not 1 <= bank <= pool or neighbours < 1 or (projection is not None and projection < 1):
            raise UserError(
                "model.bank, model.neighbours and model.projection must be 1 or more and model.pool at least "
                f"model.bank; got bank={bank}, pool={pool}, neighbours={neighbours}, projection={projection}."
            )
        if neighbourhood < 1 or neighbourhood % 2 == 0:
            raise UserError(f"model.neighbourhood must be odd and 1 or more; got {neighbourhood}.")
        self.bank, self.pool, self.projection = bank, pool, projection
        self.neighbourhood, self.neighbours, self.seed = neighbourhood, neighbours, seed
        self.register_buffer("memory", torch.empty(0, 0))
        self._sample = PatchSample(pool, seed)

    def observe(self, features: Tensor) -> None:
        """Take patches of (B, C, h, w) float into the pool."""
        self._sample.observe(self._averaged(features))

    def finish(self) -> None:
        """Choose the bank from the pool, and free the pool; idempotent."""
        if len(self._sample) == 0:
            return
        points = patches = self._sample.vectors
        if self.projection is not None and self.projection < points.shape[1]:
            generator = torch.Generator().manual_seed(self.seed)
            directions = torch.randn(points.shape[1], self.projection, generator=generator)
            points = points @ (directions / self.projection**0.5).to(points)
        self.memory = patches[greedy_k_center(points, min(self.bank, len(points)))].to(self.memory).clone()
        self._sample.clear()

    def error_map(self, features: Tensor) -> Tensor:
        """Re-weighted distance to the bank: (B, h, w) float for features (B, C, h, w) float."""
        batch, _, height, width = features.shape
        patches = self._averaged(features.to(self.memory.dtype)).permute(0, 2, 3, 1).flatten(0, 2)
        distance, nearest = nearest_neighbours(patches, self.memory)
        errors = distance.view(batch, -1)
        top = errors.argmax(1) + torch.arange(batch, device=errors.device) * errors.shape[1]
        return (errors * self._weight(patches[top], nearest[top])[:, None]).view(batch, height, width)

    def _weight(self, patches: Tensor, nearest: Tensor) -> Tensor:
        """Weight of equation 7 for top patches (B, C) with their nearest bank entries (B,): (B,) in [0, 1]."""
        count = min(self.neighbours, len(self.memory))
        if count == 1:
            return torch.ones_like(patches[:, 0])
        around = torch.cdist(self.memory[nearest], self.memory, compute_mode="donot_use_mm_for_euclid_dist")
        around.scatter_(1, nearest[:, None], -1.0)  # m* itself comes first, duplicates or not
        support = self.memory[around.topk(count, largest=False).indices]  # (B, count, C)
        distances = torch.linalg.vector_norm(patches[:, None] - support, dim=2)
        return 1 - distances.softmax(1)[:, 0]

    def _averaged(self, features: Tensor) -> Tensor:
        """Neighbourhood averages of features (B, C, h, w) float, same shape."""
        side = self.neighbourhood
        return F.avg_pool2d(features, side, 1, side // 2) if side > 1 else features

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Give the bank the size of the one to be loaded."""
        if (stored := state_dict.get(f"{prefix}memory")) is not None:
            self.memory = self.memory.new_empty(stored.shape)
        super()._load_from_state_dict(state_dict, prefix, *args)


def nearest_neighbours(patches: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
    """Distance (n,) from patches (n, C) to the nearest of memory (m, C), and its index (n,) int64.

    Blocks bound the memory. The neighbour is found by inner products of centred vectors, its distance then computed
    without their cancellation.
    """
    centre = memory.mean(0)
    centred = memory - centre
    norms = centred.square().sum(1)
    blocks = patches.split(max(1, DISTANCES_AT_ONCE // len(memory)))
    nearest = torch.cat([torch.addmm(norms, block - centre, centred.T, alpha=-2).argmin(1) for block in blocks])
    return torch.linalg.vector_norm(patches - memory[nearest], dim=1), nearest
