"""A bounded memory of normal patches, and the distance to the nearest of them."""

import torch
from torch import Tensor, nn

from anomaly_lightning.detectors.parts.coreset import PatchSample, greedy_k_center

POOL = 10  # patches of the streamed sample for each that the memory keeps


class PatchMemory(nn.Module):
    """Nearest-neighbour distance to a coreset of normal patches (Roth et al. 2022).

    A uniform sample of ten times the size streams, so that memory is bounded whatever the number of images; of it
    the greedy k-center coreset is kept, in O(size^2) distances.

    Args:
        channels: k, channels of the vectors.
        size: Vectors kept at most.
        unit: Squared distances are divided by it.
        seed: Of the sample.
    """

    bank: Tensor  # (size, k) float32, the first `count` rows are filled
    count: Tensor  # () int64
    norms: Tensor  # (size,) squared lengths; infinite where unfilled, so that those are never nearest

    def __init__(self, channels: int, size: int, unit: float, seed: int = 0) -> None:
        super().__init__()
        self.size, self.unit = size, unit
        self.register_buffer("bank", torch.zeros(size, channels))
        self.register_buffer("norms", torch.full((size,), torch.inf))
        self.register_buffer("count", torch.tensor(0))
        self._sample = PatchSample(POOL * size, seed)

    def observe(self, patches: Tensor) -> None:
        """Take the vectors of (B, k, h, w) float into the sample."""
        self._sample.observe(patches)

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

    def forward(self, patches: Tensor) -> Tensor:
        """Distance of every vector to its nearest in the bank, over sqrt(unit): (B, h, w) float of (B, k, h, w)."""
        batch, _, height, width = patches.shape
        distances = patches.new_empty(batch, height * width)
        for row, image in enumerate(patches.flatten(2).transpose(1, 2)):  # (h w, k), one image bounds the memory
            nearest = torch.addmm(self.norms, image, self.bank.T, alpha=-2).amin(1)
            distances[row] = nearest + image.square().sum(1)
        return (distances.clamp_min(0) / self.unit).sqrt().view(batch, height, width)
