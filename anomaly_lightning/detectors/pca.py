"""Principal subspace of normal features; the error is what lies outside: the linear autoencoder in closed form."""

import torch
from torch import Tensor

from anomaly_lightning.detectors.base import Detector, Normals, Spec
from anomaly_lightning.errors import UserError


class PCA(Detector):
    """Squared norm of the residual outside the principal subspace of the channel vectors of all positions.

    The best linear autoencoder under MSE spans this subspace (Baldi & Hornik 1989), so no gradient step is needed. The
    score is the feature reconstruction error of DFM (Ahuja et al. 2019) and FRE (Ndiour et al. 2022), with one
    difference: they take the whole pooled feature map as one vector, so that a normal image is a mix of training
    images; here each position is a vector of its own, all positions share one mean and one subspace, and a part may
    lie anywhere in the image. It streams in 8 C^2 bytes, where whole maps need a matrix of all images.

    Args:
        variance: Share of the variance that the subspace keeps, in (0, 1); None where `components` is given.
        components: Dimension of the subspace, below the number of channels; None where `variance` is given.
    """

    mean: Tensor  # (C,)
    residual: Tensor  # (C, C): projection onto what the subspace leaves out

    def __init__(self, variance: float | None = 0.97, components: int | None = None) -> None:
        super().__init__()
        if (variance is None) == (components is None):
            raise UserError(
                f"Set one of model.variance and model.components and set the other to null; got {variance} and "
                f"{components}."
            )
        if (variance is not None and not 0 < variance < 1) or (components is not None and components < 1):
            raise UserError(
                f"model.variance must lie between 0 and 1, model.components be 1 or more; got {variance}, {components}."
            )
        self.variance, self.components = variance, components

    def build(self, spec: Spec) -> None:
        """Make the buffers for features of shape (C, h, w).

        Raises:
            UserError: No channel would be left outside the subspace.
        """
        channels = spec.features[0]
        if max(self.components or 1, 1) >= channels:
            raise UserError(
                f"The features have {channels} channels; model.components={self.components or 1} leaves nothing "
                "outside the subspace. Choose fewer components, or a backbone or layers with more channels."
            )
        self.register_buffer("mean", torch.full((channels,), torch.nan))
        self.register_buffer("residual", torch.full((channels, channels), torch.nan))

    def prepare(self, normals: Normals) -> None:
        """Set mean and residual projection from features (B, C, h, w) float, in one pass with float64 sums.

        At least one direction stays outside the subspace.
        """
        count = 0
        total = torch.zeros_like(self.mean, dtype=torch.float64)
        products = torch.zeros_like(self.residual, dtype=torch.float64)
        for features in normals:
            vectors = features.double().transpose(0, 1).flatten(1)  # (C, B h w)
            count += vectors.shape[1]
            total += vectors.sum(1)
            products.addmm_(vectors, vectors.T)
        mean = total / count
        variances, directions = torch.linalg.eigh(products / count - torch.outer(mean, mean))
        outside = directions[:, : len(mean) - self._dimension(variances.flip(0).clamp_min(0))]  # ascending order
        self.mean.copy_(mean)
        self.residual.copy_(outside @ outside.T)

    def error_map(self, inputs: Tensor) -> Tensor:
        """Squared norm of the residual: (B, h, w) float for features (B, C, h, w) float."""
        offsets = inputs.to(self.mean.dtype) - self.mean[:, None, None]
        return torch.einsum("ij,bjhw->bihw", self.residual, offsets).square().sum(1)

    def _dimension(self, variances: Tensor) -> int:
        """Dimension of the subspace for variances (C,) in descending order."""
        if self.variance is None:
            assert self.components is not None
            return self.components
        kept = variances.cumsum(0)
        return min(int((kept < self.variance * kept[-1]).sum()) + 1, len(variances) - 1)
