"""What TensorBoard shows of an evaluation: score histograms with the threshold, and panels of test pictures."""

from collections import defaultdict

import matplotlib.pyplot as plt
import numpy as np
import pytorch_lightning as pl
from matplotlib.figure import Figure
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.utilities import rank_zero_only

from anomaly_lightning.data.images import read_picture
from anomaly_lightning.heatmap import overlay
from anomaly_lightning.module import AnomalyModule
from anomaly_lightning.results import Results


class TensorBoardPanels(pl.Callback):
    """Draws, after testing, panels of picture | truth | heatmap | mask, and the scores of normals and defects.

    Args:
        per_defect: Test pictures of each defect type that are shown: always the first, so that runs compare.
    """

    def __init__(self, per_defect: int = 2) -> None:
        self.per_defect = per_defect

    @rank_zero_only
    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write figures and histograms to every TensorBoard logger."""
        assert isinstance(pl_module, AnomalyModule)
        boards = [board for board in trainer.loggers if isinstance(board, TensorBoardLogger)]
        if not boards or not pl_module.outputs:
            return
        datamodule = trainer.datamodule  # type: ignore[attr-defined]
        results = Results.of(pl_module, datamodule.splits.test, datamodule.transform)
        step = trainer.global_step
        for board in boards:
            for tag, index in self._chosen(results):
                board.experiment.add_figure(f"heatmaps/{tag}", panel(results, index), step)
            board.experiment.add_figure("scores/test", histogram(results), step)
            for name, chosen in (("normal", ~results.labels), ("anomalous", results.labels)):
                if chosen.any():
                    board.experiment.add_histogram(f"scores/{name}", results.scores[chosen], step)

    def _chosen(self, results: Results) -> list[tuple[str, int]]:
        """Tags and places of the pictures that are shown."""
        by_defect: dict[str, list[int]] = defaultdict(list)
        for index, sample in enumerate(results.samples):
            by_defect[sample.defect].append(index)
        chosen = [(defect, index) for defect, places in by_defect.items() for index in places[: self.per_defect]]
        return [(f"{defect}/{results.samples[index].path.stem}", index) for defect, index in chosen]


def panel(results: Results, index: int) -> Figure:
    """Figure of one test picture: picture | truth | heatmap | predicted mask."""
    picture = read_picture(results.samples[index].path)
    size = (picture.height, picture.width)
    anomaly_map, truth = results.anomaly_map(index, size), results.truth(index)
    mask = anomaly_map > results.pixel_threshold
    shown = {
        "picture": np.asarray(picture),
        "truth": np.zeros(size, bool) if truth is None else truth.numpy(),
        "heatmap": overlay(picture, anomaly_map, results.pixel_threshold),
        "mask": mask.numpy(),
    }
    figure, axes = plt.subplots(1, 4, figsize=(12, 12 / 4 * size[0] / size[1] + 0.6), layout="constrained")
    for axis, (title, content) in zip(axes, shown.items(), strict=True):
        axis.imshow(content, cmap="gray", vmin=0, vmax=None if content.ndim == 3 else 1)
        axis.set_title("truth (unknown)" if title == "truth" and truth is None else title)
        axis.axis("off")
    score = float(results.scores[index])
    verdict = "NG" if score > results.threshold else "OK"
    figure.suptitle(f"{results.samples[index].defect}: score {score:.4g}, threshold {results.threshold:.4g}, {verdict}")
    return figure


def histogram(results: Results) -> Figure:
    """Figure of the scores of good and defective test pictures, with the threshold."""
    figure, axis = plt.subplots(figsize=(6, 3.5), layout="constrained")
    bins = np.linspace(float(results.scores.min()), float(results.scores.max()) + 1e-12, 40).tolist()
    for name, chosen, colour in (("good", ~results.labels, "tab:blue"), ("defect", results.labels, "tab:red")):
        axis.hist(results.scores[chosen].numpy(), bins=bins, alpha=0.6, label=name, color=colour)
    axis.axvline(results.threshold, color="black", linestyle="--", label="threshold")
    axis.set_xlabel("score")
    axis.set_ylabel("pictures")
    axis.legend()
    return figure
