"""What computes maps and scores from the network's input: named here, imported only when it is needed."""

import importlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from anomaly_lightning.errors import CheckpointError, MissingExtraError, UserError
from anomaly_lightning.runtime.bundle import Bundle, read_bundle
from anomaly_lightning.runtime.card import ModelCard
from anomaly_lightning.runtime.versions import resolve

# Each class has `load(path, device, trust, threads) -> (ModelCard, Engine)`.
CHECKPOINT = "anomaly_lightning.training.checkpoint:TorchEngine"
# By the format of a bundle; each class is made of a bundle, a device and a number of threads.
BUNDLES = {
    "onnx": "anomaly_lightning.runtime.onnx_engine:OnnxEngine",
    "openvino": "anomaly_lightning.runtime.openvino_engine:OpenVinoEngine",
}


class Engine(Protocol):
    """A trained network, on whatever runs it."""

    def run(self, images: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Anomaly maps and scores of a batch.

        Args:
            images: (B, 3, H, W) float32 as `ImageTransform` makes them.

        Returns:
            Maps (B, H, W) and scores (B,), float32, raw errors.
        """


class ExportedEngine(Engine, Protocol):
    """The network of a bundle, which gives its error maps, too."""

    def error_maps(self, images: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Error maps and scores of a batch.

        Args:
            images: (B, 3, H, W) float32.

        Returns:
            Error maps (B, h, w) and scores (B,), float32, raw errors.
        """


def load_engine(
    path: Path, device: str, trust: Sequence[str], threads: int | None = None, compile: bool = False
) -> tuple[ModelCard, Engine]:
    """The card of a trained model and what runs it.

    Args:
        path: A run's best.ckpt, or the folder of an exported bundle; `@2` or `@latest` behind it names a version.
        device: "auto", or what the engine calls a device.
        trust: Further packages whose detectors may be created from what a checkpoint says.
        threads: For one forward on the CPU; None = the engine's own choice.
        compile: Whether torch compiles the model of a checkpoint first.

    Raises:
        CheckpointError: It is no model, or can't be used.
        MissingExtraError: What runs it is not installed.
        UserError: There is no such device, no compiler, or nothing to compile.
    """
    path = resolve(path)
    if path.suffix == ".ckpt" and not path.is_dir():
        loaded: tuple[ModelCard, Engine] = _named(CHECKPOINT, str(path), "train").load(
            path, device, trust, threads, compile
        )
        return loaded
    if not path.is_dir():
        raise CheckpointError(
            f"{path} is no model: expected a file that ends in .ckpt, or the folder of an exported bundle."
        )
    if compile:
        raise UserError(f"compile=true is for a checkpoint; {path} is a bundle, which is compiled when it is loaded.")
    bundle = read_bundle(path)
    return bundle.manifest.card, bundle_engine(bundle, device, threads)


def bundle_engine(bundle: Bundle, device: str, threads: int | None = None) -> Engine:
    """What runs a bundle that was read; arguments and errors as those of `load_engine`."""
    known = bundle.manifest.format
    engine: Engine = _named(BUNDLES[known], str(bundle.folder), known)(bundle, device, threads)
    return engine


def wanted_threads(threads: int | None) -> int:
    """Threads for one forward; 0 lets the engine choose."""
    if threads is not None and threads < 1:
        raise UserError(f"threads={threads}: expected 1 or more, or null for one a core.")
    given = os.environ.get("OMP_NUM_THREADS", "")
    return threads or (int(given) if given.isdigit() else 0)


def _named(place: str, what: str, extra: str) -> Any:
    """A class by "module:name", imported only now."""
    module, _, name = place.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        raise MissingExtraError(what, error.name, extra) from error
