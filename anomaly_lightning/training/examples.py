"""What a detector learns from besides normals: images of them with made defects, whose features are computed once."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain

import numpy as np
import pytorch_lightning as pl
import torch
from PIL import Image
from torch import Tensor

from anomaly_lightning.data.defects import DefectMaker, Made, Recipe
from anomaly_lightning.data.defects.normals import levels_of
from anomaly_lightning.detectors.base import TrainedDetector
from anomaly_lightning.errors import UserError
from anomaly_lightning.features.datamodule import FeatureDataModule
from anomaly_lightning.model import AnomalyModel
from anomaly_lightning.runtime.transform import ImageTransform

MOST_EACH = 8  # images made of one normal, so that a fit takes no more than so many times the features of its normals
AT_ONCE = 16


def serve_examples(data: pl.LightningDataModule, model: AnomalyModel, detector: TrainedDetector) -> None:
    """Let a datamodule serve, in place of the training normals, both them and images of them with made defects.

    Held-out normals are served as they are.

    Args:
        data: Of a fit; the trainer is attached.
        model: Whose features the examples are given as.
        detector: Asks for them; `prepare` was called.

    Raises:
        UserError: Features are not stored, so that they would be computed anew in every epoch.
        OSError: The disk is full.
    """
    if not isinstance(data, FeatureDataModule):
        raise UserError(
            f"model.examples={detector.examples}: made defects are kept as features for all epochs. Expected "
            "cache.mode=disk or cache.mode=memory, or model.examples=0."
        )
    device = next(model.parameters()).device
    for role, loader in (("train", data.statistics_dataloader), (data.splits.choosing, data.held_out_dataloader)):
        rows = (detector.condense(batch["features"].to(device)) for batch in loader())
        data.serve(role, chain(rows, _made(data, model, detector)) if role == "train" else rows)


def _made(data: FeatureDataModule, model: AnomalyModel, detector: TrainedDetector) -> Iterator[Tensor]:
    """Rows (B, ...) float of images with made defects, as `explain` gives them."""
    samples, device = data.splits.train, next(model.parameters()).device
    maker = DefectMaker(levels_of(samples, data.transform), len(samples), Recipe(**detector.recipe), data.images.seed)
    wanted = min(detector.examples, MOST_EACH * len(samples))
    places = [(number % len(samples), number // len(samples)) for number in range(wanted)]
    with ThreadPoolExecutor(max(1, data.workers)) as pool:
        for start in range(0, wanted, AT_ONCE):
            made = list(pool.map(lambda place: maker(*place), places[start : start + AT_ONCE]))
            images = torch.stack([_seen(one, data.transform) for one in made])
            masks = torch.from_numpy(np.stack([one.mask for one in made]))
            known = torch.ones(len(made), dtype=torch.bool, device=device)
            yield detector.explain(model.features(images.to(device)), masks.to(device), known)


def _seen(made: Made, transform: ImageTransform) -> Tensor:
    """A made image as the backbone expects it, (3, H, W) float32; it has the network's size already."""
    return torch.from_numpy(transform(Image.fromarray(made.image)))
