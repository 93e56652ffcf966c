"""Inference and output: from a waiting part to its line, in two threads with a bounded queue between them."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from queue import Empty, Queue
from threading import Event
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from anomaly_lightning.deploy.line.intake import Intake
from anomaly_lightning.deploy.line.ledger import Ledger
from anomaly_lightning.deploy.line.part import Outcome, Part
from anomaly_lightning.deploy.line.waiting import LOOK_S, put
from anomaly_lightning.errors import DataError
from anomaly_lightning.runtime.drift_watch import DriftWatch
from anomaly_lightning.runtime.inspection import Inspection

logger = logging.getLogger(__name__)

Images = list[Image.Image | NDArray[np.uint8]]
Inspect = Callable[[Images], list[Inspection | DataError]]
Result = tuple[Part, Inspection | Exception]


class Pulse:
    """Tells whether a thread is stuck in one piece of work.

    Attributes:
        busy_s: Seconds of work so far.
    """

    def __init__(self) -> None:
        self._since: float | None = None
        self.busy_s = 0.0

    @contextmanager
    def work(self) -> Iterator[None]:
        """What happens inside is one piece of work."""
        self._since = start = time.monotonic()
        try:
            yield
        finally:
            self._since = None
            self.busy_s += time.monotonic() - start

    def stuck_s(self) -> float:
        """Seconds since the present piece of work began; 0 = none."""
        since = self._since
        return 0.0 if since is None else time.monotonic() - since


class Inference:
    """Hands waiting parts to the model.

    Args:
        inspect: What is said of each of several images.
        intake: Where parts wait.
        results: Where they go.
        batch_size: Parts that are scored at once, where so many wait.
        dead: Set where the line can't go on.

    Attributes:
        inspected: Parts that the model saw.
    """

    def __init__(self, inspect: Inspect, intake: Intake, results: Queue[Result], batch_size: int, dead: Event) -> None:
        self.inspect, self.intake, self.results, self.batch_size = inspect, intake, results, batch_size
        self._dead, self.pulse, self.inspected = dead, Pulse(), 0

    def run(self) -> None:
        """Work until the intake is closed and empty."""
        while (parts := self.intake.take(self.batch_size)) is not None:
            due = [part for part in parts if self.intake.ledger.is_open(part.id)]
            if not due:
                continue
            with self.pulse.work():
                found = self._inspect(due)
            self.inspected += len(due)
            for result in zip(due, found, strict=True):
                put(self.results, result, self._dead)

    def _inspect(self, parts: list[Part]) -> list[Inspection | Exception]:
        """What is said of each part; whatever the model does on one of them costs that one alone."""
        try:
            return list(self.inspect([part.image for part in parts if part.image is not None]))
        except Exception as error:
            if len(parts) > 1:
                return [said for part in parts for said in self._inspect([part])]
            logger.exception("The model failed on part %s", parts[0].id)
            return [error]


class Output:
    """Writes images and lines.

    Args:
        results: What the model said.
        ledger: Where the lines go.
        images: Writes the images of a part, given what was said and their path without suffix.
        which: Decisions whose images are written.
        dead: Set where the line can't go on.
        watch: Sees every inspection, and says whether an alarm of drift stands; None = nobody looks.
    """

    def __init__(
        self,
        results: Queue[Result],
        ledger: Ledger,
        images: Callable[[Inspection, Path], None],
        which: tuple[str, ...],
        dead: Event,
        watch: DriftWatch | None = None,
    ) -> None:
        self._watch = watch
        self.results, self.ledger, self._images, self._which, self._dead = results, ledger, images, which, dead
        self.pulse, self._closed = Pulse(), Event()

    def run(self) -> None:
        """Work until told that nothing more will come, and all is written."""
        while not self._dead.is_set():
            try:
                part, said = self.results.get(timeout=LOOK_S)
            except Empty:
                if self._closed.is_set() and self.results.empty():
                    return
                continue
            with self.pulse.work():
                self._write(part, said)

    def close(self) -> None:
        """Say that no more results will come."""
        self._closed.set()

    def _write(self, part: Part, said: Inspection | Exception) -> None:
        """Write a part's images, then its line: whoever reads the line finds the images."""
        if isinstance(said, Exception):
            words = str(said) if isinstance(said, DataError) else f"the model failed: {type(said).__name__}: {said}"
            self.ledger.decide(part, Outcome("failed", error=words))
            return
        fields = dict(fields_of(said))
        if self._watch is not None:
            fields["drift"] = self._watch.take(said)
        if said.verdict in self._which and self.ledger.is_open(part.id):
            name = part.file or part.id
            self._images(said, Path(name))
            fields["heatmap"] = f"heatmaps/{name}.png"
        self.ledger.decide(part, Outcome("verdict", fields, said.verdict))


def fields_of(said: Inspection) -> Mapping[str, Any]:
    """What a line says of a part that has a verdict."""
    regions = [{"box": list(region.box), "area": region.area, "peak": region.peak} for region in said.regions]
    finite = said.score if np.isfinite(said.score) else None
    return {"score": finite, "threshold": said.threshold, "regions": regions, "reason": said.reason}
