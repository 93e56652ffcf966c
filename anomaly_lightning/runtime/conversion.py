"""Images of any form as RGB uint8.

How each form becomes RGB is a function of the file's form and of one white level for all images of a model, never of
the values in a single image, so that two images of one camera stay comparable:

- Grey, 1-bit, palette, CMYK, YCbCr: Pillow's conversion.
- Alpha, of whatever kind: composited on black. What lies under transparent pixels is an editor's leftover that nobody
  has seen.
- 16-bit grey: 65535 is white unless a white level is given, as for a camera of 10, 12 or 14 bits that writes its
  values into 16 (`data.white`). What is brighter than the white level is white, as on a sensor that saturates.
- 12-bit TIFF says so itself: 4095 is white.
- 16-bit colour: the upper byte, by Pillow.
- 32-bit integers: read like 16-bit grey; floats: 0 is black, 1 is white. Values outside are refused, not clipped.
- EXIF orientation is applied; of several frames or pages the first is read.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from anomaly_lightning.errors import UserError

LARGEST = 65535  # value that 16 bits hold
_BITS_PER_SAMPLE = 258  # TIFF 6.0, section 8


def to_rgb(image: Image.Image, white: int = LARGEST) -> Image.Image:
    """An image of any mode in mode RGB, as the module's docstring says.

    Args:
        image: Upright.
        white: As `white_level` gives it.

    Raises:
        ValueError: Values that no image has: floats outside [0, 1], integers beyond 16 bits.
    """
    if is_deep(image):
        return Image.fromarray(_eight_bits(image, white)).convert("RGB")
    if image.has_transparency_data:
        layer = image if image.mode == "RGBA" else image.convert("RGBA")
        image = Image.new("RGB", layer.size)
        image.paste(layer, mask=layer)
    return image.convert("RGB")


def is_deep(image: Image.Image) -> bool:
    """Whether an image is grey with more than 8 bits."""
    return image.mode.startswith(("I", "F"))


def white_level(image: Image.Image, given: int | None = None) -> int:
    """Grey level that is white in an image as it was opened: what its form says, else what is given, else 65535."""
    if getattr(image, "tag_v2", {}).get(_BITS_PER_SAMPLE) == (12,):
        return 4095
    return LARGEST if given is None else given


def _eight_bits(image: Image.Image, white: int) -> NDArray[np.uint8]:
    """(H, W) uint8 of a grey image with more than 8 bits."""
    values, is_float = np.asarray(image), image.mode == "F"
    largest = 1.0 if is_float else LARGEST
    # Written so that a NaN is refused, too.
    if not (values.min() >= 0 and values.max() <= largest):
        kind = "float" if is_float else "32-bit integer"
        raise ValueError(
            f"{kind} values from {values.min()} to {values.max()}; expected 0 to {largest:g}, convert it first"
        )
    if is_float:
        return np.rint(values * 255).astype(np.uint8)
    if white == LARGEST:  # 257 * 255: a step is 257 values; other levels are one less than 256 whole steps
        return (values // 257).astype(np.uint8)
    return (np.minimum(values, white).astype(np.int64) * 256 // (white + 1)).astype(np.uint8)


def from_array(values: NDArray[Any]) -> Image.Image:
    """An array (H, W, 3) uint8 in the order red, green, blue as an image of mode RGB.

    Raises:
        UserError: It has another shape or dtype; the message says what it has to become.
    """
    if not isinstance(values, np.ndarray):
        raise UserError(
            f"Expected a path, a PIL image, a uint8 array (H, W, 3) in RGB order, or a list of these; "
            f"got {type(values).__module__}.{type(values).__qualname__}."
        )
    if values.dtype == np.uint8 and values.ndim == 3 and values.shape[2] == 3 and values.size:
        return Image.fromarray(values)
    raise UserError(
        f"Expected a uint8 array (H, W, 3) in RGB order, got {values.dtype} {values.shape}. {_advice(values)}"
    )


def _advice(values: NDArray[Any]) -> str:
    """What an array of another form has to become."""
    channels = values.shape[2] if values.ndim == 3 else None
    known = (
        (not values.size, "It holds no pixels."),
        (values.ndim == 4, "Several images: pass list(array)."),
        (channels not in (None, 1, 3, 4), "Channels come last: array.transpose(1, 2, 0) of (C, H, W)."),
        (values.dtype.kind == "f", "Scale it to 0..255: (255 * array).round().astype(numpy.uint8) if it is in [0, 1]."),
        (values.ndim == 2, "A grey image: pass PIL.Image.fromarray(array), which is decoded as a grey file is."),
        (channels == 1, "A grey image: pass PIL.Image.fromarray(array[..., 0]), which is decoded as a grey file is."),
        (channels == 4, "With alpha: pass PIL.Image.fromarray(array) of RGBA, of array[..., [2, 1, 0, 3]] where BGRA."),
    )
    return next((words for holds, words in known if holds), "OpenCV's images are BGR: array[..., ::-1] makes them RGB.")
