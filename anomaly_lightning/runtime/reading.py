"""Files as images: whatever a camera or a program wrote becomes RGB uint8 or a bool mask, or one `ImageError`.

The module `conversion` says how each form becomes RGB.
"""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from anomaly_lightning.runtime.conversion import LARGEST, from_array, is_deep, to_rgb, white_level
from anomaly_lightning.runtime.damage import ImageError, TooLargeError, claimed_pixels, what_is_broken, what_it_is
from anomaly_lightning.runtime.files import SUFFIXES, images_in

# Decoders of what cameras write. Others, some of which start external programs, are never tried.
FORMATS = tuple(SUFFIXES)
MAX_PIXELS = 200_000_000


@dataclass(frozen=True)
class Encoded:
    """The content of an image's file, where somebody else has read it.

    Attributes:
        data: All bytes of the file.
        name: What errors call it.
    """

    data: bytes
    name: str


Source = str | Path | Encoded | Image.Image | NDArray[np.uint8]


def as_image(source: Source, white: int | None = None) -> Image.Image:
    """The one way in: whatever an image is given as becomes RGB, decoded alike.

    Args:
        source: A path, or the content of a file; a PIL image of any mode, as `Image.open` gives it; or an array
            (H, W, 3) uint8 in RGB order.
        white: Grey level that counts as white where there are 16 bits; None = 65535.

    Returns:
        (H, W) image in mode RGB, upright.

    Raises:
        ImageError: The file or image can't be decoded.
        UserError: It is something else; the message says what it has to become.
    """
    if isinstance(source, str | Path):
        return read_image(Path(source), white=white)
    if isinstance(source, Encoded):
        return read_bytes(source.data, source.name, white=white)
    if isinstance(source, Image.Image):
        path = Path(getattr(source, "filename", "") or "the image")
        level = white_level(source, white)  # a copy no longer tells what its file was
        upright: Image.Image = _decoded(path, lambda: to_rgb(ImageOps.exif_transpose(source), level))
        return upright
    return from_array(source)


def read_image(path: Path, max_pixels: int = MAX_PIXELS, white: int | None = None) -> Image.Image:
    """Read an image file of any form.

    Args:
        path: The file; its content decides what it is, not its name.
        max_pixels: Limit on width x height, held against the header before anything is decoded.
        white: Grey level that counts as white where there are 16 bits; None = 65535.

    Returns:
        (H, W) image in mode RGB, upright.

    Raises:
        ImageError: The file is missing, empty, no image, damaged, truncated or too large.
    """
    image: Image.Image = _guarded(path, max_pixels, lambda file: to_rgb(_upright(file), white_level(file, white)))
    return image


def read_bytes(
    data: bytes, name: str = "the image", max_pixels: int = MAX_PIXELS, white: int | None = None
) -> Image.Image:
    """Read an image that came as the bytes of a file; else as `read_image`.

    Args:
        data: The file's content.
        name: What errors call it.
        max_pixels: Limit on width x height, held against the header before anything is decoded.
        white: Grey level that counts as white where there are 16 bits; None = 65535.

    Returns:
        (H, W) image in mode RGB, upright.

    Raises:
        TooLargeError: It has more pixels than the limit.
        ImageError: It is empty, no image, damaged or truncated.
    """
    image: Image.Image = _from_stream(
        BytesIO(data), Path(name), max_pixels, lambda file: to_rgb(_upright(file), white_level(file, white))
    )
    return image


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
    size: tuple[int, int] = _guarded(path, max_pixels, lambda image: (_upright(image).height, image.width))
    return size


def largest_level(path: Path, max_pixels: int = MAX_PIXELS) -> int | None:
    """Largest value of a grey file of 16 bits; None for any other, whose form says what white is.

    Raises:
        ImageError: The file can't be read.
    """
    level: int | None = _guarded(path, max_pixels, _largest_level)
    return level


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


def _why_unreadable(path: Path) -> str | None:
    try:
        read_image(path)
    except ImageError as error:
        return error.reason
    return None


def _guarded(path: Path, max_pixels: int, convert: Any) -> Any:
    """Open once, limit, decode and convert one file; whatever goes wrong becomes an `ImageError`."""
    with open_file(path) as stream:
        return _from_stream(stream, path, max_pixels, convert)


def _from_stream(stream: BinaryIO, path: Path, max_pixels: int, convert: Any) -> Any:
    """Limit, decode and convert what a stream holds from its start on; errors name the path."""
    # Pillow's own guard is one number for the whole process: only ever raised to the limit in force here.
    if Image.MAX_IMAGE_PIXELS is not None:
        Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, max_pixels)
    head = stream.read(64)
    if not head:
        raise ImageError(path, "0 bytes")
    stream.seek(0)

    def load() -> Any:
        with Image.open(stream, formats=FORMATS) as image:
            _limit(image, path, max_pixels)
            return convert(image)

    try:
        return _decoded(path, load)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise TooLargeError(path, _too_large(claimed_pixels(error), max_pixels)) from error
    except UnidentifiedImageError as error:
        raise ImageError(path, what_it_is(head)) from error


def _decoded(path: Path, load: Callable[[], Any]) -> Any:
    """What a decoder gives; what it raises on a damaged image becomes an `ImageError`."""
    try:
        return load()
    except (ImageError, Image.DecompressionBombError, Image.DecompressionBombWarning, UnidentifiedImageError):
        raise
    # Decoders raise nearly anything on damaged files, from struct.error to KeyError.
    except Exception as error:
        raise ImageError(path, what_is_broken(error)) from error


def open_file(path: Path) -> BinaryIO:
    """A regular file, open. A pipe or device would hang whoever reads it, so it is refused by its kind.

    Raises:
        ImageError: It is missing, of another kind, or can't be opened.
    """
    try:
        if not path.exists():
            raise ImageError(path, "there is no such file")
        if not path.is_file():
            raise ImageError(path, "is a folder, not an image" if path.is_dir() else "is not a regular file")
        return path.open("rb")
    except (OSError, ValueError) as error:
        raise ImageError(path, f"can't be opened: {error}") from error


def _limit(image: ImageFile.ImageFile, path: Path, max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise TooLargeError(path, _too_large(f"{width}x{height}", max_pixels))


def _too_large(claimed: str, max_pixels: int) -> str:
    return f"header claims {claimed} pixels, more than the limit of {max_pixels}"


def _upright(image: Image.Image) -> Image.Image:
    """The image itself, turned as its EXIF orientation asks."""
    ImageOps.exif_transpose(image, in_place=True)
    return image


def _largest_level(image: Image.Image) -> int | None:
    if not is_deep(image) or image.mode == "F" or white_level(image) != LARGEST:
        return None
    return int(np.asarray(image).max())


def _mask_values(image: Image.Image) -> NDArray[Any]:
    image = _upright(image)
    if image.mode in ("LA", "La"):
        image = image.convert("L")
    elif image.mode not in ("1", "L") and not is_deep(image):
        image = image.convert("RGB")
    values = np.asarray(image)
    return values.max(axis=2) if values.ndim == 3 else values
