"""What a service keeps of its decisions: where, by which policy, and what is counted of it."""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from anomaly_lightning.errors import ReviewError
from anomaly_lightning.review.keeping import ImageKeeper
from anomaly_lightning.review.recording import Recorder
from anomaly_lightning.review.store import ReviewStore
from anomaly_lightning.runtime.inspection import Inspection
from anomaly_lightning.runtime.versions import base_of
from anomaly_lightning.serving.metrics import Metrics
from anomaly_lightning.serving.models import Model
from anomaly_lightning.serving.settings import AUTO, Settings

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reviewing:
    """The store of a service. Its methods block, and may be called from any thread."""

    recorder: Recorder
    metrics: Metrics

    @property
    def store(self) -> ReviewStore:
        """Decisions and marks."""
        return self.recorder.store

    @property
    def keeper(self) -> ImageKeeper:
        """Their images."""
        return self.recorder.keeper

    def note(self, model: Model, name: str, source: bytes | NDArray[np.uint8], said: Inspection) -> int | None:
        """Record a decision; returns its number, None where that failed: the answer does not depend on it."""
        try:
            return self.recorder(model.name, model.id, name, source, said, model.version)
        except ReviewError as error:
            self.metrics.unrecorded(model)
            logger.error("a decision on %s is not recorded: %s", name, error)
            return None


def reviewing_of(settings: Settings, models: Sequence[Model], metrics: Metrics) -> Reviewing | None:
    """What settings ask for; None = nothing is kept.

    Raises:
        ReviewError: The store can't be opened. Where its place was not chosen, that is said in the log instead.
    """
    if settings.marks is None:
        return None
    place = beside(models[0].path) if settings.marks == AUTO else Path(settings.marks)
    try:
        store = ReviewStore(place, create=True)
    except ReviewError as error:
        if settings.marks != AUTO or place.exists():
            raise
        logger.warning("decisions are not kept for review: %s marks=<file> names another place.", error)
        return None
    keeper = ImageKeeper(store, settings.keep, settings.keep_bytes)
    keeper.trim()
    metrics.gauge("anomaly_kept_bytes", "Kept images, bytes on the disk", lambda: _kept(store, "bytes"))
    metrics.gauge("anomaly_kept_bytes_limit", "Bytes from which on they are deleted", lambda: keeper.max_bytes)
    metrics.gauge("anomaly_kept_removed", "Images deleted because of the limit", lambda: _kept(store, "removed"))
    return Reviewing(Recorder(keeper), metrics)


def beside(bundle: Path) -> Path:
    """Where the store of a bundle lies that was given no place; all versions of a bundle have one."""
    whole = base_of(bundle.absolute())
    return whole.with_name(f"{whole.name}.review") / "marks.db"


def _kept(store: ReviewStore, what: Literal["bytes", "removed"]) -> float:
    """A count of the store; NaN where it can't be read, which must not cost the other metrics."""
    try:
        return float(getattr(store.kept(), what))
    except ReviewError:
        return math.nan
