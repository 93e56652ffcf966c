"""PatchCore: distance to the nearest of a memory bank of normal patches (Roth et al. 2022, arXiv 2106.08265)."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from anomaly_lightning.detectors.base import Detector, Normals, Spec
from anomaly_lightning.detectors.parts.coreset import PatchSample, greedy_k_center
from anomaly_lightning.detectors.parts.patch_memory import EXPORTED
from anomaly_lightning.errors import UserError

DISTANCES_AT_ONCE = 2**22  # entries of one block of the distance matrix: 16 MB in float32
ROWS_AT_ONCE = 256  # bounds the table of neighbours while it is made


class PatchCore(Detector):
    """Euclidean distance of each patch to its nearest neighbour in a bank of normal patches.

    A patch is the average of the features in its `neighbourhood` (section 3.1), zeros outside the grid, as in the
    authors' code. That matters: it shrinks the features at the grid's rim, where the backbone's own padding makes them
    vary most, and with them their errors; without it normal images have their maximum there.

    While fitting, a uniform sample of at most `pool` patches is kept (4 pool C bytes, whatever the number of
    images); of these the bank is chosen by the greedy k-center coreset on a random projection (algorithm 1), in
    O(bank * pool * projection). As published it is `ratio` of all patches, chosen from all of them: ratio 0.1, bank,
    pool and projection null, where memory and time grow with the number of images, the latter by its square.

    Re-weighting (equation 7) is a matter of the image's score, and a detector returns a map. So the whole map of a
    image is multiplied by the weight of its top patch, w = 1 - exp(|x - m*|) / sum over the `neighbours` m of m* in
    the bank of exp(|x - m|): the map's maximum is then the paper's score, and the order of positions within the
    image is unchanged.

    Args:
        bank: Patches in the memory bank, at most; None: as many as `ratio` says.
        ratio: Share of all training patches in the bank, in (0, 1]; the paper has 0.01 to 0.25. None: as many as
            `bank` says.
        pool: Patches the bank is chosen from, at least `bank`; None: all.
        projection: Dimension of the random projection that the coreset is chosen in; None: the features themselves.
        neighbourhood: Side of the window that a patch averages, odd; 1: none.
        neighbours: How many neighbours of m* re-weight the map, m* among them; 1: no re-weighting.
        seed: Of the sample and the projection.
    """

    memory: Tensor  # (m, C), m <= bank
    support: Tensor  # (m, b) int64, the b nearest entries of each entry in the bank, itself first

    def __init__(
        self,
        *,
        bank: int | None = 2000,
        ratio: float | None = None,
        pool: int | None = 20000,
        projection: int | None = 64,
        neighbourhood: int = 3,
        neighbours: int = 9,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if min(1 if value is None else value for value in (bank, pool, projection, neighbours)) < 1 or (
            bank is not None and pool is not None and pool < bank
        ):
            raise UserError(
                "model.bank, model.neighbours and model.projection must be 1 or more and model.pool at least "
                f"model.bank; got bank={bank}, pool={pool}, neighbours={neighbours}, projection={projection}."
            )
        if (bank is None and ratio is None) or (ratio is not None and not 0 < ratio <= 1):
            raise UserError(
                f"model.ratio must be above 0 and at most 1, or null where model.bank says how many; got bank={bank}, "
                f"ratio={ratio}."
            )
        if neighbourhood < 1 or neighbourhood % 2 == 0:
            raise UserError(f"model.neighbourhood must be odd and 1 or more; got {neighbourhood}.")
        self.bank, self.ratio, self.pool, self.projection = bank, ratio, pool, projection
        self.neighbourhood, self.neighbours, self.seed = neighbourhood, neighbours, seed

    def build(self, spec: Spec) -> None:
        """Make the buffers for features of shape (C, h, w)."""
        self.register_buffer("memory", torch.empty(0, spec.features[0]))
        self.register_buffer("support", torch.empty(0, 1, dtype=torch.int64))

    def prepare(self, normals: Normals) -> None:
        """Choose the bank from a sample of the patches of features (B, C, h, w) float."""
        sample, count = PatchSample(self.pool, self.seed), 0
        for features in normals:
            sample.observe(self._averaged(features))
            count += len(features) * features.shape[2] * features.shape[3]
        points = patches = sample.vectors
        if self.projection is not None and self.projection < points.shape[1]:
            generator = torch.Generator().manual_seed(self.seed)
            directions = torch.randn(points.shape[1], self.projection, generator=generator)
            points = points @ (directions / self.projection**0.5).to(points)
        self.memory = patches[greedy_k_center(points, self._kept(count, len(points)))].to(self.memory).clone()
        self.support = _neighbours_of_each(self.memory, min(self.neighbours, len(self.memory)))

    def _kept(self, count: int, sampled: int) -> int:
        """How many of so many sampled patches the bank takes, where training has `count`."""
        share = count if self.ratio is None else max(1, int(self.ratio * count))
        return min(sampled, share, sampled if self.bank is None else self.bank)

    def error_map(self, inputs: Tensor) -> Tensor:
        """Re-weighted distance to the bank: (B, h, w) float for features (B, C, h, w) float."""
        patches = self._averaged(inputs.to(self.memory.dtype)).flatten(2).transpose(1, 2)  # (B, h w, C)
        distance = distances if torch.compiler.is_exporting() else exact_distances
        errors = distance(patches.flatten(0, 1), self.memory).unflatten(0, (-1, patches.shape[1]))
        top = errors.argmax(1, keepdim=True)  # (B, 1)
        patch = patches.gather(1, top[..., None].expand(-1, 1, patches.shape[2]))  # (B, 1, C)
        weight = self._weight(patch, nearest_neighbours(patch[:, 0], self.memory))
        return (errors * weight[:, None]).unflatten(1, inputs.shape[-2:])

    def _weight(self, patch: Tensor, nearest: Tensor) -> Tensor:
        """Weight of equation 7 for top patches (B, 1, C) with their nearest bank entries (B,): (B,) in [0, 1]."""
        if self.support.shape[1] == 1:
            return torch.ones_like(patch[:, 0, 0])
        around = self.memory[self.support[nearest]]  # (B, b, C)
        distances = torch.linalg.vector_norm(patch - around, dim=2)
        return 1 - distances.softmax(1)[:, 0]

    def _averaged(self, features: Tensor) -> Tensor:
        """Neighbourhood averages of features (B, C, h, w) float, same shape."""
        side = self.neighbourhood
        return F.avg_pool2d(features, side, 1, side // 2) if side > 1 else features

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Give the bank the size of the one to be loaded."""
        for name in ("memory", "support"):
            if (stored := state_dict.get(f"{prefix}{name}")) is not None:
                setattr(self, name, getattr(self, name).new_empty(stored.shape))
        super()._load_from_state_dict(state_dict, prefix, *args)


