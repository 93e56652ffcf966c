"""What computes maps and scores from the network's input: named here, imported only when it is needed."""

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from anomaly_lightning.errors import CheckpointError, MissingExtraError
from anomaly_lightning.runtime.card import ModelCard

# By the suffix of what is loaded. Each class has `load(path, device, trust) -> (ModelCard, Engine)`.
ENGINES = {".ckpt": "anomaly_lightning.training.checkpoint:TorchEngine"}


class Engine(Protocol):
    """A trained network, on whatever runs it."""

    def run(self, images: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Anomaly maps and scores of a batch.

        Args:
            images: (B, 3, H, W) float32 as `ImageTransform` makes them.

        Returns:
            Maps (B, H, W) and scores (B,), float32, raw errors.
        """


def load_engine(path: Path, device: str, trust: Sequence[str]) -> tuple[ModelCard, Engine]:
    """The card of a trained model and what runs it.

    Raises:
        CheckpointError: It is no model, or can't be used.
        MissingExtraError: What runs such a file is not installed.
        UserError: There is no such device.
    """
    if path.suffix not in ENGINES:
        raise CheckpointError(f"{path} is no model: expected a file that ends in {' or '.join(ENGINES)}.")
    module, _, name = ENGINES[path.suffix].partition(":")
    try:
        engine: Any = getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        raise MissingExtraError(str(path), error.name) from error
    loaded: tuple[ModelCard, Engine] = engine.load(path, device, trust)
    return loaded
