"""The last decisions, in memory: what a person who opens the page has missed."""

import itertools
from collections import deque
from datetime import UTC, datetime
from typing import Any

from anomaly_lightning.runtime.inspection import Inspection
from anomaly_lightning.serving.inspecting import number
from anomaly_lightning.serving.models import Model


class Recent:
    """A ring of decisions, the newest last. For one thread, the event loop's.

    Args:
        size: How many are kept.
    """

    def __init__(self, size: int) -> None:
        self._kept: deque[dict[str, Any]] = deque(maxlen=size)
        self._numbers = itertools.count(1)

    def add(self, model: Model, name: str, said: Inspection) -> None:
        """Note one decision."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        known = {"number": next(self._numbers), "time": now, "model": model.name, "name": name}
        decided = {"verdict": said.verdict, "score": number(said.score), "threshold": said.threshold}
        self._kept.append({**known, **decided, "reason": said.reason})

    def after(self, number: int) -> list[dict[str, Any]]:
        """Decisions with a larger number, oldest first."""
        return [entry for entry in self._kept if entry["number"] > number]
