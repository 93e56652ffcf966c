"""From an error map to an anomaly map to one score an image; everything in raw error units."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anomaly_lightning.errors import DataError, UserError
from anomaly_lightning.runtime.card import ModelCard
from anomaly_lightning.runtime.region import Region
from anomaly_lightning.runtime.transform import ImageTransform

REDUCTIONS = ("max", "top", "mean")
SAMPLED = 16  # one value in so many shows where about the largest of a map begin


class Scoring(nn.Module):
    """How errors become a map and a score, of the whole image or of a region of it.

    Outside the region the map is 0, and no value of it is part of any score or threshold. A cell of the error map that
    lies wholly outside is dropped, one at the region's border counts.

    Args:
        sigma: Standard deviation of the Gaussian smoothing, in pixels of the network's input; 0 = none.
        reduction: "max", "top" (mean of the top share) or "mean" of the anomaly map.
        share: Share of the pixels that "top" averages, in (0, 1].
        grid: (h, w) of error maps.
        size: (H, W) of the network's input.
        region: (H, W) bool, where to look; None = everywhere.

    Raises:
        UserError: A value without a meaning.
        DataError: The region is empty.
    """

    down: Tensor  # (H, h) float: what each row of cells adds to each row of pixels
    across: Tensor  # (w, W) float, the same for columns
    cells: Tensor | None  # (h, w) float, 1 where a cell has a pixel of the region
    region: Tensor | None  # (H, W) bool
    places: Tensor | None  # (n,) int64, the region's pixels in a flat map

    def __init__(
        self,
        sigma: float = 4.0,
        reduction: str = "max",
        share: float = 0.01,
        *,
        grid: tuple[int, int],
        size: tuple[int, int],
        region: Tensor | None = None,
    ) -> None:
        super().__init__()
        if reduction not in REDUCTIONS:
            raise UserError(f"scoring.reduction={reduction}: expected one of {', '.join(REDUCTIONS)}.")
        if sigma < 0:
            raise UserError(f"scoring.sigma={sigma}: expected 0 (no smoothing) or more pixels.")
        if not 0 < share <= 1:
            raise UserError(f"scoring.share={share}: expected a share in (0, 1].")
        if region is not None and not region.any():
            raise DataError(f"data.roi: nothing of it is left in {size[1]}x{size[0]} pixels.")
        self.sigma, self.reduction, self.share, self.size = sigma, reduction, share, size
        cells = None if region is None else (F.adaptive_max_pool2d(region[None].float(), grid)[0] > 0).float()
        places = None if region is None else region.flatten().nonzero()[:, 0]
        values = {"down": _spread(grid[0], size[0], sigma), "across": _spread(grid[1], size[1], sigma).T.contiguous()}
        for name, value in {**values, "cells": cells, "region": region, "places": places}.items():
            self.register_buffer(name, value, persistent=False)

    def forward(self, error_map: Tensor) -> tuple[Tensor, Tensor]:
        """Anomaly maps (B, H, W) and scores (B,), float in the unit of the error map (B, h, w) float."""
        maps = self.maps(error_map)
        return maps, self.scores(maps)

    def maps(self, error_map: Tensor) -> Tensor:
        """Anomaly maps (B, H, W) float of error maps (B, h, w) float: resampled bilinearly, then smoothed.

        Both steps are linear and separable, so that together they are one small matrix along each axis: the same as
        `F.interpolate` and `gaussian_blur` one after the other, to rounding, at a tenth of the time.
        """
        with torch.autocast(error_map.device.type, enabled=False):
            if self.cells is not None:
                error_map = error_map * self.cells
            maps: Tensor = self.down @ error_map.to(self.down.dtype) @ self.across
            return maps if self.region is None else maps * self.region

    def scores(self, maps: Tensor) -> Tensor:
        """Scores (B,) float of anomaly maps (B, H, W) float."""
        return image_score(self.pixels(maps), self.reduction, self.share)

    def pixels(self, maps: Tensor) -> Tensor:
        """The values of maps (B, H, W) float that count: (B, n) float."""
        flat = maps.flatten(1)
        return flat if self.places is None else flat.index_select(1, self.places)


def build_scoring(card: ModelCard, grid: tuple[int, int]) -> Scoring:
    """The scoring that a card describes, for error maps on a grid (h, w): the one way from card to scoring."""
    transform = ImageTransform.from_card(card.transform)
    region = None
    if card.region is not None:
        known = Region.from_card(card.region)
        region = torch.from_numpy(transform.mask(known.mask(known.size)))
    scoring = card.scoring
    return Scoring(scoring.sigma, scoring.reduction, scoring.share, grid=grid, size=transform.size, region=region)


def _spread(cells: int, pixels: int, sigma: float) -> Tensor:
    """What each of the cells along an axis adds to each of its pixels, (pixels, cells) float32."""
    each = torch.eye(cells, dtype=torch.float64)[:, None, :, None]  # (cells, 1, cells, 1): one map a cell
    resized = F.interpolate(each, size=(pixels, 1), mode="bilinear", align_corners=False)
    return gaussian_blur(resized, sigma)[:, 0, :, 0].T.contiguous().float()


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
    maps = F.conv2d(F.pad(maps, (0, 0, radius, radius), mode="replicate"), kernel.view(1, 1, -1, 1))
    return F.conv2d(F.pad(maps, (radius, radius, 0, 0), mode="replicate"), kernel.view(1, 1, 1, -1))


def image_score(values: Tensor, reduction: str, share: float = 0.01) -> Tensor:
    """One score an image, (B,) float, from the values (B, n) float of its anomaly map.

    Args:
        values: (B, n) float, raw errors.
        reduction: "max", "top" (mean of the top share, at least one value) or "mean".
        share: Share of the values that "top" averages.
    """
    if reduction == "max":
        return values.amax(1)
    if reduction == "mean":
        return values.mean(1)
    count = max(1, round(share * values.shape[1]))
    traced = torch.compiler.is_exporting() or torch.compiler.is_compiling()
    if values.device.type != "cpu" or traced:
        return values.topk(count, dim=1, sorted=False).values.mean(1)
    return torch.stack([_largest(row, count).mean() for row in values])


def _largest(values: Tensor, count: int) -> Tensor:
    """The `count` largest of (n,) float on a CPU, in any order; the same as topk, in a third of its time.

    A sample gives a bound that few values reach; topk looks at those alone. Where the sample misled, at all of them.
    """
    sample, guess = values[::SAMPLED], 2 * count // SAMPLED + 1  # twice as many as needed, so that it rarely misleads
    if guess * SAMPLED <= len(sample):
        few = values[~(values < sample.topk(guess).values[-1])]  # NaN stays among them, as topk has it
        if len(few) >= count:
            values = few
    return values.topk(count, sorted=False).values
