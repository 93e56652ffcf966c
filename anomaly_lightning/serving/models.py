"""The models that are served, by name, and how one takes another's place."""

import hashlib
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from anomaly_lightning.errors import UserError
from anomaly_lightning.runtime.inspector import Inspector
from anomaly_lightning.runtime.promise import promise
from anomaly_lightning.runtime.versions import base_of, resolve
from anomaly_lightning.serving.problems import Problem

logger = logging.getLogger(__name__)

Load = Callable[[Path], Inspector]
CONTENTS = "bundle.json"  # holds the hash of every file of a bundle


@dataclass(frozen=True)
class Model:
    """One model that is ready to be asked; never changed, only replaced.

    Attributes:
        name: What clients call it.
        path: What it was loaded from, as it was named: `@latest` stays that.
        id: First 16 digits of the sha256 of the checkpoint, or of the bundle's table of contents.
        since: When it was loaded, ISO 8601 in UTC.
        inspector: Does the work; safe to be called from several threads.
        version: Of a bundle: 1, or what stands behind @; None = it is no bundle.
    """

    name: str
    path: Path
    id: str
    since: str
    inspector: Inspector
    version: str | None = None

    def describe(self) -> dict[str, Any]:
        """What a person or a program has to know of it, as plain JSON values."""
        card, known = self.inspector.card, self.inspector.thresholds
        return {
            "name": self.name,
            "id": self.id,
            "loaded": self.since,
            "category": card.category,
            "detector": card.detector.target.rpartition(".")[2],
            "backbone": card.backbone.name,
            "input_size": list(card.transform.size),
            "tiled": card.tiling is not None,
            "threshold": known.score,
            "pixel_threshold": known.pixel,
            "review": known.review,
            "promise": promise(known.promise),
            "rests_on": known.promise.get("rests_on") or [],
        }


class Models:
    """Loads models and hands them out by name.

    Args:
        bundles: What the user named: a path, several, or names with paths.
        load: Makes an inspector of a path.

    Raises:
        UserError: Two models would go by one name, or one can't be loaded.
    """

    def __init__(self, bundles: str | Sequence[str] | Mapping[str, str], load: Load) -> None:
        self._load, self._loading = load, threading.Lock()
        self._models: dict[str, Model] = {}
        for name, path in _listed(bundles):
            model = self._ready(name, Path(path).expanduser())
            if model.name in self._models:
                raise UserError(
                    f"{self._models[model.name].path} and {path} are both called {model.name!r}. Name them: "
                    f"bundle={{left: {self._models[model.name].path}, right: {path}}}"
                )
            self._models[model.name] = model
        if not self._models:
            raise UserError("bundle=[] names no model: expected a checkpoint or bundle, or several.")

    def all(self) -> list[Model]:
        """Every model, in the order that they were named in."""
        return list(self._models.values())

    def get(self, name: str | None) -> Model:
        """The model of a name, or the only one; raises `Problem` 404 where there is no such, 400 where it is open."""
        if name is None:
            if len(self._models) > 1:
                raise Problem(400, f"Several models are served: say which with ?model=, one of {self._names()}.")
            return self.all()[0]
        if name not in self._models:
            raise Problem(404, f"There is no model {name!r} here; there: {self._names()}.")
        return self._models[name]

    def reload(self, name: str) -> Model:
        """Load a model again from where it lies; requests that came before are answered by the one before.

        Raises:
            Problem: 404, there is no such model.
            UserError: It can't be loaded; the one before stays.
        """
        path = self.get(name).path
        with self._loading:  # one at a time: each may need as much memory as the one that it replaces
            model = self._ready(name, path)
            self._models[name] = model
        logger.info("model %s is now %s, from %s", name, model.id, path)
        return model

    def _ready(self, name: str | None, path: Path) -> Model:
        folder = resolve(path)  # anew at every load: what @latest names may be another by now
        identity = _identity(folder)
        inspector = self._load(folder)
        warm_up(inspector)
        called = inspector.card.category if name is None else name
        if not called or "/" in called:
            raise UserError(f"{called!r} can't be a model's name in a URL. Name it: bundle={{name: {path}}}")
        now = datetime.now(UTC).isoformat(timespec="seconds")
        return Model(called, path, identity, now, inspector, _version(folder))

    def _names(self) -> str:
        return ", ".join(self._models)


def warm_up(inspector: Inspector) -> None:
    """Run the network once: the first run allocates memory, and shows at once whether it runs at all."""
    inspector.engine.run(np.zeros((1, 3, *inspector.card.transform.size), np.float32))


def _listed(bundles: str | Sequence[str] | Mapping[str, str]) -> list[tuple[str | None, str]]:
    if isinstance(bundles, str):
        return [(None, bundles)]
    if isinstance(bundles, Mapping):
        return [(str(name), str(path)) for name, path in bundles.items()]
    return [(None, str(path)) for path in bundles]


def _version(folder: Path) -> str | None:
    """See `Model.version`."""
    return folder.name.removeprefix(base_of(folder).name).lstrip("@") or "1" if folder.is_dir() else None


def _identity(path: Path) -> str:
    """See `Model.id`; raises `UserError` where nothing is there."""
    file = path / CONTENTS if path.is_dir() else path
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()[:16]
    except OSError as error:
        raise UserError(
            f"bundle={path} can't be read: {error.strerror}. Expected a run's best.ckpt or an exported bundle."
        ) from error
