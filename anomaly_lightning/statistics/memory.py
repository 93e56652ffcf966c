"""A bounded random sample of normal patches, and the distance to the nearest of them."""

import torch
from torch import Tensor, nn


class PatchMemory(nn.Module):
    """Nearest-neighbour distance to a uniform random sample of all vectors observed.

    The sample streams: every vector draws a key, the `size` largest keys stay (Efraimidis & Spirakis 2006, equal
    weights), so memory is bounded whatever the number of pictures. A random sample of this size ranks about as well as
    a greedy coreset (Roth et al. 2022) and costs nothing to fit.

    Args:
        channels: k, channels of the vectors.
        size: Vectors kept at most.
        seed: Of the sample.
    """

    bank: Tensor  # (size, k) float32, the first `count` rows are filled
    count: Tensor  # () int64
    norms: Tensor  # (size,) squared lengths; infinite where unfilled, so that those are never nearest

    def __init__(self, channels: int, size: int, seed: int = 0) -> None:
        super().__init__()
        self.size, self.seed = size, seed
        self.register_buffer("bank", torch.zeros(size, channels))
        self.register_buffer("norms", torch.full((size,), torch.inf))
        self.register_buffer("count", torch.tensor(0))
        self._reset()

    def _reset(self) -> None:
        self._keys, self._vectors = torch.empty(0), torch.empty(0)
        self._generator = torch.Generator().manual_seed(self.seed)

    def observe(self, features: Tensor) -> None:
        """Take the vectors of (B, k, h, w) float into the sample."""
        vectors = features.permute(0, 2, 3, 1).flatten(0, 2)  # (B h w, k)
        keys = torch.rand(len(vectors), generator=self._generator).to(vectors.device)
        best = keys.topk(min(self.size, len(keys))).indices
        if len(self._keys):
            keys, vectors = torch.cat([self._keys, keys[best]]), torch.cat([self._vectors, vectors[best]])
            best = keys.topk(min(self.size, len(keys))).indices
        self._keys, self._vectors = keys[best], vectors[best]

    def finish(self) -> None:
        """Put the sample into the bank."""
        filled = len(self._keys)
        if filled == 0:
            return
        self.bank.zero_()
        self.bank[:filled] = self._vectors
        self.norms.fill_(torch.inf)
        self.norms[:filled] = self._vectors.square().sum(1)
        self.count.fill_(filled)
        self._reset()

    def forward(self, features: Tensor) -> Tensor:
        """Distance of every vector to its nearest in the bank, per channel: (B, h, w) float of (B, k, h, w) float."""
        batch, channels, height, width = features.shape
        distances = features.new_empty(batch, height * width)
        for row, picture in enumerate(features.flatten(2).transpose(1, 2)):  # (h w, k), one picture bounds the memory
            nearest = torch.addmm(self.norms, picture, self.bank.T, alpha=-2).amin(1)
            distances[row] = nearest + picture.square().sum(1)
        return (distances.clamp_min(0) / channels).sqrt().view(batch, height, width)