def _neighbours_of_each(memory: Tensor, count: int) -> Tensor:
    """(m, count) int64: the nearest entries of each of memory (m, C), itself first, duplicates or not."""
    found = []
    for start in range(0, len(memory), ROWS_AT_ONCE):
        block = memory[start : start + ROWS_AT_ONCE]
        around = torch.cdist(block, memory, compute_mode="donot_use_mm_for_euclid_dist")
        around[torch.arange(len(block)), start + torch.arange(len(block))] = -1.0
        found.append(around.topk(count, largest=False).indices)
    return torch.cat(found)


def exact_distances(patches: Tensor, memory: Tensor) -> Tensor:
    """Distance (n,) from patches (n, C) to the nearest of memory (m, C), without the cancellation of `distances`."""
    return torch.linalg.vector_norm(patches - memory[nearest_neighbours(patches, memory)], dim=1)


def nearest_neighbours(patches: Tensor, memory: Tensor) -> Tensor:
    """Index (n,) int64 of the nearest of memory (m, C) to patches (n, C), by inner products of centred vectors.

    Blocks bound the memory.
    """
    whole = torch.compiler.is_exporting()
    blocks = (patches,) if whole else patches.split(max(1, DISTANCES_AT_ONCE // len(memory)))
    centre = memory.mean(0)
    return torch.cat([_partial_squares(block, memory, centre).argmin(1) for block in blocks])


def distances(patches: Tensor, memory: Tensor) -> Tensor:
    """Distance (n,) from patches (n, C) to the nearest of memory (m, C), block by block of it.

    For export: there an argmin over the whole matrix takes a third as long as the backbone. Centred vectors cancel
    little: to a few 1e-6 the same as `exact_distances`, but for patches that are in the memory themselves.
    """
    centre = memory.mean(0)
    own = (patches - centre).square().sum(1)
    least = [_partial_squares(patches, block, centre).amin(1) for block in memory.split(EXPORTED)]
    return (torch.stack(least).amin(0) + own).clamp_min(0).sqrt()


def _partial_squares(patches: Tensor, memory: Tensor, centre: Tensor) -> Tensor:
    """Squared distances (n, m) less the squared length of each centred patch, of (n, C), (m, C) and centre (C,)."""
    centred = memory - centre
    return torch.addmm(centred.square().sum(1), patches - centre, centred.T, alpha=-2)
