"""From plain values that name classes to a detector; only classes of trusted packages are created."""

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from anomaly_lightning.detectors.base import Detector
from anomaly_lightning.errors import CheckpointError

TRUSTED = ("anomaly_lightning.detectors",)


def create_detector(config: Mapping[str, Any], trust: Sequence[str] = ()) -> Detector:
    """Detector of a plain config: `_target_` names the class, the other keys are its arguments.

    Arguments may be blocks with a `_target_` of their own: the parts that a detector is composed of.

    Args:
        config: Say {"_target_": "anomaly_lightning.detectors.pca.PCA", "variance": 0.97}.
        trust: Further packages whose classes may be created.

    Raises:
        CheckpointError: A class is in no trusted package, or the outermost is no Detector.
    """
    detector = _create(config, (*TRUSTED, *trust), Detector)
    assert isinstance(detector, Detector)
    return detector


def _create(config: Mapping[str, Any], trusted: Sequence[str], wanted: type[nn.Module]) -> nn.Module:
    """Module of a block of plain values, its parts first."""
    module_name, _, class_name = str(config["_target_"]).rpartition(".")
    if not any(module_name == name or module_name.startswith(f"{name}.") for name in trusted):
        raise CheckpointError(
            f"The detector {module_name}.{class_name} is in no trusted package ({', '.join(trusted)}). "
            f"If you trust it, pass trust=[{module_name.partition('.')[0]}]."
        )
    try:
        kind = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError) as error:
        raise CheckpointError(f"There is no detector {config['_target_']} here ({error}).") from error
    if not (isinstance(kind, type) and issubclass(kind, wanted)):
        raise CheckpointError(f"{config['_target_']} is not a {wanted.__name__}.")
    arguments = {key: value for key, value in config.items() if key != "_target_"}
    parts = {key: value for key, value in arguments.items() if isinstance(value, Mapping) and "_target_" in value}
    return kind(**{**arguments, **{key: _create(value, trusted, nn.Module) for key, value in parts.items()}})
