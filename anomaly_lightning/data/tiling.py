"""Large images in pieces: how tiles become training images."""

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from PIL import Image

from anomaly_lightning.data.samples import GOOD, Sample
from anomaly_lightning.data.splits import ROLES, Splits
from anomaly_lightning.runtime.files import content_hash, mark_cache
from anomaly_lightning.runtime.reading import ImageError, read_image, read_mask
from anomaly_lightning.runtime.tiles import Tiling, crop


def tiled_splits(
    splits: Splits,
    tiling: Tiling,
    cache: Path,
    white: int | None = None,
    hashed: Callable[[Path], str] = content_hash,
) -> tuple[Splits, dict[Path, str], list[Path]]:
    """The same sets with the tiles of each image in its place, so that no image has tiles in two sets.

    Tiles are kept as PNG files below `cache`, by the content of image and mask, and made once. A tile of a defective
    image without a defect pixel is good; of a defective image without a mask no tile is known to be either, so
    it is left out.

    Args:
        splits: Sets of whole images.
        tiling: How they are cut.
        cache: The cache folder.
        white: Grey level that counts as white in images of 16 bits; None = 65535.
        hashed: Gives the content hash of a file.

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
                found += _tiles_of(sample, tiling, cache, white, hashed)
            except ImageError as error:
                unreadable[sample.path] = error.reason
        return tuple(found)

    cut: dict[str, Any] = {role: tiles(getattr(splits, role)) for role in ROLES}
    return replace(splits, **cut), unreadable, unknown


def _tiles_of(
    sample: Sample, tiling: Tiling, cache: Path, white: int | None, hashed: Callable[[Path], str]
) -> list[Sample]:
    """Tiles of one image; cut where the cache has none."""
    mask = None if sample.mask is None else read_mask(sample.mask)
    marked = b"" if mask is None else np.packbits(mask).tobytes()
    # With the path: two images of the same content stay two samples.
    key = [str(sample.path.absolute()), hashed(sample.path), hashlib.sha256(marked).hexdigest()]
    key += [str(tiling), sample.defect, str(white)]
    folder = cache / "tiles" / hashlib.sha256(json.dumps(key).encode()).hexdigest()[:24]
    if not folder.is_dir():
        _cut(sample, mask, tiling, folder, white)
    found = []
    for path in sorted(folder.glob("tile_*.png")):
        truth = folder / path.name.replace("tile_", "mask_")
        bad = truth.is_file()
        found.append(Sample(path, sample.defect if bad else GOOD, truth if bad else None))
    return found


def _cut(sample: Sample, mask: "np.ndarray | None", tiling: Tiling, folder: Path, white: int | None) -> None:
    """Write the tiles of one image, and the masks of those that show a defect, whole or not at all."""
    image = read_image(sample.path, white=white)
    if mask is not None and mask.shape != (image.height, image.width):
        raise ImageError(sample.path, f"its mask is {mask.shape[1]}x{mask.shape[0]}, another size than the image")
    mark_cache(folder.parent)
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
