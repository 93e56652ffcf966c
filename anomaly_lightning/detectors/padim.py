"""PaDiM: one Gaussian of normal features per position, and the Mahalanobis distance to it (Defard et al. 2021)."""

import torch
from torch import Tensor

from anomaly_lightning.detectors.base import Detector, Normals, Spec
from anomaly_lightning.detectors.parts.scales import Scales
from anomaly_lightning.errors import UserError

POSITIONS_AT_ONCE = 64  # bounds what the factorisation holds beside the statistics


class PaDiM(Detector):
    """Gaussian N(mean_p, covariance_p) of the features at each position p; error = Mahalanobis distance (equation 2).

    For the camera that always sees the part in the same place. The covariance is
    (1 - shrinkage) * S_p + shrinkage * S + epsilon * I, with S_p the sample covariance (n - 1) over the training
    images (equation 1) and S its mean over all positions. The paper has epsilon 0.01 and shrinkage 0; with fewer
    images than channels S_p is singular, and a little of S ranks far better.

    Statistics stream in float64, whatever the number of images: for a grid h x w and c = min(reduced, C) channels a
    buffer of 4 h w c^2 bytes, and 8 h w c^2 more while fitting (32 x 32 and 100 channels: 41 MB and 82 MB).

    Args:
        reduced: Keep at most this many channels, drawn at random (section III-C); None keeps all.
        shrinkage: Share of the covariance common to all positions, in [0, 1]; steadier where images are few.
        epsilon: Variance added to every channel, > 0: makes the covariance invertible with few images.
        seed: Of the random choice of channels.
        finest: Only the finest layer counts, on its own grid, where the features hold several packed ones.
    """

    channels: Tensor  # (c,) int64, the channels kept
    mean: Tensor  # (h w, c)
    whitening: Tensor  # (h w, c, c): inverse Cholesky factors, so that distance = |whitening (x - mean)|

    def __init__(
        self,
        reduced: int | None = 100,
        shrinkage: float = 0.1,
        epsilon: float = 0.01,
        seed: int = 0,
        finest: bool = False,
    ) -> None:
        super().__init__()
        if (reduced is not None and reduced < 1) or not 0 <= shrinkage <= 1 or not epsilon > 0:
            raise UserError(
                "model.reduced must be null or 1 or more, model.shrinkage between 0 and 1, model.epsilon above 0; got "
                f"{reduced}, {shrinkage}, {epsilon}."
            )
        self.reduced, self.shrinkage, self.epsilon, self.seed = reduced, shrinkage, epsilon, seed
        self.finest = finest

    def build(self, spec: Spec) -> None:
        """Draw the channels and make the buffers for features of shape (C, h, w)."""
        self._scales = Scales(spec)
        self._place = max(range(len(self._scales.ratios)), key=lambda place: self._scales.ratios[place])
        height, width = self.grid(spec)
        channels = self._scales.channels[self._place] if self.finest else spec.features[0]
        positions = height * width
        kept = channels if self.reduced is None else min(self.reduced, channels)
        order = torch.randperm(channels, generator=torch.Generator().manual_seed(self.seed))
        self.register_buffer("channels", order[:kept].sort().values)
        self.register_buffer("mean", torch.full((positions, kept), torch.nan))
        self.register_buffer("whitening", torch.full((positions, kept, kept), torch.nan))

    def grid(self, spec: Spec) -> tuple[int, int]:
        """(h, w) of the features, or of their finest layer."""
        ratio = max(Scales(spec).ratios) if self.finest else 1
        return ratio * spec.features[1], ratio * spec.features[2]

    def prepare(self, normals: Normals) -> None:
        """Set means and inverse Cholesky factors from features (B, C, h, w) float, in one pass with float64 sums.

        Raises:
            UserError: One image only: it has no covariance.
        """
        count, total, products = self._sums(normals)
        if count < 2:
            raise UserError(f"model=padim needs at least 2 training images for a covariance; got {count}. Add images.")
        mean = total / count
        self.mean.copy_(mean)
        common = (products.mean(0) - count * (mean.T @ mean) / len(mean)) / (count - 1)
        for start in range(0, len(mean), POSITIONS_AT_ONCE):
            block = slice(start, start + POSITIONS_AT_ONCE)
            centre = mean[block]
            covariance = (products[block] - count * centre[:, :, None] * centre[:, None, :]) / (count - 1)
            covariance.lerp_(common.expand_as(covariance), self.shrinkage)
            covariance.diagonal(dim1=1, dim2=2).add_(self.epsilon)
            self.whitening[block] = _inverse_factor(covariance).to(self.whitening.dtype)

    def _sums(self, normals: Normals) -> tuple[int, Tensor, Tensor]:
        """Number of images, and sums (h w, c) and outer products (h w, c, c) of each position, float64."""
        count = 0
        total = torch.zeros_like(self.mean, dtype=torch.float64)
        products = torch.zeros_like(self.whitening, dtype=torch.float64)
        for features in normals:
            vectors = self._vectors(features).double()  # (h w, B, c)
            count += vectors.shape[1]
            total += vectors.sum(1)
            products.baddbmm_(vectors.transpose(1, 2), vectors)
        return count, total, products

    def error_map(self, inputs: Tensor) -> Tensor:
        """Mahalanobis distance of each position: (B, h, w) float for features (B, C, h, w) float."""
        offsets = self._vectors(inputs).to(self.mean.dtype) - self.mean[:, None]  # (h w, B, c)
        whitened = offsets @ self.whitening.transpose(1, 2)
        ratio = self._scales.ratios[self._place] if self.finest else 1
        size = (ratio * inputs.shape[-2], ratio * inputs.shape[-1])
        return torch.linalg.vector_norm(whitened, dim=2).T.unflatten(1, size)

    def _vectors(self, features: Tensor) -> Tensor:
        """Kept channels of features (B, C, h, w) by position: (h w, B, c)."""
        if self.finest:
            features = self._scales.unfolded(features)[self._place]
        return features.index_select(1, self.channels).flatten(2).permute(2, 0, 1)


def _inverse_factor(covariance: Tensor) -> Tensor:
    """W (P, c, c) lower triangular with W' W = covariance^-1, by Cholesky factors; never a batched inverse."""
    identity = torch.eye(covariance.shape[-1], dtype=covariance.dtype, device=covariance.device)
    factor = torch.linalg.cholesky(covariance)
    return torch.linalg.solve_triangular(factor, identity.expand_as(factor), upper=False)
