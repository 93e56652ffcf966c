"""A bounded memory of normal patches, and the distance to the nearest of them."""

import torch
from torch import Tensor, nn

from anomaly_lightning.detectors.parts.coreset import PatchSample, greedy_k_center
from anomaly_lightning.detectors.parts.grid import Chessboard, surroundings
from anomaly_lightning.errors import UserError

SAMPLED = 10  # patches of the streamed sample for each that the memory keeps
# Entries of one block of the distance matrix: on a CPU half a megabyte, which its cache holds until the minimum is
# taken (half the time of blocks that it does not hold); elsewhere 64 MB, in few calls.
ON_CPU, ELSEWHERE = 2**17, 2**24
EXPORTED = 250  # patches of the bank in one block of an exported graph


class PatchMemory(nn.Module):
    """Nearest-neighbour distance to a coreset of normal patches (Roth et al. 2022).

    A patch is the average of 3 x 3 positions. A uniform sample of ten times the size streams, so that memory is bounded
    whatever the number of images; of it the greedy k-center coreset is kept, in O(size^2) distances.

    Args:
        size: Patches kept at most.
        components: Coordinates (principal axes) that it works on, at most.
        sparse: Whether distances are computed at the white squares of a chessboard alone, at half the cost.
    """

    bank: Tensor  # (size, k) float32, the first `count` rows are filled
    count: Tensor  # () int64
    norms: Tensor  # (size,) squared lengths; once fitted infinite where unfilled, so that those are never nearest

    def __init__(self, size: int = 2000, components: int = 32, sparse: bool = True) -> None:
        super().__init__()
        if min(size, components) < 1:
            raise UserError(f"model.memory.size and components must be 1 or more; got {size} and {components}.")
        self.size, self.components, self.sparse = size, components, sparse

    def build(self, channels: int, grid: tuple[int, int], seed: int) -> None:
        """Make the buffers for features of so many channels on a grid (h, w); `seed` is that of the sample."""
        self.components, self.unit = min(self.components, channels), channels
        self.register_buffer("bank", torch.zeros(self.size, self.components))
        self.register_buffer("norms", torch.zeros(self.size))
        self.register_buffer("count", torch.tensor(0))
        self.board = Chessboard(grid)
        self._sample = PatchSample(SAMPLED * self.size, seed)

    def observe(self, coordinates: Tensor) -> None:
        """Take the patches of coordinates (B, k, h, w) float into the sample."""
        self._sample.observe(surroundings(coordinates))

    def finish(self) -> None:
        """Choose the bank from the sample, and free that; idempotent."""
        if len(self._sample) == 0:
            return
        vectors = self._sample.vectors
        filled = min(self.size, len(vectors))
        self.bank.zero_()
        self.bank[:filled] = vectors[greedy_k_center(vectors, filled)]
        self.norms.fill_(torch.inf)
        self.norms[:filled] = self.bank[:filled].square().sum(1)
        self.count.fill_(filled)
        self._sample.clear()

    def forward(self, coordinates: Tensor) -> Tensor:
        """Distance of every patch to its nearest in the bank over sqrt(C): (B, h, w) float of (B, k, h, w) float."""
        if not self.sparse:
            return self.everywhere(coordinates)
        return self.board.fill(self._nearest(self.board.take(surroundings(coordinates))))

    def everywhere(self, coordinates: Tensor) -> Tensor:
        """The same at every position, whether `sparse` or not."""
        patches = surroundings(coordinates).flatten(2).transpose(1, 2)
        return self._nearest(patches).unflatten(1, coordinates.shape[-2:])

    def _nearest(self, patches: Tensor) -> Tensor:
        """Distance (B, n) float of patches (B, n, k) float, in blocks."""
        vectors = patches.flatten(0, 1)
        entries = ON_CPU if vectors.device.type == "cpu" else ELSEWHERE
        if torch.compiler.is_exporting():
            distances = self._distances(vectors)
        else:
            distances = torch.cat([self._distances(block) for block in vectors.split(max(1, entries // self.size))])
        return distances.unflatten(0, (-1, patches.shape[1]))

    def _distances(self, vectors: Tensor) -> Tensor:
        """Distance (n,) float of patches (n, k) float by |a|^2 + |b|^2 - 2 a b."""
        nearest = self._nearest_terms(vectors) + vectors.square().sum(1)
        return (nearest.clamp_min(0) / self.unit).sqrt()

    def _nearest_terms(self, vectors: Tensor) -> Tensor:
        """Least |b|^2 - 2 a b over the bank, (n,) float, of patches (n, k) float."""
        # A graph can't cut its batch into blocks, so it cuts the bank.
        count = EXPORTED if torch.compiler.is_exporting() else self.size
        blocks = zip(self.norms.split(count), self.bank.split(count), strict=True)
        least = [torch.addmm(norms, vectors, bank.T, alpha=-2).amin(1) for norms, bank in blocks]
        return least[0] if len(least) == 1 else torch.stack(least).amin(0)
