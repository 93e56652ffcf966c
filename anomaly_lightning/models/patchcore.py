"""PatchCore: distance to the nearest of a memory bank of normal patches (Roth et al. 2022, arXiv 2106.08265)."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from anomaly_lightning.errors import UserError
from anomaly_lightning.models.base import Detector

DISTANCES_AT_ONCE = 2**22  # entries of one block of the distance matrix: 16 MB in float32


class PatchCore(Detector):
    """Euclidean distance of each patch to its nearest neighbour in a bank of normal patches.

    A patch is the average of the features in its `neighbourhood` (section 3.1), zeros outside the grid, as in the
    authors' code. That matters: it shrinks the features at the grid's rim, where the backbone's own padding makes them
    vary most, and with them their errors; without it normal pictures have their maximum there.

    While fitting, a uniform sample of at most `pool` patches is kept (4 pool C bytes, whatever the number of
    pictures); of these the bank is chosen by the greedy k-center coreset on a random projection (algorithm 1), in
    O(bank * pool * projection).

    Re-weighting (equation 7) is a matter of the picture's score, and a detector returns a map. So the whole map of a
    picture is multiplied by the weight of its top patch, w = 1 - exp(|x - m*|) / sum over the `neighbours` m of m* in
    the bank of exp(|x - m|): the map's maximum is then the paper's score, and the order of positions within the
    picture is unchanged.

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
        self._keys, self._patches = torch.empty(0), torch.empty(0)
        self._generator = torch.Generator()

    def observe(self, features: Tensor) -> None:
        """Take patches of (B, C, h, w) float into the pool: those with the highest of random keys drawn per picture."""
        if len(self._keys) == 0:
            self._generator.manual_seed(self.seed)
            self._patches = features.new_empty(0, features.shape[1])
        patches = self._patches_of(features)
        size = len(patches) // len(features)
        keys = torch.cat([torch.rand(size, generator=self._generator, dtype=torch.float64) for _ in features])
        low = self._keys.min() if len(self._keys) == self.pool else torch.tensor(-1.0)
        new = keys > low
        keys = torch.cat((self._keys, keys[new]))
        patches = torch.cat((self._patches, patches[new.to(patches.device)]))
        self._keys, kept = keys.topk(min(self.pool, len(keys)))
        self._patches = patches[kept.to(patches.device)]

    def finish(self) -> None:
        """Choose the bank from the pool, and free the pool."""
        if len(self._keys) == 0:
            return
        points = self._patches
        if self.projection is not None and self.projection < points.shape[1]:
            generator = torch.Generator().manual_seed(self.seed)
            directions = torch.randn(points.shape[1], self.projection, generator=generator)
            points = points @ (directions / self.projection**0.5).to(points)
        self.memory = self._patches[greedy_k_center(points, min(self.bank, len(points)))].to(self.memory).clone()
        self._keys, self._patches = torch.empty(0), torch.empty(0)

    def error_map(self, features: Tensor) -> Tensor:
        """Re-weighted distance to the bank: (B, h, w) float for features (B, C, h, w) float."""
        batch, _, height, width = features.shape
        patches = self._patches_of(features.to(self.memory.dtype))
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

    def _patches_of(self, features: Tensor) -> Tensor:
        """Neighbourhood averages of features (B, C, h, w): (B h w, C)."""
        side = self.neighbourhood
        averaged = F.avg_pool2d(features, side, 1, side // 2) if side > 1 else features
        return averaged.permute(0, 2, 3, 1).flatten(0, 2)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Give the bank the size of the one to be loaded."""
        if (stored := state_dict.get(f"{prefix}memory")) is not None:
            self.memory = self.memory.new_empty(stored.shape)
        super()._load_from_state_dict(state_dict, prefix, *args)


def greedy_k_center(points: Tensor, size: int) -> Tensor:
    """Indices (size,) of a greedy k-center cover of points (n, d): each next is the farthest from those chosen.

    Starts from the first point. Twice the best possible radius at most (Gonzalez 1985).
    """
    chosen = torch.zeros(size, dtype=torch.int64, device=points.device)
    points = points - points.mean(0)  # inner products of far-off points would cancel
    norms = points.square().sum(1)
    closest = torch.full_like(norms, torch.inf)
    for step in range(size):
        if step:
            chosen[step] = closest.argmax()
        centre = points[chosen[step]]
        torch.minimum(closest, norms - 2 * (points @ centre) + centre.square().sum(), out=closest)
        closest[chosen[step]] = -torch.inf
    return chosen


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
