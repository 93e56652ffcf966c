"""One line: its threads, from the first part to the last delivery."""

import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from queue import Queue
from threading import Event, Thread
from typing import Any

from PIL import Image

from anomaly_lightning.deploy.line.backoff import Backoff
from anomaly_lightning.deploy.line.courier import Courier
from anomaly_lightning.deploy.line.inspecting import Inference, Inspect, Output, Result
from anomaly_lightning.deploy.line.intake import BEHIND, Capture, Intake
from anomaly_lightning.deploy.line.ledger import Gate, Ledger
from anomaly_lightning.deploy.line.sinks import Sink
from anomaly_lightning.deploy.line.sources import Feed, Source
from anomaly_lightning.deploy.line.tally import Delivered, Tally
from anomaly_lightning.deploy.line.waiting import LOOK_S
from anomaly_lightning.deploy.line.watchdog import Deadlines, Heartbeat
from anomaly_lightning.errors import UserError
from anomaly_lightning.runtime.drift_watch import DriftWatch
from anomaly_lightning.runtime.inspection import Inspection

logger = logging.getLogger(__name__)

SOURCE_ENDS_S = 15.0  # seconds that a source has to see that it is stopped
ACCEPTABLE = ("OK", "REVIEW")
GONE = "it was taken, and the process ended before it had a verdict"


@dataclass(frozen=True)
class Settings:
    """How a line behaves; conf/line.yaml says what each option is.

    Raises:
        UserError: A value makes no sense.
    """

    name: str = "line"
    queue: int = 8
    batch_size: int = 1
    behind: str = "hold"
    deadline_ms: float | None = None
    accept: tuple[str, ...] = ("OK",)
    images: tuple[str, ...] = ()
    heartbeat_s: float | None = None
    stall_s: float = 30.0
    flush_s: float = 10.0
    retry_first_s: float = 0.5
    retry_longest_s: float = 30.0
    journal: str = "journal.jsonl"

    def __post_init__(self) -> None:
        if self.behind not in BEHIND:
            raise UserError(f"behind={self.behind}: expected one of {', '.join(BEHIND)}.")
        if wrong := [verdict for verdict in self.accept if verdict not in ACCEPTABLE]:
            raise UserError(f"accept={wrong}: expected none but {', '.join(ACCEPTABLE)}: no other part may pass.")
        if min(self.queue, self.batch_size) < 1:
            raise UserError("queue and batch_size are numbers of parts, 1 or more.")
        above = {name: getattr(self, name) for name in ("deadline_ms", "heartbeat_s", "stall_s", "retry_first_s")}
        for name, value in above.items():
            if value is not None and value <= 0:
                raise UserError(f"{name}={value}: expected a number above 0.")

    def gate(self) -> Gate:
        """What is said of each part besides its outcome."""
        decision = "NG" if self.behind == "fail_safe" else None
        return Gate(self.accept, decision, None if self.deadline_ms is None else self.deadline_ms / 1000)

    def backoff(self) -> Backoff:
        """Waits between tries of one thing."""
        return Backoff(self.retry_first_s, self.retry_longest_s)


@dataclass(frozen=True)
class Summary:
    """What a line did.

    Attributes:
        sinks: By name.
        inspected: Parts that the model saw.
        busy_s: Seconds that it took for them.
        open: Parts that have no line yet; a restart sees to them.
    """

    tally: Tally
    sinks: Mapping[str, Delivered]
    inspected: int
    busy_s: float
    open: int


