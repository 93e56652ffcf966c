"""Counts and durations for Prometheus."""

from collections.abc import Callable, Mapping

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.registry import Collector

from anomaly_lightning.runtime.decision import VERDICTS
from anomaly_lightning.serving.admission import WorkQueue
from anomaly_lightning.serving.models import Model

SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
FORMAT = CONTENT_TYPE_LATEST
disable_created_metrics()  # a second series beside each, which Prometheus does not read by default


class Metrics:
    """All metrics of one service."""

    def __init__(self, queue: WorkQueue) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)  # CPU time and memory; on Linux only
        self._verdicts = self._counter("anomaly_images", "Images by verdict", ("model", "verdict"))
        self._refused = self._counter("anomaly_images_refused", "Images that are broken or too large", ("model",))
        self._unrecorded = self._counter("anomaly_decisions_unrecorded", "Decisions that were not kept", ("model",))
        self._requests = self._counter("anomaly_requests", "Requests by route and status", ("route", "status"))
        self._duration = self._histogram("anomaly_request_seconds", "From a request's head to its answer", ("route",))
        self._stages = self._histogram("anomaly_stage_seconds", "Parts of the work on an image", ("model", "stage"))
        self._loads = self._counter("anomaly_model_loads", "Loads of a model, by outcome", ("model", "outcome"))
        self._info = Gauge("anomaly_model_info", "1 for what is served", ("model", "id"), registry=self._registry)
        self.gauge("anomaly_queue_length", "Images that wait or are worked on", lambda: queue.length)
        self.gauge("anomaly_queue_capacity", "Images that may be inside at once", lambda: queue.capacity)

    def serving(self, model: Model, before: Model | None = None) -> None:
        """A model has been loaded, perhaps in the place of another."""
        if before is not None and before.id != model.id:
            self._info.remove(before.name, before.id)
        self._info.labels(model.name, model.id).set(1)
        self._loads.labels(model.name, "ok").inc()
        for verdict in VERDICTS:  # from 0 on, so that a rate is right from the first image
            self._verdicts.labels(model.name, verdict)
        self._unrecorded.labels(model.name)

    def failed_load(self, model: Model) -> None:
        """A model could not be loaded again."""
        self._loads.labels(model.name, "failed").inc()

    def inspected(self, model: Model, verdict: str, seconds: Mapping[str, float]) -> None:
        """An image got its verdict."""
        self._verdicts.labels(model.name, verdict).inc()
        for stage, spent in seconds.items():
            self._stages.labels(model.name, stage).observe(spent)

    def refused(self, model: Model) -> None:
        """An image got none."""
        self._refused.labels(model.name).inc()

    def unrecorded(self, model: Model) -> None:
        """A decision could not be recorded."""
        self._unrecorded.labels(model.name).inc()

    def request(self, route: str, status: int, seconds: float) -> None:
        """A request was answered."""
        self._requests.labels(route, str(status)).inc()
        self._duration.labels(route).observe(seconds)

    def register(self, collector: Collector) -> None:
        """Let Prometheus read what another part of the service knows."""
        self._registry.register(collector)

    def text(self) -> bytes:
        """All of them in Prometheus' text format."""
        return generate_latest(self._registry)

    def _counter(self, name: str, what: str, labels: tuple[str, ...]) -> Counter:
        return Counter(name, what, labels, registry=self._registry)

    def _histogram(self, name: str, what: str, labels: tuple[str, ...]) -> Histogram:
        return Histogram(name, what, labels, buckets=SECONDS, registry=self._registry)

    def gauge(self, name: str, what: str, value: Callable[[], float]) -> None:
        """A number that is asked for when it is read."""
        Gauge(name, what, registry=self._registry).set_function(value)
