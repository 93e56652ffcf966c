"""Bounded samples of patches: even ones while they stream past, and the few that cover all others."""

import torch
from torch import Tensor


class PatchSample:
    """Uniform random sample of all vectors observed, of bounded size.

    Every vector draws a key, the `size` largest keys stay (Efraimidis & Spirakis 2006, equal weights). The keys are
    drawn image by image, so that the sample does not depend on the batches.

    Args:
        size: Vectors kept at most; None: all.
        seed: Of the keys.

    Attributes:
        vectors: (n, C) float, the sample so far, n <= size.
    """

    def __init__(self, size: int | None, seed: int) -> None:
        self.size, self.seed = size, seed
        self.clear()

    def __len__(self) -> int:
        return len(self.vectors)

    def clear(self) -> None:
        """Reset; the same keys are drawn again."""
        self.vectors, self._keys = torch.empty(0), torch.empty(0, dtype=torch.float64)
        self._generator = torch.Generator().manual_seed(self.seed)

    def observe(self, features: Tensor) -> None:
        """Take the vectors of all positions of (B, C, h, w) float into the sample."""
        vectors = features.permute(0, 2, 3, 1).flatten(0, 2)  # (B h w, C)
        if len(self) == 0:
            self.vectors = vectors[:0]
        positions = len(vectors) // len(features)
        if self.size is None:
            self.vectors = torch.cat((self.vectors, vectors))
            return
        keys = torch.cat([torch.rand(positions, generator=self._generator, dtype=torch.float64) for _ in features])
        new = keys > (self._keys.min() if len(self) == self.size else -1.0)
        keys = torch.cat((self._keys, keys[new]))
        vectors = torch.cat((self.vectors, vectors[new.to(vectors.device)]))
        self._keys, kept = keys.topk(min(self.size, len(keys)))
        self.vectors = vectors[kept.to(vectors.device)]


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
