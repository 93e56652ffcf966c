"""Samples as tensors: what an image batch holds, one item at a time."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.data import Dataset

from anomaly_lightning.data.samples import Sample
from anomaly_lightning.runtime.transform import ImageTransform


class ImageDataset(Dataset[dict[str, Tensor]]):
    """Images and labels of some samples; each image is decoded once an item, masks are not read.

    An item holds `images` (3, H, W) float32 normalised, `label` () bool and `index` () int64, the sample's place in
    `samples`; the default collation makes the batch of them.

    Args:
        samples: The samples, in the order of their index.
        transform: The one transform that every path uses.
    """

    def __init__(self, samples: Sequence[Sample], transform: ImageTransform) -> None:
        self.samples, self.transform = tuple(samples), transform

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        label = torch.tensor(self.samples[index].label)
        return {"images": self.images(index), "label": label, "index": torch.tensor(index)}

    def images(self, index: int) -> Tensor:
        """Image as the backbone expects it: (3, H, W) float32."""
        return torch.from_numpy(self.transform(self.transform.read(self.samples[index].path)))
