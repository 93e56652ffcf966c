"""The one way from an image to `images`, and back from a map to the image's pixels."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from anomaly_lightning.errors import DataError

RESIZE = ("stretch", "letterbox")


class ImageTransform:
    """Resize and normalise images; map what was computed back to their pixels.

    Every path of a run uses one object, and the checkpoint stores its config: resizing with antialiasing in one path
    and without in another shifts every score.

    Args:
        size: (height, width) of `images` in pixels; one number makes a square.
        mean: Mean of the red, green, blue channel that the backbone expects, in [0, 1].
        std: Their standard deviations.
        resize: "stretch" fills the size and changes the aspect; "letterbox" keeps the aspect and pads with the mean
            colour, which is 0 after normalising.

    Raises:
        DataError: A size below 1, not three means and stds, a std of 0, or an unknown way to resize.
    """

    def __init__(
        self, size: int | Sequence[int], mean: Sequence[float], std: Sequence[float], resize: str = "stretch"
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
        self.resize = resize

    def __call__(self, image: Image.Image) -> Tensor:
        """Make `images` of one RGB image of any size: (3, h, w) float32, normalised."""
        if image.mode != "RGB":
            raise ValueError(f"an image of mode {image.mode} came; read_image gives mode RGB")
        top, left, height, width = self._content((image.height, image.width))
        resized = tv.resize(image, [height, width], interpolation=InterpolationMode.BILINEAR, antialias=True)
        planes = tv.pil_to_tensor(resized).contiguous()  # from interleaved colours normalising takes six times as long
        scaled = tv.to_dtype(planes, torch.float32, scale=True)
        images = torch.zeros(3, *self.size)
        images[:, top : top + height, left : left + width] = tv.normalize(scaled, list(self.mean), list(self.std))
        return images

    def mask(self, mask: Tensor) -> Tensor:
        """Bring a mask to the size of `images` by nearest neighbour: (H, W) bool -> (h, w) bool; padding is False."""
        top, left, height, width = self._content((mask.shape[0], mask.shape[1]))
        rows, columns = _nearest(height, mask.shape[0]), _nearest(width, mask.shape[1])
        out = torch.zeros(self.size, dtype=torch.bool, device=mask.device)
        out[top : top + height, left : left + width] = mask[rows][:, columns]
        return out

    def restore(self, anomaly_map: Tensor, original: tuple[int, int]) -> Tensor:
        """Bring a map over `images` back to the original image's pixels.

        Bilinear with align_corners=False: for a map as large as `images` the same as cutting the padding off and
        `F.interpolate`. A coarser map works, too; its cells whose centre lies in the padding never count.

        Args:
            anomaly_map: (..., h', w') float, covering `images` with its padding at any resolution.
            original: (H, W) of the image in pixels.

        Returns:
            (..., H, W) float.
        """
        top, left, height, width = self._content(original)
        rows = _Axis(anomaly_map.shape[-2], self.size[0], top, height, original[0])
        columns = _Axis(anomaly_map.shape[-1], self.size[1], left, width, original[1])
        return columns.interpolate(rows.interpolate(anomaly_map.mT).mT)

    def to_config(self) -> dict[str, Any]:
        """Plain dict that `from_config` takes."""
        return {"size": list(self.size), "mean": list(self.mean), "std": list(self.std), "resize": self.resize}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "ImageTransform":
        """Make the transform that `to_config` described.

        Raises:
            DataError: Keys are missing or unknown, or a value is refused.
        """
        expected = {"size", "mean", "std", "resize"}
        if set(config) != expected:
            raise DataError(f"Transform config with keys {sorted(config)}: expected {sorted(expected)}.")
        return cls(config["size"], config["mean"], config["std"], config["resize"])

    def __repr__(self) -> str:
        return f"ImageTransform({self.to_config()})"

    def _content(self, original: tuple[int, int]) -> tuple[int, int, int, int]:
        """(top, left, height, width) of an image of (H, W) inside `images`, in pixels of `images`."""
        if self.resize == "stretch":
            return 0, 0, *self.size
        scale = min(self.size[0] / original[0], self.size[1] / original[1])
        height, width = (max(1, round(side * scale)) for side in original)
        return (self.size[0] - height) // 2, (self.size[1] - width) // 2, height, width


class _Axis:
    """Linear interpolation along one axis, from the cells of a map to the pixels of the original image.

    Args:
        cells: Cells of the map along the axis; they cover the canvas evenly.
        canvas: Length of `images` in its pixels.
        start: Where the image begins on the canvas.
        length: How long the image is on the canvas.
        original: Length of the original image in its pixels.
    """

    def __init__(self, cells: int, canvas: int, start: int, length: int, original: int) -> None:
        per_pixel = cells / canvas
        centres = start + (torch.arange(original, dtype=torch.float64) + 0.5) * (length / original)
        inside = [c for c in range(cells) if start <= (c + 0.5) / per_pixel <= start + length]
        nearest = min(cells - 1, int((start + length / 2) * per_pixel))
        first, last = (inside[0], inside[-1]) if inside else (nearest, nearest)
        position = (centres * per_pixel - 0.5).clamp(first, last)
        self.low = position.floor().long()
        self.high = (self.low + 1).clamp(max=last)
        self.weight = position - self.low

    def interpolate(self, values: Tensor) -> Tensor:
        """(..., cells) -> (..., original), along the last axis."""
        low, high = self.low.to(values.device), self.high.to(values.device)
        weight = self.weight.to(values.device, values.dtype)
        return torch.lerp(values[..., low], values[..., high], weight)


def _nearest(out: int, original: int) -> Tensor:
    """Indices of the original pixels that lie under the centres of `out` pixels: (out,) int64."""
    return (((torch.arange(out, dtype=torch.float64) + 0.5) * original) / out).long().clamp(max=original - 1)
