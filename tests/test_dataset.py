"""Batches of images, for runs that keep no features."""

from collections import Counter
from pathlib import Path

from PIL import Image

from anomaly_lightning.data.datamodule import MVNetDataModule
from anomaly_lightning.data.layouts import read_category
from anomaly_lightning.runtime.transform import ImageTransform

CHANNELS = (0.5, 0.5, 0.5)


def test_an_epoch_opens_each_image_once_and_no_mask(root, monkeypatch):
    data = MVNetDataModule(read_category(root, "widget"), ImageTransform((48, 64), CHANNELS, CHANNELS), batch_size=4)
    opened, open_image = Counter(), Image.open

    def counted(stream, *arguments, **options):
        opened[Path(stream.name)] += 1
        return open_image(stream, *arguments, **options)

    monkeypatch.setattr(Image, "open", counted)
    for role, loader in {"train": data.train_dataloader(), "test": data.test_dataloader()}.items():
        opened.clear()
        labels = [label for batch in loader for label in batch["label"].tolist()]
        samples = getattr(data.splits, role)
        assert opened == dict.fromkeys((sample.path for sample in samples), 1)
        assert sum(labels) == sum(sample.label for sample in samples)