class Line:
    """Inspects what a source gives and tells sinks, until the source ends or `stop` is set.

    Args:
        inspect: What is said of each of several images; DataError for one that does not fit.
        decode: Reads an image file as the model wants it.
        source: Where parts come from.
        sinks: By name.
        images: Writes the images of one part.
        settings: As above.
        folder: Of journal, marks and heartbeat; one process at a time.
        watch: Looks for drift; None = nobody does.

    Attributes:
        stop: Set it to end the line: what was taken gets its line first.

    Raises:
        UserError: The folder is another process's, or holds something else.
    """

    def __init__(
        self,
        inspect: Inspect,
        decode: Callable[[Path], Image.Image],
        source: Source,
        sinks: Mapping[str, Sink],
        images: Callable[[Inspection, Path], None],
        settings: Settings,
        folder: Path,
        watch: DriftWatch | None = None,
    ) -> None:
        self._watch = watch
        self.settings, self.folder, self.source = settings, folder, source
        self.stop, self._dead, self._decided, self._over = Event(), Event(), Event(), Event()
        self._failure: BaseException | None = None
        self.ledger = Ledger(folder, settings.name, settings.gate(), source.repeats, settings.journal)
        self._intake = Intake(self.ledger, settings.queue, settings.behind, self._dead)
        feed = Feed(self.stop, decode, self.ledger.known, folder, self._intake.held_s)
        self._capture = Capture(source, feed, self._intake, settings.backoff())
        results: Queue[Result] = Queue(settings.queue)
        self._inference = Inference(inspect, self._intake, results, settings.batch_size, self._dead)
        self._output = Output(results, self.ledger, images, settings.images, self._dead, watch)
        self._couriers = [
            Courier(name, sink, self.ledger.journal, self.ledger.news, settings.backoff())
            for name, sink in sinks.items()
        ]

    def run(self) -> Summary:
        """Work; returns when every part that was taken has its line, and sinks have had `flush_s` to get it.

        Raises:
            BaseException: What ended a thread that the line can't do without: a disk that is full, say.
        """
        self._recover(all_of_them=False)
        couriers = [self._start(f"sink {courier.name}", courier.run) for courier in self._couriers]
        heart = self._start_heart()
        deadlines = self._start("deadlines", Deadlines(self.ledger, self._decided).run)
        self._inspect_all()
        self._decided.set()
        self._join(deadlines, None)
        if self._watch is not None:
            self._watch.save()
        if self._capture.ended and self._failure is None:
            self._recover(all_of_them=True)
        self._end_couriers(couriers)
        self._over.set()
        self._join(heart, 5.0)
        summary = self._summary()
        self.ledger.close()
        if self._failure is not None:
            raise self._failure
        return summary

    def status(self) -> dict[str, Any]:
        """What the heartbeat says."""
        sinks = {
            courier.name: {"delivered": courier.delivered, "refused": courier.refused, "trouble": courier.trouble}
            for courier in self._couriers
        }
        return {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "line": self.settings.name,
            "pid": os.getpid(),
            "state": self._state(),
            "source": self._capture.lost or "there",
            "waiting": self._intake.waiting(),
            **self.ledger.tally.counts(),
            "drift": None if self._watch is None else self._watch.status(),
            "sinks": sinks,
        }

    def _state(self) -> str:
        """One word for the heartbeat."""
        stuck = max(self._inference.pulse.stuck_s(), self._output.pulse.stuck_s())
        known = {
            "failed": self._failure is not None,
            "stopped": self._over.is_set(),
            "stopping": self.stop.is_set(),
            "stalled": stuck > self.settings.stall_s,
            "source_lost": self._capture.lost is not None,
        }
        return next((word for word, holds in known.items() if holds), "running")

    def _recover(self, all_of_them: bool) -> None:
        """Write the lines of parts that the last process left open, and that the source can't give again."""
        for part_id, names in list(self.ledger.expected.items()):
            if all_of_them or not self.source.again(names):
                self.ledger.give_up(part_id, GONE)

    def _inspect_all(self) -> None:
        """Run capture, inference and output until the last part has its line."""
        capture = self._start("capture", self._capture.run)
        inference = self._start("inference", self._inference.run)
        output = self._start("output", self._output.run)
        while capture.is_alive() and not self.stop.is_set():
            capture.join(LOOK_S)
        capture.join(SOURCE_ENDS_S)
        if capture.is_alive():
            logger.error("The source does not end; what it gives from here on is not taken.")
        self._intake.close()
        self._join(inference, None)
        self._output.close()
        self._join(output, None)

    def _start_heart(self) -> Thread | None:
        if self.settings.heartbeat_s is None:
            return None
        beats = [courier.beat for courier in self._couriers]
        heart = Heartbeat(self.folder, self.settings.heartbeat_s, self.status, beats, self._over)
        return self._start("heartbeat", heart.run)

    def _start(self, name: str, work: Callable[[], None]) -> Thread:
        """A thread; what ends it early ends the line."""

        def guarded() -> None:
            try:
                work()
            except BaseException as error:
                self._failure = self._failure or error
                self._dead.set()
                self.stop.set()

        thread = Thread(target=guarded, name=name, daemon=True)
        thread.start()
        return thread

    @staticmethod
    def _join(thread: Thread | None, seconds: float | None) -> None:
        """Wait for a thread; in steps, so that a signal is not kept waiting."""
        while thread is not None and thread.is_alive():
            thread.join(LOOK_S if seconds is None else seconds)
            if seconds is not None:
                return

    def _end_couriers(self, threads: list[Thread]) -> None:
        for courier in self._couriers:
            courier.finish()
        with self.ledger.news:
            self.ledger.news.notify_all()
        until = time.monotonic() + self.settings.flush_s
        for thread, courier in zip(threads, self._couriers, strict=True):
            thread.join(max(0.0, until - time.monotonic()))
            courier.abandon()
        for thread in threads:
            thread.join(SOURCE_ENDS_S)

    def _summary(self) -> Summary:
        sinks = {courier.name: courier.outcome() for courier in self._couriers}
        still = self.ledger.still_open() + len(self.ledger.expected)
        return Summary(self.ledger.tally, sinks, self._inference.inspected, self._inference.pulse.busy_s, still)
