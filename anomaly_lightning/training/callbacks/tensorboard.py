"""What TensorBoard shows: heatmaps while a detector learns; scores, precision-recall and panels of the test."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from PIL import Image
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.utilities import rank_zero_only
from torch import Tensor

from anomaly_lightning.data.samples import GOOD, Sample
from anomaly_lightning.reports.results import Results
from anomaly_lightning.runtime.card import ModelCard
from anomaly_lightning.training.callbacks.board_figures import histogram, panel, progress_figure, ranks
from anomaly_lightning.training.module import AnomalyModule


class TensorBoardPanels(pl.Callback):
    """Draws panels of image | truth | heatmap | mask and the scores after testing, heatmaps while fitting.

    Args:
        per_defect: Test images of each defect type that are shown: always the first, so that runs compare.
    """

    def __init__(self, per_defect: int = 2) -> None:
        self.per_defect = per_defect

    @rank_zero_only
    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write figures, histograms and the precision-recall curve to every TensorBoard logger."""
        assert isinstance(pl_module, AnomalyModule)
        boards = _boards(trainer)
        if not boards or not pl_module.scored:
            return
        datamodule = trainer.datamodule  # type: ignore[attr-defined]
        results = Results.of(pl_module, datamodule.splits.test)
        step = trainer.global_step
        for board in boards:
            for tag, index in self._chosen(results):
                board.experiment.add_figure(f"heatmaps/{tag}", panel(results, index), step)
            board.experiment.add_figure("scores/test", histogram(results), step)
            for name, chosen in (("normal", ~results.labels), ("anomalous", results.labels)):
                if chosen.any():
                    board.experiment.add_histogram(f"scores/{name}", results.scores[chosen], step)
            if results.labels.any() and not results.labels.all():
                labels = results.labels.numpy()
                board.experiment.add_pr_curve("test/by_rank_of_score", labels, ranks(results.scores), step)

    def _chosen(self, results: Results) -> list[tuple[str, int]]:
        """Tags and places of the images that are shown."""
        places = _first_of_each(results.samples, self.per_defect)
        return [(f"{results.samples[index].defect}/{results.samples[index].path.stem}", index) for index in places]


class LearningHeatmaps(pl.Callback):
    """Draws heatmaps of the same few images every so many epochs, so that one can watch a detector learn.

    Validation normals and test images are shown, for looking alone: nothing is computed from their labels, and
    nothing of it reaches the weights, the thresholds or the choice of a checkpoint. There is no pixel threshold yet,
    so the colours are anchored at the highest error on the shown validation normals of the epoch.

    Args:
        every_n_epochs: How often; 0 = never.
        normals: Validation normals that are shown.
        per_defect: Test images of each defect type that are shown.
    """

    def __init__(self, every_n_epochs: int = 10, normals: int = 2, per_defect: int = 1) -> None:
        self.every_n_epochs, self.normals, self.per_defect = every_n_epochs, normals, per_defect
        self._samples: list[Sample] = []
        self._images: list[Image.Image] = []
        self._inputs: Tensor | None = None

    @rank_zero_only
    @torch.no_grad()
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw, in every n-th epoch and the last one."""
        assert isinstance(pl_module, AnomalyModule)
        epoch = trainer.current_epoch
        last = trainer.max_epochs is not None and epoch == trainer.max_epochs - 1
        wanted = self.every_n_epochs > 0 and (epoch % self.every_n_epochs == 0 or last)
        if not wanted or pl_module.trained is None or not _boards(trainer):
            return
        if self._inputs is None:
            self._inputs = self._prepare(trainer, pl_module)
        maps = pl_module.model.scoring.maps(pl_module.model.error_map(self._inputs.to(pl_module.device))).cpu()
        scale = float(maps[: self.normals].max())
        transform = trainer.datamodule.transform  # type: ignore[attr-defined]
        own = [
            torch.from_numpy(transform.restore(a_map.numpy(), (image.height, image.width)))
            for a_map, image in zip(maps, self._images, strict=True)
        ]
        names = [sample.defect for sample in self._samples]
        for board in _boards(trainer):
            figure = progress_figure(self._images, own, names, scale)
            board.experiment.add_figure("learning/heatmaps", figure, epoch)

    def _prepare(self, trainer: pl.Trainer, module: AnomalyModule) -> Tensor:
        """Read the images and compute what the detector sees of them, (n, ...), once a run."""
        datamodule = trainer.datamodule  # type: ignore[attr-defined]
        test = [sample for sample in datamodule.splits.test if sample.defect != GOOD]
        shown = [test[index] for index in _first_of_each(test, self.per_defect)]
        self._samples = [*datamodule.splits.validation[: self.normals], *shown]
        self._images = [datamodule.transform.read(sample.path) for sample in self._samples]
        images = torch.stack([torch.from_numpy(datamodule.transform(image)) for image in self._images])
        return module.model.inputs(images.to(module.device)).cpu()


def log_metrics(trainer: pl.Trainer, card: ModelCard, metrics: Mapping[str, Any]) -> None:
    """Write final metrics, with the settings that led to them, into TensorBoard's table of runs."""
    final = {
        f"{block}/{name}": value
        for block in ("image", "pixel")
        for name, value in (metrics[block] or {}).items()
        if isinstance(value, float)
    }
    settings = {"category": card.category, "seed": card.seed, "backbone": card.backbone.name}
    settings |= _flat(card.detector.arguments, "model")
    for board in _boards(trainer):
        board.log_hyperparams(settings, final)
        board.save()


def _flat(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Nested plain values by dotted name."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= _flat(value, f"{name}.{key}") if isinstance(value, Mapping) else {f"{name}.{key}": value}
    return found


def _boards(trainer: pl.Trainer) -> list[TensorBoardLogger]:
    return [board for board in trainer.loggers if isinstance(board, TensorBoardLogger)]


def _first_of_each(samples: Sequence[Sample], count: int) -> list[int]:
    """Places of the first samples of each defect type."""
    by_defect: dict[str, list[int]] = defaultdict(list)
    for index, sample in enumerate(samples):
        by_defect[sample.defect].append(index)
    return [index for places in by_defect.values() for index in places[:count]]
