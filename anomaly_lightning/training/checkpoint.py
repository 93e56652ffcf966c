"""A checkpoint that needs nothing else to be loaded: weights of backbone and detector, thresholds, and settings.

Files are loaded weights-only, so that none can run code, and only detectors of this package, or of one that the
caller names as trusted, are created from what a file says.
"""

import importlib
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from anomaly_lightning.detectors.base import Detector
from anomaly_lightning.errors import CheckpointError, NotCalibratedError, UserError
from anomaly_lightning.features.backbone import Backbone, FeatureExtractor
from anomaly_lightning.features.weights import RANDOM
from anomaly_lightning.runtime import card
from anomaly_lightning.runtime.region import Region
from anomaly_lightning.runtime.tiles import Tiling
from anomaly_lightning.runtime.transform import ImageTransform
from anomaly_lightning.scoring import RegionScoring, Scoring
from anomaly_lightning.training.module import FROZEN, AnomalyModule

KEY = "anomaly_lightning"
FORMAT = 1
TRUSTED = ("anomaly_lightning.detectors",)


def create_detector(config: Mapping[str, Any], trust: Sequence[str] = ()) -> Detector:
    """Detector of a plain config: `_target_` names the class, the other keys are its arguments.

    Args:
        config: Say {"_target_": "anomaly_lightning.detectors.pca.PCA", "variance": 0.97}.
        trust: Further packages whose detectors may be created.

    Raises:
        CheckpointError: The class is in no trusted package, or is no Detector.
    """
    module_name, _, class_name = str(config["_target_"]).rpartition(".")
    if not any(module_name == name or module_name.startswith(f"{name}.") for name in (*TRUSTED, *trust)):
        raise CheckpointError(
            f"The detector {module_name}.{class_name} is in no trusted package ({', '.join(TRUSTED)}). "
            f"If you trust it, say so with trust=[{module_name.partition('.')[0]}]."
        )
    try:
        kind = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError) as error:
        raise CheckpointError(f"There is no detector {config['_target_']} here ({error}).") from error
    if not (isinstance(kind, type) and issubclass(kind, Detector)):
        raise CheckpointError(f"{config['_target_']} is no Detector.")
    return kind(**{key: value for key, value in config.items() if key != "_target_"})


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Content of a checkpoint file, loaded weights-only.

    Raises:
        CheckpointError: No such file, damaged, made by something else, or one that would need to run code.
    """
    if not path.is_file():
        near = sorted(path.parent.glob("*.ckpt")) if path.parent.is_dir() else []
        there = f" There: {', '.join(p.name for p in near)}." if near else ""
        raise CheckpointError(f"There is no checkpoint {path}.{there} A run leaves it in <run>/checkpoints/best.ckpt.")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path} is damaged, or would need to run code to be loaded: {reason}") from error
    settings = content.get(KEY) if isinstance(content, dict) else None
    if not isinstance(settings, dict) or "format" not in settings:
        raise CheckpointError(f"{path} was not written by anomaly_lightning: it has no settings under {KEY!r}.")
    if settings["format"] != FORMAT:
        raise CheckpointError(f"{path} has format {settings['format']}, this version reads {FORMAT}.")
    return content


def load_module(path: Path, trust: Sequence[str] = ()) -> tuple[AnomalyModule, ImageTransform, dict[str, Any]]:
    """Module ready to score images, the transform for them, and what the run said of itself.

    Args:
        path: A checkpoint of a run.
        trust: Further packages whose detectors may be created.

    Raises:
        CheckpointError: The file can't be used; the message says why.
        NotCalibratedError: Its run has not come to the calibration.
    """
    content = read_checkpoint(path)
    settings = content[KEY]
    if not any(name.startswith(FROZEN) for name in content["state_dict"]):
        raise NotCalibratedError  # written while fitting
    try:
        backbone = Backbone(**{**settings["backbone"], "weights": RANDOM, "pretrained": None})
        extractor = FeatureExtractor(backbone, **settings["features"])
        detector = create_detector(settings["model"], trust)
        detector.build(tuple(settings["shape"]))
        transform = ImageTransform.from_card(msgspec.convert(settings["transform"], card.TransformCard))
        scoring = Scoring(**settings["scoring"])
        if settings.get("roi") is not None:
            region = Region.from_card(msgspec.convert(settings["roi"], card.RegionCard))
            scoring = RegionScoring.of(scoring, region, transform)
        module = AnomalyModule(extractor, detector, scoring, transform.size)
        module.load_state_dict(content["state_dict"])
    except (KeyError, TypeError, ValueError, RuntimeError, msgspec.ValidationError) as error:
        raise CheckpointError(f"{path} does not fit this version of anomaly_lightning: {error}") from error
    backbone.config = dict(settings["backbone"])
    backbone.weights_sha256, backbone.weights_source = settings["weights_sha256"], settings["weights_source"]
    module.settings = settings
    return module.eval(), transform, settings


def card_of(module: AnomalyModule, settings: Mapping[str, Any]) -> card.ModelCard:
    """The model card that a module's thresholds and its run's settings make."""
    data, model, threshold = settings.get("data", {}), settings["model"], float(module.threshold)
    tile, review = data.get("tile"), module.calibration.get("review")
    parts: dict[str, Any] = {
        "backbone": {
            "name": settings["backbone"]["name"],
            "arguments": settings["backbone"],
            "weights_sha256": settings["weights_sha256"],
            "weights_source": settings["weights_source"],
        },
        "features": {
            "arguments": settings["features"],
            "dtype": data.get("cache_dtype", "float32"),
            "shape": settings["shape"],
        },
        "detector": {"target": model["_target_"], "arguments": {k: v for k, v in model.items() if k != "_target_"}},
        "data": {
            "fingerprint": "",
            "places": data,
            "split": settings["split"],
            "validation_share": data.get("validation_share", 0.0),
            "seed": settings["seed"],
        },
        "region": settings.get("roi"),
        "tiling": None if tile is None else Tiling.from_config(tile, data["tile_overlap"]).card().to_dict(),
    }
    if not np.isnan(threshold):
        parts["thresholds"] = {"score": threshold, "pixel": float(module.pixel_threshold), "review": review}
    same = {key: settings[key] for key in ("version", "category", "seed", "transform", "scoring")}
    same["validity"] = settings.get("validity")
    return card.ModelCard.from_dict({"schema": card.SCHEMA, **same, **parts})


class TorchEngine:
    """Runs a module for `runtime.inspector.Inspector`.

    Args:
        module: Fitted; moved to the device.
        device: "auto" (a GPU where there is one), or a torch device.

    Raises:
        UserError: There is no such device.
    """

    def __init__(self, module: AnomalyModule, device: str = "auto") -> None:
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            self.module = module.to(torch.device(device)).eval()
        except (RuntimeError, AssertionError) as error:
            raise UserError(f"device={device} can't be used here: {str(error).splitlines()[0]}") from error

    @classmethod
    def load(cls, path: Path, device: str, trust: Sequence[str]) -> tuple[card.ModelCard, "TorchEngine"]:
        """Card and engine of a checkpoint; see `load_module` for what it raises."""
        module, _, settings = load_module(path, trust)
        return card_of(module, settings), cls(module, device)

    @torch.inference_mode()
    def run(self, images: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Maps (B, H, W) and scores (B,), float32, of images (B, 3, H, W) float32."""
        maps, scores = self.module(torch.from_numpy(images).to(self.module.device))
        return maps.float().cpu().numpy(), scores.float().cpu().numpy()
