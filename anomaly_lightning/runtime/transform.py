"""The one way from an image to the network's input, and back from a map to the image's pixels."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from anomaly_lightning.errors import DataError
from anomaly_lightning.runtime.card import TransformCard
from anomaly_lightning.runtime.reading import read_image

RESIZE = ("stretch", "letterbox")


class ImageTransform:
    """Resize and normalise images; map what was computed back to their pixels.

    Every path of a run uses one object, and the model card stores it: resizing with antialiasing in one path and
    without in another shifts every score.

    Args:
        size: (height, width) of the network's input in pixels; one number makes a square.
        mean: Mean of the red, green, blue channel that the backbone expects, in [0, 1].
        std: Their standard deviations.
        resize: "stretch" fills the size and changes the aspect; "letterbox" keeps the aspect and pads with the mean
            colour, which is 0 after normalising.
        white: Grey level that counts as white in images of 16 bits; None = 65535. See `conversion`.

    Raises:
        DataError: A size below 1, not three means and stds, a std of 0, or an unknown way to resize.
    """

    def __init__(
        self,
        size: int | Sequence[int],
        mean: Sequence[float],
        std: Sequence[float],
        resize: str = "stretch",
        white: int | None = None,
    ) -> None:
        pair = (size, size) if isinstance(size, int) else tuple(size)
        if len(pair) != 2 or min(pair) < 1:
            raise DataError(f"Image size {size}: expected one number or (height, width), each at least 1 pixel.")
        if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
            raise DataError(f"mean={list(mean)}, std={list(std)}: expected three numbers each, the stds above 0.")
        if resize not in RESIZE:
            raise DataError(f"resize={resize}: expected one of {', '.join(RESIZE)}.")
        self.size = (int(pair[0]), int(pair[1]))
        self.mean, self.std = tuple(float(m) for m in mean), tuple(float(s) for s in std)
        self.resize, self.white = resize, white

    def read(self, path: Path) -> Image.Image:
        """An image file as `__call__` takes it; see `reading.read_image` for what it raises."""
        return read_image(path, white=self.white)

    def __call__(self, image: Image.Image) -> NDArray[np.float32]:
        """Make the network's input of one RGB image of any size: (3, h, w) float32, normalised."""
        if image.mode != "RGB":
            raise ValueError(f"an image of mode {image.mode} came; read_image gives mode RGB")
        top, left, height, width = self._content((image.height, image.width))
        resized = image.resize((width, height), Image.Resampling.BILINEAR)
        # Row by row the three channels one after the other: sums over neighbours in memory, a third of a table's time.
        levels = np.frombuffer(resized.tobytes("raw", "RGB;L"), np.uint8).reshape(height, 3, width)
        images = (np.empty if (height, width) == self.size else np.zeros)((3, *self.size), np.float32)
        for channel, (mean, std) in enumerate(zip(self.mean, self.std, strict=True)):
            own = images[channel, top : top + height, left : left + width]
            # The steps and roundings are torchvision's.
            np.multiply(levels[:, channel], np.float32(1 / 255), out=own)
            own -= np.float32(mean)
            own /= np.float32(std)
        return images

    def levels(self, images: NDArray[np.float32]) -> NDArray[np.uint8]:
        """What `__call__` normalised, (3, h, w) float32, as levels of an image of the network's size: (h, w, 3)."""
        mean, std = np.array(self.mean, np.float32), np.array(self.std, np.float32)
        return np.rint((images.transpose(1, 2, 0) * std + mean) * 255).clip(0, 255).astype(np.uint8)

    def mask(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Bring a mask to the network's size by nearest neighbour: (H, W) bool -> (h, w) bool; padding is False."""
        top, left, height, width = self._content((mask.shape[0], mask.shape[1]))
        out = np.zeros(self.size, bool)
        nearest = np.ix_(_nearest(height, mask.shape[0]), _nearest(width, mask.shape[1]))
        out[top : top + height, left : left + width] = mask[nearest]
        return out

    def restore(self, anomaly_map: NDArray[Any], original: tuple[int, int]) -> NDArray[np.float32]:
        """Bring a map over the network's input back to the original image's pixels.

        Bilinear with align_corners=False: for a map as large as the input the same as cutting the padding off and
        torch's `F.interpolate`. A coarser map works, too; its cells whose centre lies in the padding never count.

        Args:
            anomaly_map: (..., h', w') float, covering the input with its padding at any resolution.
            original: (H, W) of the image in pixels.

        Returns:
            (..., H, W) float32.
        """
        top, left, height, width = self._content(original)
        values = np.asarray(anomaly_map, np.float32)
        low, high, weight = _axis(values.shape[-1], self.size[1], left, width, original[1])
        values = _between(np.take(values, low, -1), np.take(values, high, -1), weight)
        low, high, weight = _axis(values.shape[-2], self.size[0], top, height, original[0])
        return _between(np.take(values, low, -2), np.take(values, high, -2), weight[:, None])

    def card(self) -> TransformCard:
        """What `from_card` takes."""
        return TransformCard(self.size, self.mean, self.std, self.resize, self.white)  # type: ignore[arg-type]

    @classmethod
    def from_card(cls, card: TransformCard) -> "ImageTransform":
        """Make the transform that a card describes.

        Raises:
            DataError: A value is refused.
        """
        return cls(card.size, card.mean, card.std, card.resize, card.white)

    def __repr__(self) -> str:
        return f"ImageTransform({self.card()})"

    def _content(self, original: tuple[int, int]) -> tuple[int, int, int, int]:
        """(top, left, height, width) of an image of (H, W) inside the network's input, in pixels of the input."""
        if self.resize == "stretch":
            return 0, 0, *self.size
        scale = min(self.size[0] / original[0], self.size[1] / original[1])
        height, width = (max(1, round(side * scale)) for side in original)
        return (self.size[0] - height) // 2, (self.size[1] - width) // 2, height, width


@lru_cache(maxsize=16)
def _axis(
    cells: int, canvas: int, start: int, length: int, original: int
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    """Linear interpolation along one axis, from the cells of a map to the pixels of the original image.

    Args:
        cells: Cells of the map along the axis; they cover the canvas evenly.
        canvas: Length of the network's input in its pixels.
        start: Where the image begins on the canvas.
        length: How long the image is on the canvas.
        original: Length of the original image in its pixels.

    Returns:
        The two cells that each pixel lies between, and the weight of the second: (original,) each.
    """
    per_pixel = cells / canvas
    centres = start + (np.arange(original) + 0.5) * (length / original)
    inside = [c for c in range(cells) if start <= (c + 0.5) / per_pixel <= start + length]
    nearest = min(cells - 1, int((start + length / 2) * per_pixel))
    first, last = (inside[0], inside[-1]) if inside else (nearest, nearest)
    position = (centres * per_pixel - 0.5).clip(first, last)
    low = position.astype(np.intp)  # positions are >= 0
    found = low, np.minimum(low + 1, last), (position - low).astype(np.float32)
    for values in found:
        values.setflags(write=False)  # kept: a line asks for the same ones with every image
    return found


def _between(low: NDArray[np.float32], high: NDArray[np.float32], weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """Low + weight * (high - low), in the memory of the two arrays."""
    high -= low
    high *= weight
    low += high
    return low


def _nearest(out: int, original: int) -> NDArray[np.intp]:
    """Indices of the original pixels that lie under the centres of `out` pixels: (out,)."""
    return (((np.arange(out) + 0.5) * original) / out).astype(np.intp).clip(max=original - 1)
