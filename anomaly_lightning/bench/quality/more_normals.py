"""Scores of more normals than are held out, so that rules that would use them can be compared on stored rows."""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageEnhance
from torch import Tensor

from anomaly_lightning.calibration import fold_indices
from anomaly_lightning.data.samples import Sample
from anomaly_lightning.detectors.base import TrainedDetector
from anomaly_lightning.features.batches import Repeated
from anomaly_lightning.runtime.transform import ImageTransform
from anomaly_lightning.training.module import AnomalyModule, Batch

SHIFT, LIGHT = 0.01, 0.08  # of a side; of the brightness
Change = Callable[[Image.Image], Image.Image]


def _shifted(image: Image.Image, right: int, down: int) -> Image.Image:
    """An image in mode RGB moved by so many pixels, its edge repeated."""
    pixels = np.pad(np.asarray(image), ((down, 0), (right, 0), (0, 0)), mode="edge")
    return Image.fromarray(pixels[: image.height, : image.width])


CHANGES: Mapping[str, Change] = MappingProxyType(
    {
        "right": lambda image: _shifted(image, max(1, round(SHIFT * image.width)), 0),
        "down": lambda image: _shifted(image, 0, max(1, round(SHIFT * image.height))),
        "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1 + LIGHT),
        "darker": lambda image: ImageEnhance.Brightness(image).enhance(1 - LIGHT),
    }
)


@torch.no_grad()
def cross_fitted(module: AnomalyModule, data: Any, folds: int, seed: int) -> list[dict[str, list[float]]]:
    """Scores by detectors whose statistics were refitted without one fold of the training normals each.

    A network that gradients trained is kept as it is: it has seen all training normals, only what `conclude` computes
    has not. Detectors without gradients are refitted whole.

    Args:
        module: Fitted, on the device.
        data: Datamodule of the fit.
        folds: How many, at least 2 and at most as many as there are training normals.
        seed: Of the division.

    Returns:
        For each fold scores of its training normals (`train`), of the held-out ones (`normals`) and of the good and
        defective test images.
    """
    train = list(data.statistics_dataloader())
    held_out, test = list(data.held_out_dataloader()), list(data.test_dataloader())
    labels = torch.cat([batch["label"] for batch in test])
    found, whole = [], module.model.detector
    try:
        for kept, left_out in fold_indices(sum(len(batch["index"]) for batch in train), folds, seed):
            module.model.detector = copy.deepcopy(whole)
            _refit(module, train, held_out, set(kept.tolist()))
            own = _scores(module, _chosen(train, set(left_out.tolist())))
            tested = _scores(module, test)
            sets = {"train": own, "normals": _scores(module, held_out), "good": tested[~labels]}
            found.append({name: scores.tolist() for name, scores in {**sets, "defective": tested[labels]}.items()})
    finally:
        module.model.detector = whole
    return found


def _refit(module: AnomalyModule, train: Sequence[Batch], held_out: Sequence[Batch], kept: set[int]) -> None:
    detector = module.model.detector
    normals = _inputs(module, lambda: _chosen(train, kept))
    if isinstance(detector, TrainedDetector):
        detector.conclude(normals, _inputs(module, lambda: held_out))
    else:
        detector.prepare(normals)


def _chosen(batches: Iterable[Batch], places: set[int]) -> Iterator[Batch]:
    """The images of some places in their set, batch by batch."""
    for batch in batches:
        rows = torch.tensor([place in places for place in batch["index"].tolist()])
        if rows.any():
            yield {name: values[rows] for name, values in batch.items()}


def _inputs(module: AnomalyModule, batches: Callable[[], Iterable[Batch]]) -> Repeated:
    return Repeated(lambda: (module.inputs(_moved(batch, module)) for batch in batches()))


def _scores(module: AnomalyModule, batches: Iterable[Batch]) -> Tensor:
    """Scores (N,) float on the CPU."""
    return torch.cat([module.model.scored(module.inputs(_moved(batch, module)))[0].cpu() for batch in batches])


def _moved(batch: Batch, module: AnomalyModule) -> Batch:
    return {name: values.to(module.device) for name, values in batch.items()}


@torch.no_grad()
def varied(module: AnomalyModule, samples: Sequence[Sample], transform: ImageTransform) -> dict[str, list[float]]:
    """Scores of normals whose images were changed a little, by the name of the change.

    Args:
        module: Fitted, on the device.
        samples: Held-out normals.
        transform: The run's.
    """
    images = [transform.read(sample.path) for sample in samples]
    return {name: [_scored(module, transform(change(image))) for image in images] for name, change in CHANGES.items()}


def _scored(module: AnomalyModule, image: Any) -> float:
    return float(module(torch.from_numpy(image)[None].to(module.device))[1])
