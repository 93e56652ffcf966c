"""Files as images: whatever a camera or a program wrote becomes RGB uint8 or a bool mask, or one `ImageError`.

How each form becomes RGB is a function of the file's form, never of the values in it, so that two images of one
camera stay comparable:

- Grey, 1-bit, palette, CMYK, YCbCr: Pillow's conversion.
- Alpha, of whatever kind: composited on black. What lies under transparent pixels is an editor's leftover that nobody
  has seen.
- 16-bit grey: value // 257, so that 65535 is white; 12-bit TIFF: 4095 is white. A camera of 12 bits that writes
  0..4095 into a 16-bit file thus comes out dark, always by the same factor.
- 16-bit colour: the upper byte, by Pillow.
- 32-bit integers: read like 16-bit grey; floats: 0 is black, 1 is white. Values outside are refused, not clipped.
- EXIF orientation is applied; of several frames or pages the first is read.
"""

import hashlib
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from anomaly_lightning.data.samples import images_in
from anomaly_lightning.runtime.damage import ImageError, claimed_pixels, what_is_broken, what_it_is

# Decoders of what cameras write. Others, some of which start external programs, are never tried.
FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "GIF", "JPEG2000", "PPM")
MAX_PIXELS = 200_000_000
_BITS_PER_SAMPLE = 258  # TIFF 6.0, section 8


def read_image(path: Path, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Read an image of any form as the module's docstring says.

    Args:
        path: The file; its content decides what it is, not its name.
        max_pixels: Limit on width x height, held against the header before anything is decoded.

    Returns:
        (H, W) image in mode RGB, upright.

    Raises:
        ImageError: The file is missing, empty, no image, damaged, truncated or too large.
    """
    return _guarded(path, max_pixels, _to_rgb)


def read_mask_values(path: Path, max_pixels: int = MAX_PIXELS) -> NDArray[Any]:
    """Read the values of one mask file as they are: (H, W), the largest of the colour channels, dtype of the file.

    Raises:
        ImageError: The file can't be read.
    """
    values: NDArray[Any] = _guarded(path, max_pixels, _mask_values)
    return values


def read_mask(path: Path, max_pixels: int = MAX_PIXELS) -> NDArray[np.bool_]:
    """Read a defect mask of any form: non-zero in any colour channel is defect, alpha is ignored.

    Args:
        path: The mask's file, or a folder of masks of one image, of which the union is taken.
        max_pixels: Limit on width x height.

    Returns:
        (H, W) bool, True = defect.

    Raises:
        ImageError: A file can't be read, the folder holds none, or they differ in size.
    """
    if not path.is_dir():
        return np.asarray(read_mask_values(path, max_pixels) != 0)
    masks = [read_mask(file, max_pixels) for file in images_in(path)]
    sizes = {(mask.shape[1], mask.shape[0]) for mask in masks}
    if len(sizes) != 1:
        what = " and ".join(f"{width}x{height}" for width, height in sorted(sizes))
        raise ImageError(path, f"holds masks of different sizes: {what}" if masks else "is a folder without masks")
    return np.logical_or.reduce(masks)


def image_size(path: Path, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """(H, W) of an upright image in pixels, from its header; raises `ImageError` where that can't be read."""
    size: tuple[int, int] = _guarded(path, max_pixels, lambda image: (image.height, image.width))
    return size


def check_images(paths: Iterable[Path], workers: int | None = None) -> dict[Path, str]:
    """Decode every file and say which can't be read, all at once.

    Args:
        paths: The files.
        workers: Threads; None = one a core, at most 8. Decoders release Python's lock, so threads do.

    Returns:
        The unreadable files with the reason, in the order of `paths`.
    """
    listed = list(dict.fromkeys(paths))
    with ThreadPoolExecutor(workers or min(8, os.cpu_count() or 1)) as pool:
        reasons = pool.map(_why_unreadable, listed)
        return {path: reason for path, reason in zip(listed, reasons, strict=True) if reason is not None}


def content_hash(path: Path) -> str:
    """Hex sha256 of the file's bytes.

    Raises:
        ImageError: The file can't be opened.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ImageError(path, error.strerror or str(error)) from error


def _why_unreadable(path: Path) -> str | None:
    try:
        read_image(path)
    except ImageError as error:
        return error.reason
    return None


def _guarded(path: Path, max_pixels: int, convert: Any) -> Any:
    """Open, limit, decode and convert one file; whatever goes wrong becomes a `ImageError`."""
    head = _head(path)
    # Pillow's own guard is one number for the whole process: only ever raised to the limit in force here.
    if Image.MAX_IMAGE_PIXELS is not None:
        Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, max_pixels)
    try:
        with Image.open(path, formats=FORMATS) as image:
            _limit(image, path, max_pixels)
            ImageOps.exif_transpose(image, in_place=True)
            return convert(image)
    except ImageError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(path, _too_large(claimed_pixels(error), max_pixels)) from error
    except UnidentifiedImageError as error:
        raise ImageError(path, what_it_is(head)) from error
    # Decoders raise nearly anything on damaged files, from struct.error to KeyError.
    except Exception as error:
        raise ImageError(path, what_is_broken(error)) from error


def _head(path: Path) -> bytes:
    """First bytes of a regular file. A pipe or device would hang the decoder, so it is refused by its kind."""
    try:
        if not path.exists():
            raise ImageError(path, "there is no such file")
        if not path.is_file():
            raise ImageError(path, "is a folder, not an image" if path.is_dir() else "is not a regular file")
        with path.open("rb") as file:
            head = file.read(64)
    except (OSError, ValueError) as error:
        raise ImageError(path, f"can't be opened: {error}") from error
    if not head:
        raise ImageError(path, "0 bytes")
    return head


def _limit(image: ImageFile.ImageFile, path: Path, max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise ImageError(path, _too_large(f"{width}x{height}", max_pixels))


def _too_large(claimed: str, max_pixels: int) -> str:
    return f"header claims {claimed} pixels, more than the limit of {max_pixels}"


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        return Image.fromarray(_eight_bits(image)).convert("RGB")
    if image.has_transparency_data:
        layer = image if image.mode == "RGBA" else image.convert("RGBA")
        image = Image.new("RGB", layer.size)
        image.paste(layer, mask=layer)
    return image.convert("RGB")


def _eight_bits(image: Image.Image) -> NDArray[np.uint8]:
    """(H, W) uint8 of a grey image with more than 8 bits, scaled by what its form can hold."""
    values = np.asarray(image)
    is_float = image.mode == "F"
    bits = getattr(image, "tag_v2", {}).get(_BITS_PER_SAMPLE)
    white = 1.0 if is_float else 4095 if bits == (12,) else 65535
    # Written so that a NaN is refused, too.
    if not (values.min() >= 0 and values.max() <= white):
        kind = "float" if is_float else "32-bit integer"
        raise ValueError(
            f"{kind} values from {values.min()} to {values.max()}; expected 0 to {white:g}, convert it first"
        )
    scaled: NDArray[Any] = np.rint(values * 255) if is_float else values // (white // 255)
    return scaled.astype(np.uint8)


def _mask_values(image: Image.Image) -> NDArray[Any]:
    if image.mode in ("LA", "La"):
        image = image.convert("L")
    elif image.mode not in ("1", "L") and not image.mode.startswith(("I", "F")):
        image = image.convert("RGB")
    values = np.asarray(image)
    return values.max(axis=2) if values.ndim == 3 else values
