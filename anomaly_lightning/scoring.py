"""From an error map to an anomaly map to one score an image; pure functions, everything in raw error units."""

from dataclasses import dataclass, field
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from anomaly_lightning.errors import DataError, UserError
from anomaly_lightning.runtime.region import Region
from anomaly_lightning.runtime.transform import ImageTransform

REDUCTIONS = ("max", "top", "mean")
SAMPLED = 16  # one value in so many tells where about the largest of a map begin


@dataclass(frozen=True)
class Scoring:
    """How errors become a map and a score.

    Attributes:
        sigma: Standard deviation of the Gaussian smoothing, in pixels of the image as the backbone sees it; 0 = none.
        reduction: "max", "top" (mean of the top share) or "mean" of the anomaly map.
        share: Share of the pixels that "top" averages, in (0, 1].
    """

    sigma: float = 4.0
    reduction: str = "max"
    share: float = 0.01

    def __post_init__(self) -> None:
        """Refuse what makes no sense, by the name it has on the command line."""
        if self.reduction not in REDUCTIONS:
            raise UserError(f"scoring.reduction={self.reduction}: expected one of {', '.join(REDUCTIONS)}.")
        if self.sigma < 0:
            raise UserError(f"scoring.sigma={self.sigma}: expected 0 (no smoothing) or more pixels.")
        if not 0 < self.share <= 1:
            raise UserError(f"scoring.share={self.share}: expected a share in (0, 1].")

    def __call__(self, error_map: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Maps and scores of a batch.

        Args:
            error_map: (B, h, w) float, raw errors.
            size: (H, W) of the image as the backbone sees it.

        Returns:
            anomaly_map (B, H, W) and score (B,), both float in the unit of the error map.
        """
        maps = self.maps(error_map, size)
        return maps, self.scores(maps)

    def maps(self, error_map: Tensor, size: tuple[int, int]) -> Tensor:
        """Anomaly maps (B, H, W) float of error maps (B, h, w) float, with (H, W) = `size`."""
        return anomaly_map(error_map, size, self.sigma)

    def scores(self, maps: Tensor) -> Tensor:
        """Scores (B,) float of anomaly maps (B, H, W) float."""
        return image_score(maps, self.reduction, self.share)

    def pixels(self, maps: Tensor) -> Tensor:
        """The values of maps (B, H, W) float that count, (B, n) float: all of them here."""
        return maps.flatten(1)

    def own(self, anomaly_map: Tensor) -> Tensor:
        """A map in an image's own pixels, (H, W) float, as it is to be shown and counted: as it is here."""
        return anomaly_map

    def inside(self, size: tuple[int, int]) -> Tensor | None:
        """Which of an image's own pixels count, (H, W) bool for (H, W) = `size`; None = all of them."""
        return None


def anomaly_map(error_map: Tensor, size: tuple[int, int], sigma: float) -> Tensor:
    """Resample an error map (B, h, w) float to (B, H, W) bilinearly and smooth it.

    Both steps are linear and separable, so that together they are one small matrix along each axis: the same as
    `F.interpolate` and `gaussian_blur` one after the other, to rounding, at a tenth of the time.

    Args:
        error_map: (B, h, w) float, raw errors.
        size: (H, W) of the result, in pixels.
        sigma: Standard deviation of the smoothing, in pixels of the result; 0 = none.
    """
    height, width = error_map.shape[-2:]
    like = (sigma, error_map.dtype, error_map.device)
    with torch.autocast(error_map.device.type, enabled=False):  # scores stay comparable whatever trained the weights
        return _spread(height, size[0], *like) @ error_map @ _spread(width, size[1], *like).T


@lru_cache(maxsize=64)
def _spread(cells: int, pixels: int, sigma: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """What each of the cells along an axis adds to each of its pixels, (pixels, cells)."""
    with torch.inference_mode(False), torch.no_grad():
        each = torch.eye(cells, dtype=torch.float64)[:, None, :, None]  # (cells, 1, cells, 1): one map a cell
        resized = F.interpolate(each, size=(pixels, 1), mode="bilinear", align_corners=False)
        return gaussian_blur(resized, sigma)[:, 0, :, 0].T.contiguous().to(device, dtype)


def gaussian_blur(maps: Tensor, sigma: float) -> Tensor:
    """Smooth maps (B, 1, H, W) float with a separable Gaussian, cut at 4 sigma, edges replicated.

    Args:
        maps: (B, 1, H, W) float.
        sigma: Standard deviation, in pixels; 0 leaves the maps as they are.
    """
    if sigma == 0:
        return maps
    radius = max(1, round(4 * sigma))
    offsets = torch.arange(-radius, radius + 1, dtype=maps.dtype, device=maps.device)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = kernel / kernel.sum()
    maps = F.conv2d(_pad_edges(maps, 0, radius), kernel.view(1, 1, -1, 1))
    return F.conv2d(_pad_edges(maps, radius, 0), kernel.view(1, 1, 1, -1))


def _pad_edges(maps: Tensor, across: int, down: int) -> Tensor:
    """Replicate the edges of (B, 1, H, W) by any width, images narrower than the kernel included."""
    return F.pad(maps, (across, across, down, down), mode="replicate")


def image_score(maps: Tensor, reduction: str, share: float = 0.01) -> Tensor:
    """One score an image, (B,) float, from anomaly maps (B, H, W) float.

    Args:
        maps: (B, H, W) float, raw errors.
        reduction: "max", "top" (mean of the top share, at least one pixel) or "mean".
        share: Share of the pixels that "top" averages.
    """
    flat = maps.flatten(1)  # (B, H * W)
    if reduction == "max":
        return flat.amax(1)
    if reduction == "mean":
        return flat.mean(1)
    count = max(1, round(share * flat.shape[1]))
    if flat.device.type != "cpu":
        return flat.topk(count, dim=1, sorted=False).values.mean(1)
    return torch.stack([_largest(values, count).mean() for values in flat])


def _largest(values: Tensor, count: int) -> Tensor:
    """The `count` largest of (n,) float on a CPU, in any order; the same as topk, in a third of its time.

    A sample tells a bound that few values reach; topk looks at those alone. Where the sample misled, at all of them.
    """
    sample, guess = values[::SAMPLED], 2 * count // SAMPLED + 1  # twice as many as needed, so that it rarely misleads
    if guess * SAMPLED <= len(sample):
        few = values[~(values < sample.topk(guess).values[-1])]  # NaN stays among them, as topk has it
        if len(few) >= count:
            values = few
    return values.topk(count, sorted=False).values


@dataclass(frozen=True)
class RegionScoring(Scoring):
    """Scoring that looks at one region.

    Attributes:
        roi: The region, as a part of the image.
        region: (H, W) bool, the region in pixels of the images as the backbone sees them.
    """

    roi: Region | None = None
    region: Tensor = field(default_factory=lambda: torch.ones(1, 1, dtype=torch.bool))

    @classmethod
    def of(cls, scoring: Scoring, roi: Region, transform: ImageTransform) -> "RegionScoring":
        """Scoring with the same settings, on this region of the images that go through the transform."""
        region = torch.from_numpy(transform.mask(roi.mask(roi.size)))
        if not region.any():
            raise DataError(f"data.roi: nothing of it is left in {region.shape[1]}x{region.shape[0]} pixels.")
        return cls(scoring.sigma, scoring.reduction, scoring.share, roi, region)

    def maps(self, error_map: Tensor, size: tuple[int, int]) -> Tensor:
        """Anomaly maps (B, H, W) with 0 outside the region; see `Scoring.maps`."""
        region = self.region.to(error_map.device)
        cells = F.adaptive_max_pool2d(region[None].float(), error_map.shape[-2:]) > 0
        return anomaly_map(error_map * cells, size, self.sigma) * region

    def scores(self, maps: Tensor) -> Tensor:
        """Scores (B,) of the region's part of maps (B, H, W)."""
        return image_score(self.pixels(maps)[:, None], self.reduction, self.share)

    def pixels(self, maps: Tensor) -> Tensor:
        """Values (B, n) of the region's pixels of maps (B, H, W)."""
        return maps[:, self.region.to(maps.device)]

    def own(self, anomaly_map: Tensor) -> Tensor:
        """A map in the image's own pixels, (H, W), with 0 outside the region."""
        inside = self.inside((anomaly_map.shape[0], anomaly_map.shape[1]))
        return anomaly_map if inside is None else anomaly_map * inside.to(anomaly_map.device)

    def inside(self, size: tuple[int, int]) -> Tensor | None:
        """The region in an image's own pixels, (H, W) bool."""
        return None if self.roi is None else torch.from_numpy(self.roi.mask(size).copy())
