"""An exported model in the place of a trained one, so that `evaluate` says the same of both."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from anomaly_lightning.errors import NotCalibratedError
from anomaly_lightning.model import AnomalyModel
from anomaly_lightning.runtime.card import ModelCard
from anomaly_lightning.runtime.engines import ExportedEngine, load_engine
from anomaly_lightning.runtime.versions import resolve
from anomaly_lightning.scoring import build_scoring
from anomaly_lightning.training.checkpoint import load_model


class ExportedModel(nn.Module):
    """What an evaluation asks of an `AnomalyModel`, answered by the engine of a bundle; on the CPU's side of it.

    Args:
        engine: Of the bundle.
        card: Of the bundle.

    Raises:
        NotCalibratedError: The card has no thresholds.
    """

    threshold: Tensor
    pixel_threshold: Tensor

    def __init__(self, engine: ExportedEngine, card: ModelCard) -> None:
        super().__init__()
        if card.thresholds is None:
            raise NotCalibratedError
        self.engine = engine
        self.detector = SimpleNamespace(inputs="images")
        grid = engine.error_maps(np.zeros((1, 3, *card.transform.size), np.float32))[0].shape[1:]
        self.mapping = build_scoring(card, (int(grid[0]), int(grid[1])))
        self.register_buffer("threshold", torch.tensor(card.thresholds.score))
        self.register_buffer("pixel_threshold", torch.tensor(card.thresholds.pixel))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Anomaly maps (B, H, W) and scores (B,), float32, of images (B, 3, H, W) float32."""
        maps, scores = self.engine.run(images.cpu().numpy())
        return torch.from_numpy(maps), torch.from_numpy(scores)

    def inputs(self, images: Tensor) -> Tensor:
        """The images (B, 3, H, W) float32 as they are."""
        return images

    def scored(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (B,) and error maps (B, h, w), float32, of images (B, 3, H, W) float32."""
        error_maps, scores = self.engine.error_maps(images.cpu().numpy())
        return torch.from_numpy(scores), torch.from_numpy(error_maps)


def load_any(path: Path, trust: Sequence[str] = ()) -> tuple[AnomalyModel, ModelCard]:
    """Model and card of a checkpoint, or of the folder of an exported bundle; see `load_model` and `read_bundle`."""
    path = resolve(path)
    if not path.is_dir():
        return load_model(path, trust)
    card, engine = load_engine(path, "auto", trust)
    return cast(AnomalyModel, ExportedModel(cast(ExportedEngine, engine), card)), card
