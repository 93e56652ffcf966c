"""Tell good parts from defective ones by images of good parts alone, and see where the defect is."""

import importlib
from typing import TYPE_CHECKING, Any

from anomaly_lightning.errors import MissingExtraError, UserError

if TYPE_CHECKING:
    from anomaly_lightning.deploy.api import export
    from anomaly_lightning.detectors.base import Detector
    from anomaly_lightning.features.backbone import Backbone
    from anomaly_lightning.runtime.card import ModelCard
    from anomaly_lightning.runtime.inspection import Inspection
    from anomaly_lightning.runtime.inspector import Inspector
    from anomaly_lightning.training.api import evaluate, fit

__version__ = "0.1.0"
__all__ = ["Backbone", "Detector", "Inspection", "Inspector", "ModelCard", "UserError", "evaluate", "export", "fit"]

# Imported when they are asked for, so that the import of the package needs no torch and takes no time. `evaluate`
# and `export` are the functions as long as nobody imports the commands of that name, which nobody should.
_PLACES = {
    "Backbone": "features.backbone",
    "Detector": "detectors.base",
    "Inspection": "runtime.inspection",
    "Inspector": "runtime.inspector",
    "ModelCard": "runtime.card",
    "evaluate": "training.api",
    "export": "deploy.api",
    "fit": "training.api",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(importlib.import_module(f"{__name__}.{_PLACES[name]}"), name)
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"{__name__}.{name}", error.name) from error


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
