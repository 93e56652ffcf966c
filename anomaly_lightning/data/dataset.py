"""Samples as tensors: what an image batch holds, one item at a time."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from anomaly_lightning.data.samples import Sample
from anomaly_lightning.runtime.reading import read_image, read_mask
from anomaly_lightning.runtime.transform import ImageTransform


class ImageDataset(Dataset[dict[str, Tensor]]):
    """Images, masks and labels of some samples.

    An item holds `images` (3, H, W) float32 normalised, `mask` (H, W) bool, `label` () bool and `index` () int64,
    the sample's place in `samples`; the default collation makes the batch of them.

    Args:
        samples: The samples, in the order of their index.
        transform: The one transform that every path uses.
    """

    def __init__(self, samples: Sequence[Sample], transform: ImageTransform) -> None:
        self.samples, self.transform = tuple(samples), transform

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        sample = self.samples[index]
        return {
            "images": self.images(index),
            "mask": self.transform.mask(self.mask(index)),
            "label": torch.tensor(sample.label),
            "index": torch.tensor(index),
        }

    def images(self, index: int) -> Tensor:
        """Image as the backbone expects it: (3, H, W) float32."""
        return self.transform(read_image(self.samples[index].path))

    def mask(self, index: int) -> Tensor:
        """Mask in its own pixels: (H, W) bool; all False, in the image's pixels, where the sample has none."""
        sample = self.samples[index]
        if sample.mask is not None:
            return torch.from_numpy(read_mask(sample.mask))
        width, height = read_image(sample.path).size
        return torch.from_numpy(np.zeros((height, width), dtype=bool))
