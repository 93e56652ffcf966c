"""Figures for TensorBoard: panels of test images, scores with the threshold, heatmaps while a detector learns."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from PIL import Image
from scipy.stats import rankdata
from torch import Tensor

from anomaly_lightning.reports.results import Results
from anomaly_lightning.runtime.decision import verdict
from anomaly_lightning.runtime.heatmap import overlay


def panel(results: Results, index: int) -> Figure:
    """Figure of one test image: image | truth | heatmap | predicted mask."""
    image = results.transform.read(results.samples[index].path)
    size = (image.height, image.width)
    anomaly_map, truth = results.anomaly_map(index, size).numpy(), results.truth(index)
    mask = results.mask(anomaly_map)
    shown = {
        "image": np.asarray(image),
        "truth": np.zeros(size, bool) if truth is None else truth.numpy(),
        "heatmap": overlay(image, anomaly_map, results.pixel_threshold, mask),
        "mask": mask,
    }
    figure, axes = plt.subplots(1, 4, figsize=(12, 12 / 4 * size[0] / size[1] + 0.6), layout="constrained")
    for axis, (title, content) in zip(axes, shown.items(), strict=True):
        axis.imshow(content, cmap="gray", vmin=0, vmax=None if content.ndim == 3 else 1)
        axis.set_title("truth (unknown)" if title == "truth" and truth is None else title)
        axis.axis("off")
    score = float(results.scores[index])
    word = verdict(score, results.threshold)
    figure.suptitle(f"{results.samples[index].defect}: score {score:.4g}, threshold {results.threshold:.4g}, {word}")
    return figure


def histogram(results: Results) -> Figure:
    """Figure of the scores of good and defective test images, with the threshold."""
    figure, axis = plt.subplots(figsize=(6, 3.5), layout="constrained")
    edges = np.histogram_bin_edges(results.scores.double().numpy(), 40).tolist()
    for name, chosen, colour in (("good", ~results.labels, "tab:blue"), ("defect", results.labels, "tab:red")):
        axis.hist(results.scores[chosen].numpy(), bins=edges, alpha=0.6, label=name, color=colour)
    axis.axvline(results.threshold, color="black", linestyle="--", label="threshold")
    axis.set_xlabel("score")
    axis.set_ylabel("images")
    axis.legend()
    return figure


def ranks(scores: Tensor) -> npt.NDArray[np.floating]:
    """Scores (N,) as shares of the images that score lower, in [0, 1], equal scores alike: (N,) float64.

    TensorBoard's precision-recall curve takes nothing outside [0, 1]; ranks keep the order, which is all that the
    curve depends on. Its thresholds are then ranks, not scores.
    """
    placed: npt.NDArray[np.floating] = (rankdata(scores.double().numpy()) - 1) / max(1, len(scores) - 1)
    return placed


def progress_figure(
    images: Sequence[Image.Image], maps: Sequence[Tensor], names: Sequence[str], scale: float
) -> Figure:
    """Figure of some images and their heatmaps in one epoch.

    Args:
        images: n RGB images of any size.
        maps: n anomaly maps in the images' pixels, (H, W) float.
        names: What to call each.
        scale: Error that the colours have in their middle, as the pixel threshold would be.
    """
    tallest = max(image.height / image.width for image in images)
    size = (2.2 * len(images), 4.4 * tallest + 0.9)
    figure, axes = plt.subplots(2, len(images), figsize=size, layout="constrained", squeeze=False)
    for column, (image, anomaly_map, name) in enumerate(zip(images, maps, names, strict=True)):
        axes[0, column].imshow(np.asarray(image))
        axes[0, column].set_title(name)
        axes[1, column].imshow(overlay(image, anomaly_map.numpy(), scale))
    for axis in axes.flat:
        axis.axis("off")
    figure.suptitle(f"middle of the scale: {scale:.4g}, the highest error on the good images shown")
    return figure
