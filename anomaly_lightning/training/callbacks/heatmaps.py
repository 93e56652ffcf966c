"""Writes a heatmap for every test image, in the image's own pixels."""

import logging
from pathlib import Path

import pytorch_lightning as pl
from PIL import Image
from pytorch_lightning.utilities import rank_zero_only

from anomaly_lightning.reports.results import Results
from anomaly_lightning.runtime.heatmap import overlay
from anomaly_lightning.runtime.names import distinct, folder_name, save_image
from anomaly_lightning.training.module import AnomalyModule

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
        results = Results.of(pl_module, datamodule.splits.test)
        taken: set[Path] = set()
        for index, sample in enumerate(results.samples):
            # A defect's name may come from anybody's table, and images of one name from several folders.
            name = distinct(Path(folder_name(sample.defect)) / sample.path.stem, taken)
            taken.add(name)
            try:
                self._write(results, index, self.folder / name.with_name(f"{name.name}.png"))
            except OSError as error:
                logger.warning("No heatmap for %s: %s", sample.path, error)

    def _write(self, results: Results, index: int, target: Path) -> None:
        sample = results.samples[index]
        image, truth = results.transform.read(sample.path), results.truth(index)
        anomaly_map = results.anomaly_map(index, (image.height, image.width)).numpy()
        outlined = None if truth is None else truth.numpy()
        drawn = overlay(image, anomaly_map, results.pixel_threshold, results.mask(anomaly_map), outlined)
        save_image(Image.fromarray(drawn), target)
