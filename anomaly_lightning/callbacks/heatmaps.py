"""Writes a heatmap for every test picture, in the picture's own pixels."""

import logging
from pathlib import Path

import pytorch_lightning as pl
from PIL import Image
from pytorch_lightning.utilities import rank_zero_only

from anomaly_lightning.data.images import read_picture
from anomaly_lightning.heatmap import overlay
from anomaly_lightning.module import AnomalyModule
from anomaly_lightning.names import distinct, folder_name, save_picture
from anomaly_lightning.results import Results

logger = logging.getLogger(__name__)


class Heatmaps(pl.Callback):
    """Writes `<folder>/<defect>/<name>.png` after testing.

    Args:
        folder: Where to.
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    @rank_zero_only
    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write them all; one that can't be written is told and does not stop the others."""
        assert isinstance(pl_module, AnomalyModule)
        datamodule = trainer.datamodule  # type: ignore[attr-defined]
        results = Results.of(pl_module, datamodule.splits.test, datamodule.transform)
        taken: set[Path] = set()
        for index, sample in enumerate(results.samples):
            # A defect's name may come from anybody's table, and pictures of one name from several folders.
            name = distinct(Path(folder_name(sample.defect)) / sample.path.stem, taken)
            taken.add(name)
            try:
                self._write(results, index, self.folder / name.with_name(f"{name.name}.png"))
            except OSError as error:
                logger.warning("No heatmap for %s: %s", sample.path, error)

    def _write(self, results: Results, index: int, target: Path) -> None:
        sample = results.samples[index]
        picture, truth = read_picture(sample.path), results.truth(index)
        anomaly_map = results.anomaly_map(index, (picture.height, picture.width))
        outlined = None if truth is None else truth.numpy()
        save_picture(Image.fromarray(overlay(picture, anomaly_map, results.pixel_threshold, outlined)), target)
