"""A transformer decoder: a noisy bottleneck and blocks of linear attention, after Dinomaly (arXiv 2405.14325)."""

import math
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WEIGHTS_STD = 0.02  # of the initial weights; with 0.01, the paper's, a decoder this shallow starts too near to zero


class LinearAttention(nn.Module):
    """Attention by inner products of positive features: sum_j phi(q) phi(k_j) v_j / sum_j phi(q) phi(k_j).

    phi(x) = elu(x) + 1 (Katharopoulos et al. 2020, eq. 7). It costs as much as there are positions, and can't focus on
    one of them, which keeps a decoder from copying its input (Dinomaly, section 3.3). What lies in the square of
    `blind` x `blind` positions around a query is subtracted from both sums, so that attention explains a position by
    others alone (You et al. 2022, UniAD, section 3.2, has it for softmax attention).

    Args:
        width: Channels of a token.
        heads: Divides `width`.
        blind: Odd side of the square that a query does not see; 0 = it sees everything.
    """

    def __init__(self, width: int, heads: int, blind: int = 0) -> None:
        super().__init__()
        self.heads, self.blind = heads, blind
        self.projections = nn.Linear(width, 3 * width)
        self.outlet = nn.Linear(width, width)

    def forward(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """What each of the tokens (B, h w, C) float of a grid (h, w) sees of the others: same shape."""
        query, key, value = self.projections(tokens).unflatten(2, (3, self.heads, -1)).unbind(2)  # (B, n, heads, d)
        query, key = F.elu(query) + 1, F.elu(key) + 1
        value = F.pad(value, (0, 1), value=1.0)  # the channel of ones sums up the weights
        seen = torch.einsum("bnhd,bhde->bnhe", query, torch.einsum("bnhd,bnhe->bhde", key, value))
        if self.blind:
            seen = seen - self._around(query, key, value, grid)
        outcome: Tensor = self.outlet((seen[..., :-1] / seen[..., -1:].clamp_min(1e-4)).flatten(2))
        return outcome

    def _around(self, query: Tensor, key: Tensor, value: Tensor, grid: tuple[int, int]) -> Tensor:
        """The sums over the square around each query: (B, n, heads, e) float; all arguments (B, n, heads, ...)."""
        reach, (height, width) = self.blind // 2, grid

        def padded(tokens: Tensor) -> Tensor:
            return F.pad(tokens.unflatten(1, grid), (0, 0, 0, 0, reach, reach, reach, reach))

        keys, values, total = padded(key), padded(value), torch.zeros_like(value)
        for top, left in product(range(self.blind), repeat=2):
            rows, columns = slice(top, top + height), slice(left, left + width)
            weight = (query * keys[:, rows, columns].flatten(1, 2)).sum(-1, keepdim=True)
            total = total + weight * values[:, rows, columns].flatten(1, 2)
        return total


class Block(nn.Module):
    """Attention, then a two-layer perceptron four times as wide, each beside a shortcut and behind a LayerNorm.

    Args:
        width: Channels of a token.
        heads: At most so many; as many of them as divide `width`.
        blind: See `LinearAttention`.
    """

    def __init__(self, width: int, heads: int, blind: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.attention = LinearAttention(width, math.gcd(heads, width), blind)
        self.perceptron = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Tokens (B, h w, C) float of a grid (h, w): same shape."""
        tokens = tokens + self.attention(self.norms[0](tokens), grid)
        outcome: Tensor = tokens + self.perceptron(self.norms[1](tokens))
        return outcome


class Decoder(nn.Module):
    """Bottleneck with dropout, then blocks, whose outputs rebuild equal groups of the input's channels.

    Args:
        channels: C, a multiple of `groups`.
        groups: The mean of the last depth / groups blocks rebuilds the first group, and so on.
        width: Channels of a token; None, or not below C: those of a group, and the mean of the groups goes in.
        depth: Blocks, a multiple of `groups`.
        heads: See `Block`.
        blind: See `LinearAttention`.
        dropout: Share of the bottleneck's values that are dropped, in [0, 1).
        seed: Of the dropout.
    """

    def __init__(
        self,
        channels: int,
        groups: int,
        width: int | None,
        depth: int,
        heads: int,
        blind: int,
        dropout: float,
        seed: int,
    ) -> None:
        super().__init__()
        self.groups, self.dropout, self.seed = groups, dropout, seed
        self.projects = width is not None and width < channels
        each = channels // groups
        inside = width if width is not None and self.projects else each
        if self.projects:
            self.inlet = nn.Linear(channels, inside)
            self.outlets = nn.ModuleList(nn.Linear(inside, each) for _ in range(groups))
        self.bottleneck = nn.ModuleList([nn.Linear(inside, 4 * inside), nn.Linear(4 * inside, inside)])
        self.blocks = nn.ModuleList(Block(inside, heads, blind) for _ in range(depth))
        self.apply(_start)

    def forward(self, grids: Tensor, step: int | None) -> Tensor:
        """What is rebuilt of (B, C, h, w) float: same shape.

        Args:
            grids: Features.
            step: Number of the training step, which the dropout follows; None = none is dropped.
        """
        size = (grids.shape[-2], grids.shape[-1])
        tokens = grids.flatten(2).transpose(1, 2)  # (B, h w, C)
        tokens = self.inlet(tokens) if self.projects else torch.stack(tokens.chunk(self.groups, 2)).mean(0)
        tokens = self._narrowed(tokens, step)
        outputs = []
        for block in self.blocks:
            tokens = block(tokens, size)
            outputs.append(tokens)
        each = len(outputs) // self.groups
        parts = [torch.stack(outputs[len(outputs) - (i + 1) * each :][:each]).mean(0) for i in range(self.groups)]
        if self.projects:
            parts = [outlet(part) for outlet, part in zip(self.outlets, parts, strict=True)]
        return torch.cat(parts, 2).transpose(1, 2).unflatten(2, size)

    def _narrowed(self, tokens: Tensor, step: int | None) -> Tensor:
        """The bottleneck: tokens (B, n, C) float with dropout before, within and behind two layers: same shape."""
        generator = None
        if step is not None and self.dropout:  # of seed and step alone, so that a run can be resumed
            generator = torch.Generator(tokens.device).manual_seed(1_000_003 * self.seed + step)
        hidden = F.gelu(self.bottleneck[0](self._dropped(tokens, generator)))
        return self._dropped(self.bottleneck[1](self._dropped(hidden, generator)), generator)

    def _dropped(self, values: Tensor, generator: torch.Generator | None) -> Tensor:
        """Values of any shape with a share of them 0 and the others larger by as much; as they are without chance."""
        if generator is None:
            return values
        kept = torch.rand(values.shape, generator=generator, device=values.device) >= self.dropout
        return values * kept / (1 - self.dropout)


def _start(module: nn.Module) -> None:
    """Initial weights of one layer: a truncated Gaussian, no offsets."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=WEIGHTS_STD, a=-3 * WEIGHTS_STD, b=3 * WEIGHTS_STD)
        nn.init.zeros_(module.bias)
