"""The drift monitors of the models that are served: fed by the workers, read by the page, Prometheus and the API."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from anomaly_lightning.runtime.drift import IMAGES_PER_ALARM, Restart
from anomaly_lightning.runtime.drift_cause import CAUSES
from anomaly_lightning.runtime.drift_watch import DriftWatch
from anomaly_lightning.runtime.names import folder_name
from anomaly_lightning.serving.inspecting import Inspected
from anomaly_lightning.serving.models import Model

Job = Callable[[], tuple[Inspected, Any]]


@dataclass(frozen=True, kw_only=True)
class DriftSettings:
    """The block `drift` of conf/serve.yaml, where it is explained."""

    watch: bool = True
    images_per_alarm: int = IMAGES_PER_ALARM
    state: str | None = None


class Drifts(Collector):
    """One watch for each model, by its name.

    Args:
        settings: Of the service.
    """

    def __init__(self, settings: DriftSettings) -> None:
        self.settings = settings
        self._watches: dict[str, DriftWatch] = {}

    def serving(self, model: Model) -> None:
        """A model has been loaded; where it is the one before, its watch goes on."""
        card, known, before = model.inspector.card.drift, self.settings, self._watches.get(model.name)
        if before is not None and before.card == card:
            return
        file = None if known.state is None else Path(known.state) / f"{folder_name(model.name)}.npz"
        self._watches[model.name] = DriftWatch(card, known.images_per_alarm, file, known.watch)

    def watched(self, model: Model, job: Job) -> Job:
        """A worker's job on an image of a model, which its watch then sees, be another model served by then."""
        watch = self._watches[model.name]

        def work() -> tuple[Inspected, Any]:
            done = job()
            watch.take(done[0].said)
            return done

        return work

    def status(self, model: Model) -> dict[str, Any]:
        """How things stand, as plain JSON values."""
        return self._watches[model.name].status()

    def reset(self, model: Model, reference: Restart) -> None:
        """A person's decision; raises `UserError` where nothing is watched."""
        self._watches[model.name].reset(reference)

    def close(self) -> None:
        """Keep what is known, where it is kept."""
        for watch in self._watches.values():
            watch.save()

    def collect(self) -> Iterator[Metric]:
        """What Prometheus reads."""
        watched = GaugeMetricFamily("anomaly_drift_watched", "1 where drift is watched", labels=("model",))
        alarm = GaugeMetricFamily("anomaly_drift_alarm", "1 while an alarm stands", labels=("model", "cause"))
        evidence = GaugeMetricFamily("anomaly_drift_evidence", "Evidence of a change; 1 is an alarm", labels=("model",))
        alarms = CounterMetricFamily("anomaly_drift_alarms", "Alarms so far", labels=("model",))
        for name, watch in list(self._watches.items()):
            monitor = watch.monitor
            watched.add_metric((name,), monitor is not None)
            if monitor is None:
                continue
            now = None if monitor.alarm is None else monitor.alarm.cause
            for cause in CAUSES:
                alarm.add_metric((name, cause), cause == now)
            evidence.add_metric((name,), min(1.0, monitor.progress))
            alarms.add_metric((name,), monitor.alarms)
        yield from (watched, alarm, evidence, alarms)
