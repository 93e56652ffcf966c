"""How large a residual is, measured by the residuals of normals at the same position."""

import torch
from torch import Tensor, nn

from anomaly_lightning.detectors.parts.projection import Projection
from anomaly_lightning.errors import UserError

POSITIONS_AT_ONCE = 64  # bounds what the factorisation holds beside the statistics
SCALE_PRIOR = 4  # images' worth of the average position in the scale of each


class PositionWhitening(nn.Module):
    """Mahalanobis length of residuals with a covariance per position, shrunk towards the one common to all positions.

    In coordinates y in which the common covariance is the identity, with A_p the sum of outer products of the n
    observed residuals at position p, the covariance of a position is (A_p + prior * s_p^gamma * I) / (n + prior):
    `prior` images' worth of the common one at the scale s_p of that position. Of A_p the `rank` leading directions
    u_i are kept, the others share their mean variance (probabilistic PCA, Tipping & Bishop 1999): one position then
    costs rank * k numbers in place of k^2, and few of them could be told from few images anyway.

    gamma, in [0, 1], says how far a position's own scale is trusted: (the observed residuals' mean square / that of
    held-out normals')^4. Where objects move, the held-out residuals are larger than the observed ones and the scale of
    a position means little.

    Args:
        prior: Weight of the common covariance, in images.
        directions: Most channels k that it works on; more are projected at random. While fitting it takes
            4 h w k^2 bytes (32 x 32 and 128: 67 MB).
        rank: Directions of its own that a position has, at most k; 4 h w rank k bytes (13 MB).
    """

    factor: Tensor  # (k, k), y = factor @ residual
    floors: Tensor  # (h w, 1), weight of |y|^2, all directions alike
    axes: Tensor  # (h w, k, rank), sqrt(weight_i) u_i: what |y' axes|^2 takes off again: known to be normal

    def __init__(self, prior: float = 64.0, directions: int = 128, rank: int = 24) -> None:
        super().__init__()
        if prior <= 0 or min(directions, rank) < 1:
            raise UserError(
                "model.whitening.prior must be above 0, directions and rank 1 or more; "
                f"got {prior}, {directions} and {rank}."
            )
        self.prior, self.directions, self.rank = prior, directions, rank

    def build(self, channels: int, grid: tuple[int, int], seed: int) -> None:
        """Make the buffers for residuals of so many channels on a grid (h, w); `seed` is that of the projection."""
        self.projection = Projection(channels, self.directions, seed)
        self.channels, self.positions = self.projection.channels, grid[0] * grid[1]
        self.rank = min(self.rank, self.channels)
        # Large, and of no use before the end of the fit: empty until then, so that checkpoints in between stay small.
        for name in ("factor", "floors", "axes"):
            self.register_buffer(name, torch.empty(0))
        self._free()

    def _free(self) -> None:
        self._products, self._count = torch.empty(0), 0
        self._held, self._held_count = torch.empty(0), 0

    @property
    def fitted(self) -> bool:
        """Whether `finish` has set the buffers."""
        return self.axes.numel() > 0

    def observe(self, residuals: Tensor) -> None:
        """Take residuals (B, C, h, w) float of training normals into the outer products of each position."""
        vectors = self.projection(residuals).flatten(2).permute(2, 0, 1)  # (h w, B, k)
        if self._count == 0:
            self._products = vectors.new_zeros(self.positions, self.channels, self.channels)
        self._products.baddbmm_(vectors.transpose(1, 2), vectors)
        self._count += vectors.shape[1]

    def observe_held_out(self, residuals: Tensor) -> None:
        """Take residuals (B, C, h, w) float of normals that the network was not trained on."""
        vectors = self.projection(residuals).transpose(0, 1).flatten(1)  # (k, B h w)
        if self._held_count == 0:
            self._held = vectors.new_zeros(self.channels, self.channels)
        self._held += vectors @ vectors.T
        self._held_count += vectors.shape[1]

    def finish(self) -> None:
        """Set the buffers, in blocks of positions, and free the sums; idempotent."""
        if self._count == 0:
            return
        common = self._products.mean(0) / self._count
        common.diagonal().add_(1e-3 * common.diagonal().mean().clamp_min(1e-12))
        self.factor = _inverse_factor(common).contiguous()  # laid out as a loaded one, which then says the very same
        precision = self.factor.T @ self.factor
        scale = (self._products * precision).sum((1, 2)) / (self._count * self.channels)  # (h w,)
        gamma = self._trust(float(scale.mean()), precision)
        scale = ((self._count * scale + SCALE_PRIOR * scale.mean()) / (self._count + SCALE_PRIOR)) ** gamma
        pairs = zip(self._products.split(POSITIONS_AT_ONCE), scale.split(POSITIONS_AT_ONCE), strict=True)
        floors, axes = zip(*(self._own(*pair) for pair in pairs), strict=True)
        self.floors, self.axes = torch.cat(floors).contiguous(), torch.cat(axes).contiguous()
        self._free()

    def _own(self, products: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        """`floors` (P, 1) and `axes` (P, k, rank) of positions with products (P, k, k) and scale (P,)."""
        values, vectors = torch.linalg.eigh(self.factor @ products @ self.factor.T)  # ascending
        prior = self.prior * scale[:, None]  # (P, 1)
        leading, others = values[:, -self.rank :], values[:, : -self.rank]
        common = prior + others.sum(1, keepdim=True) / max(1, others.shape[1])
        unit = (self._count + self.prior) / self.channels
        floors = unit / common.clamp_min(1e-12)
        weights = (floors - unit / (leading + prior).clamp_min(1e-12)).clamp_min(0)  # (P, rank)
        return floors, weights.sqrt()[:, None] * vectors[..., -self.rank :]

    def _trust(self, observed: float, precision: Tensor) -> float:
        """gamma, from the whitened mean square of observed and held-out residuals; 0 without held-out ones."""
        if self._held_count == 0:
            return 0.0
        held = float((self._held / self._held_count * precision).sum()) / self.channels
        return min(1.0, (observed / max(held, 1e-12)) ** 4)

    def forward(self, residuals: Tensor) -> Tensor:
        """Mahalanobis length of residuals (B, C, h, w) float, per channel: (B, h, w) float, about 1 on normals."""
        return self.length(torch.einsum("ij,bjhw->bihw", self.factor, self.projection(residuals)))

    @property
    def rows(self) -> Tensor:
        """(k, C) float: projection and `factor` in one matrix."""
        basis = self.projection.basis
        return self.factor if basis is None else self.factor @ basis.flatten(1)

    def length(self, whitened: Tensor) -> Tensor:
        """The same of residuals that `factor` was applied to, (B, k, h, w) float; fastest with the channels last."""
        batch, _, height, width = whitened.shape
        vectors = whitened.flatten(2).permute(2, 0, 1)  # (h w, B, k)
        # Rows times matrices: ten times as fast as matrices times columns where there is one image.
        own = torch.bmm(vectors, self.axes).square().sum(2)
        squares = self.floors * vectors.square().sum(2) - own  # (h w, B)
        return squares.clamp_min(0).sqrt().T.reshape(batch, height, width)

    def reset(self) -> None:
        """Reset."""
        for name in ("factor", "floors", "axes"):
            setattr(self, name, getattr(self, name).new_empty(0))
        self._free()

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: object) -> None:
        for name in ("factor", "floors", "axes"):
            if (stored := state_dict.get(f"{prefix}{name}")) is not None:
                setattr(self, name, torch.empty(stored.shape, device=getattr(self, name).device))
        super()._load_from_state_dict(state_dict, prefix, *args)


def _inverse_factor(covariance: Tensor) -> Tensor:
    """W (k, k) lower triangular with W' W = covariance^-1."""
    factor = torch.linalg.cholesky(covariance)
    return torch.linalg.solve_triangular(factor, torch.eye(len(factor)).to(factor), upper=False)
