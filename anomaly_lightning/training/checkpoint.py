"""A checkpoint that needs nothing else to be loaded: weights of backbone and detector, thresholds, and the model card.

Files are loaded weights-only, so that none can run code, and only detectors of this package, or of one that the
caller names as trusted, are created from what a file says.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from anomaly_lightning.detectors.base import Detector, Spec
from anomaly_lightning.detectors.registry import create_detector
from anomaly_lightning.errors import CheckpointError, NotCalibratedError, UserError
from anomaly_lightning.features.backbone import Backbone
from anomaly_lightning.features.encoding import torch_dtype
from anomaly_lightning.features.extractor import FeatureExtractor
from anomaly_lightning.features.weights import RANDOM
from anomaly_lightning.localiser import Localiser
from anomaly_lightning.model import AnomalyModel
from anomaly_lightning.runtime.bundle import MANIFEST
from anomaly_lightning.runtime.card import DetectorCard, ModelCard
from anomaly_lightning.runtime.engines import wanted_threads
from anomaly_lightning.scoring import build_scoring
from anomaly_lightning.training.compiling import Run, compiled
from anomaly_lightning.training.module import CARD, FROZEN


def read_content(path: Path) -> tuple[dict[str, Any], ModelCard]:
    """All that a checkpoint file holds, and its card, loaded weights-only.

    Raises:
        CheckpointError: No such file, damaged, made by something else, or one that would need to run code.
    """
    if path.is_dir():
        what = "a bundle" if (path / MANIFEST).is_file() else "a folder"
        raise CheckpointError(
            f"{path} is {what}. Expected a checkpoint: a run leaves it in <run>/checkpoints/best.ckpt."
        )
    if not path.is_file():
        near = sorted(path.parent.glob("*.ckpt")) if path.parent.is_dir() else []
        there = f" There: {', '.join(p.name for p in near)}." if near else ""
        raise CheckpointError(f"There is no checkpoint {path}.{there} A run leaves it in <run>/checkpoints/best.ckpt.")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # an unpickler raises nearly anything on a file of something else
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path} is damaged, or would need to run code to be loaded: {reason}") from error
    if isinstance(content, dict) and "anomaly_lightning" in content:
        raise CheckpointError(f"{path} was written by an early version of anomaly_lightning: train again.")
    if not isinstance(content, dict) or not isinstance(content.get(CARD), dict):
        raise CheckpointError(f"{path} was not written by anomaly_lightning: it holds no model card.")
    return content, ModelCard.from_dict(content[CARD], str(path))


def load_model(path: Path, trust: Sequence[str] = ()) -> tuple[AnomalyModel, ModelCard]:
    """Model ready to score images, and its card.

    Args:
        path: A checkpoint of a run.
        trust: Further packages whose detectors may be created.

    Raises:
        CheckpointError: The file can't be used; the message says why.
        NotCalibratedError: Its run has not come to the calibration.
    """
    content, card = read_content(path)
    state: dict[str, Any] = content["state_dict"]
    if card.thresholds is None or not any(name.startswith(FROZEN) for name in state):
        raise NotCalibratedError  # written while fitting
    try:
        model = build_model(card, trust)
        model.load_state_dict({name.removeprefix("model."): value for name, value in state.items()})
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path} does not fit this version of anomaly_lightning: {error}") from error
    return model.eval(), card


def build_model(card: ModelCard, trust: Sequence[str] = ()) -> AnomalyModel:
    """Model as a card describes it, with random weights."""
    backbone = Backbone(**{**card.backbone.arguments, "weights": RANDOM, "pretrained": None})  # type: ignore[arg-type]
    backbone.arguments = dict(card.backbone.arguments)
    backbone.weights_sha256, backbone.weights_source = card.backbone.weights_sha256, card.backbone.weights_source
    extractor = FeatureExtractor(backbone, **card.features.arguments)  # type: ignore[arg-type]
    return assemble(card, extractor, trust)


def assemble(card: ModelCard, extractor: FeatureExtractor, trust: Sequence[str] = ()) -> AnomalyModel:
    """Model as a card describes it, on an extractor that is there already."""
    size = card.transform.size
    extractor.backbone.fit_to(size)
    spec = Spec(card.features.shape, size, extractor.scales(size))
    detector, dtype = _created(card.detector, trust), torch_dtype(card.features.dtype)
    detector.build(spec)
    grid = detector.grid(spec)
    scoring = build_scoring(card, grid)
    if card.localiser is None:
        return AnomalyModel(extractor, detector, scoring, dtype)
    if detector.inputs != "features":
        raise UserError(f"model={card.detector.name} sees no features: expected localiser=none.")
    packed, second = extractor.packed(), _created(card.localiser.detector, trust)
    seen = Spec(packed.shape(size), size, packed.scales(size))
    localiser = Localiser(second, card.localiser.floor, extractor.alignment, seen)
    return AnomalyModel(packed, detector, scoring, dtype, localiser, build_scoring(card, localiser.grid(grid)))


def _created(card: DetectorCard, trust: Sequence[str]) -> Detector:
    return create_detector({"_target_": card.target, **card.arguments}, trust)


class TorchEngine:
    """Runs a model for `runtime.inspector.Inspector`.

    Args:
        model: Fitted; moved to the device, and prepared for inference there.
        device: "auto" (a GPU where there is one), or a torch device.
        compile: Size (H, W) of the network's input to compile the model for; None = not to.

    Raises:
        UserError: There is no such device, or no compiler.
    """

    def __init__(self, model: AnomalyModel, device: str = "auto", compile: tuple[int, int] | None = None) -> None:
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            self.device = torch.device(device)
            self.model = model.to(self.device).eval()
        except (RuntimeError, AssertionError) as error:
            raise UserError(f"device={device} can't be used here: {str(error).splitlines()[0]}") from error
        extractor = self.model.extractor
        packs = self.device.type == "cpu" and compile is None and extractor.precision.name == "32"
        self.model.pack(packs)
        self._forward: Run = self.model if compile is None else compiled(self.model, self.device, compile)

    @classmethod
    def load(
        cls, path: Path, device: str, trust: Sequence[str], threads: int | None = None, compile: bool = False
    ) -> tuple[ModelCard, "TorchEngine"]:
        """Card and engine of a checkpoint; see `load_model` for what it raises.

        Args:
            path: A checkpoint of a run.
            device: As above.
            trust: Further packages whose detectors may be created.
            threads: Threads of torch in this process; None = as they are.
            compile: Whether torch compiles the model first.
        """
        model, card = load_model(path, trust)
        if threads is not None:
            torch.set_num_threads(wanted_threads(threads))
        return card, cls(model, device, card.transform.size if compile else None)

    @torch.inference_mode()
    def run(self, images: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Maps (B, H, W) and scores (B,), float32, of images (B, 3, H, W) float32."""
        maps, scores = self._forward(torch.from_numpy(images).to(self.device))
        return maps.float().cpu().numpy(), scores.float().cpu().numpy()
