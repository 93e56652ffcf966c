"""Scores of more normals than are held out, so that rules that would use them can be compared on stored rows."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageEnhance
from torch import Tensor

from anomaly_lightning.data.samples import Sample
from anomaly_lightning.runtime.transform import ImageTransform
from anomaly_lightning.training.cross_fitting import chosen, refits, score
from anomaly_lightning.training.module import AnomalyModule

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
def by_fold(module: AnomalyModule, data: Any, folds: int, seed: int) -> list[dict[str, list[float]]]:
    """Scores by detectors whose statistics were refitted without one fold of the training normals each.

    Args:
        module: Fitted, on the device.
        data: Datamodule of the fit.
        folds: How many; see `training.cross_fitting`.
        seed: Of the division.

    Returns:
        For each fold, on the scale of its own detector, scores of its training normals (`train`), of the held-out ones
        (`normals`) and of the good and defective test images.
    """
    labels = torch.cat([batch["label"] for batch in data.test_dataloader()])
    found = []
    for left_out in refits(module, data, len(data.splits.train), folds, seed):
        tested = score(module, data.test_dataloader())
        sets: dict[str, Tensor] = {
            "train": score(module, chosen(data.statistics_dataloader(), left_out)),
            "normals": score(module, data.held_out_dataloader()),
            "good": tested[~labels],
            "defective": tested[labels],
        }
        found.append({name: scores.tolist() for name, scores in sets.items()})
    return found


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
