"""What all routes share: the models, the queue before them, and what is counted and noted of each decision."""

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from fastapi import Depends, Request

from anomaly_lightning.errors import DataError, UserError
from anomaly_lightning.runtime.damage import TooLargeError
from anomaly_lightning.serving.admission import Ticket, WorkQueue
from anomaly_lightning.serving.drifts import Drifts
from anomaly_lightning.serving.inspecting import Inspected, Note
from anomaly_lightning.serving.metrics import Metrics
from anomaly_lightning.serving.models import Model, Models
from anomaly_lightning.serving.problems import Problem
from anomaly_lightning.serving.recent import Recent
from anomaly_lightning.serving.reviewing import Reviewing
from anomaly_lightning.serving.settings import Settings
from anomaly_lightning.serving.waiting import outcomes

logger = logging.getLogger(__name__)

FAULT = "Something is wrong with the service itself: its log says what."
Job = Callable[[], tuple[Inspected, Any]]


@dataclass(frozen=True)
class Service:
    """One service.

    Attributes:
        secret: Token of clients that may do all; None = nobody has to show one.
        read_secret: Token of clients that may only look; None = there are none.
        reviewing: Keeps the decisions; None = nothing is kept.
    """

    settings: Settings
    secret: str | None
    read_secret: str | None
    models: Models
    queue: WorkQueue
    metrics: Metrics
    recent: Recent
    reviewing: Reviewing | None
    drifts: Drifts
    _reloading: threading.Lock = field(default_factory=threading.Lock)

    @property
    def note(self) -> Note | None:
        """What records a decision."""
        return None if self.reviewing is None else self.reviewing.note

    async def inspect(
        self, request: Request, ticket: Ticket, model: Model, jobs: Sequence[Job], names: Sequence[str]
    ) -> list[tuple[Inspected, Any] | DataError]:
        """Do the jobs of a request, one an image: what `inspecting.job` returns, or why an image can't be inspected.

        Raises:
            Problem: The queue is full, the time is up, or the client has gone.
        """
        done: list[tuple[Inspected, Any] | DataError] = []
        watched = [self.drifts.watched(model, job) for job in jobs]
        results = await outcomes(ticket.submit(watched), request, ticket, self.settings.timeout_s)
        for name, result in zip(names, results, strict=True):
            if isinstance(result, DataError):
                self.metrics.refused(model)
                done.append(result)
                continue
            if isinstance(result, BaseException):
                logger.error("model %s failed on %s", model.name, name, exc_info=result)
                raise Problem(500, FAULT)
            self.metrics.inspected(model, result[0].said.verdict, result[0].seconds)
            self.recent.add(model, name, result[0].said)
            done.append(result)
        return done

    def reload(self, name: str) -> Model:
        """Load a model again; blocks. See `Models.reload` for what it raises."""
        with self._reloading:  # what is counted and watched is what is served last
            before = self.models.get(name)
            try:
                model = self.models.reload(name)
            except UserError:
                self.metrics.failed_load(before)
                raise
            self.metrics.serving(model, before)
            self.drifts.serving(model)
        return model

    def describe(self, model: Model) -> dict[str, Any]:
        """What a person or a program has to know of a model now, as plain JSON values."""
        return {**model.describe(), "drift": self.drifts.status(model)}


def status_of(error: DataError) -> int:
    """HTTP status of an image that can't be inspected."""
    return 413 if isinstance(error, TooLargeError) else 422


async def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


TheService = Annotated[Service, Depends(_service)]
