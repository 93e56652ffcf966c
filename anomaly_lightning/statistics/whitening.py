"""How large a residual is, measured by the residuals of normals at the same position."""

import torch
from torch import Tensor, nn

POSITIONS_AT_ONCE = 64  # bounds what the factorisation holds beside the statistics
SCALE_PRIOR = 4  # pictures' worth of the average position in the scale of each


class PositionWhitening(nn.Module):
    """Mahalanobis length of residuals with a covariance per position, shrunk towards the one common to all positions.

    With S_p the sum of outer products of the n observed residuals at position p and G the common covariance, the
    covariance of a position is (S_p + prior * s_p^gamma * G) / (n + prior): `prior` pictures' worth of G at the scale
    of that position. gamma, in [0, 1], says how far a position's own scale is trusted: (the observed residuals' mean
    square / that of held-out normals')^4, both whitened by G. Where objects move, the held-out residuals are larger
    than the observed ones and the scale of a position means little.

    Args:
        channels: k, channels of the residual.
        grid: (h, w).
        prior: Weight of the common covariance, in pictures.
    """

    factors: Tensor  # (h w, k, k) float32, W with W' W = covariance^-1; empty before `finish`

    def __init__(self, channels: int, grid: tuple[int, int], prior: float) -> None:
        super().__init__()
        self.channels, self.positions, self.prior = channels, grid[0] * grid[1], prior
        # Large, and of no use before the end of the fit: empty until then, so that checkpoints in between stay small.
        self.register_buffer("factors", torch.empty(0))
        self._products, self._count = torch.empty(0), 0
        self._held, self._held_count = torch.empty(0), 0

    @property
    def fitted(self) -> bool:
        """Whether `finish` has set the factors."""
        return self.factors.numel() > 0

    def observe(self, residuals: Tensor) -> None:
        """Take residuals (B, k, h, w) float of training normals into the outer products of each position."""
        vectors = residuals.flatten(2).permute(2, 0, 1)  # (h w, B, k)
        if self._count == 0:
            self._products = vectors.new_zeros(self.positions, self.channels, self.channels)
        self._products.baddbmm_(vectors.transpose(1, 2), vectors)
        self._count += vectors.shape[1]

    def observe_held_out(self, residuals: Tensor) -> None:
        """Take residuals (B, k, h, w) float of normals that the network was not trained on."""
        vectors = residuals.transpose(0, 1).flatten(1)  # (k, B h w)
        if self._held_count == 0:
            self._held = vectors.new_zeros(self.channels, self.channels)
        self._held += vectors @ vectors.T
        self._held_count += vectors.shape[1]

    def finish(self) -> None:
        """Set the factors, by Cholesky in blocks of positions, and free the sums."""
        if self._count == 0:
            return
        common = self._products.mean(0) / self._count
        common.diagonal().add_(1e-3 * common.diagonal().mean().clamp_min(1e-12))
        precision = torch.cholesky_inverse(torch.linalg.cholesky(common))
        scale = (self._products * precision).sum((1, 2)) / (self._count * self.channels)  # (h w,)
        gamma = self._trust(float(scale.mean()), precision)
        scale = ((self._count * scale + SCALE_PRIOR * scale.mean()) / (self._count + SCALE_PRIOR)) ** gamma
        factors = torch.empty_like(self._products)
        for start in range(0, self.positions, POSITIONS_AT_ONCE):
            block = slice(start, start + POSITIONS_AT_ONCE)
            shrunk = self._products[block] + self.prior * scale[block, None, None] * common
            # Rounded to what a checkpoint holds, so that a loaded detector says exactly what this one says.
            factors[block] = _inverse_factor(shrunk / (self._count + self.prior)).half().float()
        self.factors = factors
        self._products, self._count = torch.empty(0), 0
        self._held, self._held_count = torch.empty(0), 0

    def _trust(self, observed: float, precision: Tensor) -> float:
        """gamma, from the whitened mean square of observed and held-out residuals; 0 without held-out ones."""
        if self._held_count == 0:
            return 0.0
        held = float((self._held / self._held_count * precision).sum()) / self.channels
        return min(1.0, (observed / max(held, 1e-12)) ** 4)

    def forward(self, residuals: Tensor) -> Tensor:
        """Mahalanobis length of residuals (B, k, h, w) float, per channel: (B, h, w) float, about 1 on normals."""
        batch, _, height, width = residuals.shape
        vectors = residuals.flatten(2).permute(2, 1, 0)  # (h w, k, B)
        whitened = torch.bmm(self.factors, vectors)
        return whitened.square().mean(1).sqrt().T.reshape(batch, height, width)

    def _save_to_state_dict(self, destination: dict[str, Tensor], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}factors"] = self.factors.half()

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: object) -> None:
        stored = state_dict.get(f"{prefix}factors")
        if stored is not None:
            self.factors = torch.empty(stored.shape, device=self.factors.device)
        super()._load_from_state_dict(state_dict, prefix, *args)


def _inverse_factor(covariance: Tensor) -> Tensor:
    """W (P, k, k) lower triangular with W' W = covariance^-1; Cholesky, never a batched inverse."""
    factor = torch.linalg.cholesky(covariance)
    identity = torch.eye(factor.shape[-1], dtype=factor.dtype, device=factor.device)
    return torch.linalg.solve_triangular(factor, identity.expand_as(factor), upper=False)
