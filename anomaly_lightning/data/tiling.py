"""Large images in pieces: where the tiles lie, how they become training images, how their maps become one again."""

import hashlib
import json
import shutil
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import uuid4

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from anomaly_lightning.data.samples import GOOD, Sample
from anomaly_lightning.data.splits import Splits
from anomaly_lightning.errors import DataError
from anomaly_lightning.runtime.reading import ImageError, content_hash, read_image, read_mask

Box = tuple[int, int, int, int]  # top, left, height, width in pixels


@dataclass(frozen=True)
class Tiling:
    """How images are cut.

    Attributes:
        size: (height, width) of a tile in pixels of the image; smaller images are one tile.
        overlap: Pixels that neighbours share, at least.
    """

    size: tuple[int, int]
    overlap: int

    def __post_init__(self) -> None:
        """Refuse what makes no sense, by the names it has on the command line."""
        if min(self.size) < 8:
            raise DataError(f"data.tile={list(self.size)}: expected one number or [height, width], at least 8 pixels.")
        if not 0 <= self.overlap <= min(self.size) // 2:
            raise DataError(f"data.tile_overlap={self.overlap}: expected 0 to half a tile ({min(self.size) // 2}).")

    @classmethod
    def from_config(cls, tile: int | Sequence[int], overlap: int) -> "Tiling":
        """Tiling as `data.tile` (one number or [height, width]) and `data.tile_overlap` state it."""
        pair = [tile, tile] if isinstance(tile, int) else list(tile)
        if len(pair) != 2:
            raise DataError(f"data.tile={tile}: expected one number or [height, width].")
        return cls((int(pair[0]), int(pair[1])), int(overlap))

    def boxes(self, size: tuple[int, int]) -> list[Box]:
        """Tiles that cover an image of (H, W), row by row, evenly spread; all of one size."""
        height, width = min(self.size[0], size[0]), min(self.size[1], size[1])
        rows, columns = _starts(size[0], height, self.overlap), _starts(size[1], width, self.overlap)
        return [(top, left, height, width) for top in rows for left in columns]

    def blend(self, maps: Iterable[tuple[Box, Tensor]], size: tuple[int, int]) -> Tensor:
        """One map (H, W) float32 of the maps of all tiles, each (height, width) of its box.

        Where tiles overlap their weights fall linearly towards their edges, so that no edge shows. Two maps of the
        image's size are held, and one tile's at a time.
        """
        total, weights = torch.zeros(size), torch.zeros(size)
        for (top, left, height, width), values in maps:
            weight = _ramp(height, self.overlap)[:, None] * _ramp(width, self.overlap)
            total[top : top + height, left : left + width] += values * weight
            weights[top : top + height, left : left + width] += weight
        return total.div_(weights)


def _starts(length: int, tile: int, overlap: int) -> list[int]:
    """Where tiles begin along one axis: the first at 0, the last ends with the image."""
    if tile >= length:
        return [0]
    count = -(-(length - overlap) // (tile - overlap))
    return [round(index * (length - tile) / (count - 1)) for index in range(count)]


def _ramp(length: int, overlap: int) -> Tensor:
    """Weights (length,) float32 along one axis: 1 in the middle, falling over the overlap to either edge."""
    place = torch.arange(length) + 0.5
    return (torch.minimum(place, length - place) / max(overlap, 1)).clamp(max=1.0)


def crop(image: Image.Image, box: Box) -> Image.Image:
    """One tile of an image."""
    top, left, height, width = box
    return image.crop((left, top, left + width, top + height))


def tiled_splits(splits: Splits, tiling: Tiling, cache: Path) -> tuple[Splits, dict[Path, str], list[Path]]:
    """The same sets with the tiles of each image in its place, so that no image has tiles in two sets.

    Tiles are kept as PNG files below `cache`, by the content of image and mask, and made once. A tile of a defective
    image without a defect pixel is good; of a defective image without a mask no tile is known to be either, so
    it is left out.

    Args:
        splits: Sets of whole images.
        tiling: How they are cut.
        cache: The cache folder.

    Returns:
        The sets of tiles; images that can't be read, with the reason; defects without a mask.
    """
    unreadable: dict[Path, str] = {}
    unknown: list[Path] = []

    def tiles(samples: Sequence[Sample]) -> tuple[Sample, ...]:
        found: list[Sample] = []
        for sample in samples:
            if sample.label and sample.mask is None:
                unknown.append(sample.path)
                continue
            try:
                found += _tiles_of(sample, tiling, cache)
            except ImageError as error:
                unreadable[sample.path] = error.reason
        return tuple(found)

    train, validation, test = (tiles(samples) for samples in (splits.train, splits.validation, splits.test))
    return replace(splits, train=train, validation=validation, test=test), unreadable, unknown


def _tiles_of(sample: Sample, tiling: Tiling, cache: Path) -> list[Sample]:
    """Tiles of one image; cut where the cache has none."""
    mask = None if sample.mask is None else read_mask(sample.mask)
    marked = b"" if mask is None else np.packbits(mask).tobytes()
    # With the path: two images of the same content stay two samples.
    key = [str(sample.path.absolute()), content_hash(sample.path), hashlib.sha256(marked).hexdigest()]
    key += [str(tiling), sample.defect]
    folder = cache / "tiles" / hashlib.sha256(json.dumps(key).encode()).hexdigest()[:24]
    if not folder.is_dir():
        _cut(sample, mask, tiling, folder)
    found = []
    for path in sorted(folder.glob("tile_*.png")):
        truth = folder / path.name.replace("tile_", "mask_")
        bad = truth.is_file()
        found.append(Sample(path, sample.defect if bad else GOOD, truth if bad else None))
    return found


def _cut(sample: Sample, mask: "np.ndarray | None", tiling: Tiling, folder: Path) -> None:
    """Write the tiles of one image, and the masks of those that show a defect, whole or not at all."""
    image = read_image(sample.path)
    if mask is not None and mask.shape != (image.height, image.width):
        raise ImageError(sample.path, f"its mask is {mask.shape[1]}x{mask.shape[0]}, another size than the image")
    making = folder.with_name(f".making-{uuid4().hex}")
    making.mkdir(parents=True)
    try:
        for top, left, height, width in tiling.boxes((image.height, image.width)):
            name = f"{sample.path.stem[:60]}_{top:05d}_{left:05d}.png"
            crop(image, (top, left, height, width)).save(making / f"tile_{name}", compress_level=1)
            part = None if mask is None else mask[top : top + height, left : left + width]
            if part is not None and part.any() and sample.label:
                Image.fromarray(part).save(making / f"mask_{name}")
        with suppress(OSError):  # another process was faster
            making.rename(folder)
    finally:
        shutil.rmtree(making, ignore_errors=True)
