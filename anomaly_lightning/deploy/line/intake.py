"""From the source into the waiting room, and what happens where that is full."""

import logging
import time
from queue import Empty, Full, Queue
from threading import Event

from anomaly_lightning.deploy.line.backoff import Backoff
from anomaly_lightning.deploy.line.ledger import Ledger
from anomaly_lightning.deploy.line.part import Outcome, Part
from anomaly_lightning.deploy.line.sources import Feed, Source, SourceLostError
from anomaly_lightning.deploy.line.waiting import LOOK_S, put

logger = logging.getLogger(__name__)

BEHIND = ("hold", "drop_oldest", "fail_safe")


class Intake:
    """The bounded queue of parts that wait for the model; one thread puts, one takes.

    Args:
        ledger: Where every part is written down before it waits.
        size: Parts that wait at most.
        behind: What happens to a part that comes when so many wait: "hold" keeps the source waiting, "drop_oldest"
            drops the part that has waited longest, "fail_safe" drops the new one.
        dead: Set where the line can't go on.
    """

    def __init__(self, ledger: Ledger, size: int, behind: str, dead: Event) -> None:
        self.ledger, self.behind, self._dead = ledger, behind, dead
        self._queue: Queue[Part] = Queue(size)
        self._closed, self._held, self._holding = Event(), 0.0, None

    def offer(self, part: Part) -> None:
        """Take a part; it waits for the model when this returns, or has its line. Nothing is taken once closed."""
        if self._closed.is_set():
            return
        self.ledger.take(part)
        if part.error is not None or part.image is None:
            self.ledger.decide(part, Outcome("failed", error=part.error or "the source gave no image"))
        elif self.behind == "hold":
            self._hold(part)
        else:
            self._displace(part)

    def _hold(self, part: Part) -> None:
        start = time.monotonic()
        put(self._queue, part, self._dead)
        self._held += time.monotonic() - start

    def _displace(self, part: Part) -> None:
        while True:
            try:
                self._queue.put_nowait(part)
                return
            except Full:
                dropped = part if self.behind == "fail_safe" else self._oldest()
            if dropped is not None:
                self.ledger.decide(dropped, Outcome("dropped", error="the line was behind: too many parts waited"))
            if dropped is part:
                return

    def _oldest(self) -> Part | None:
        try:
            return self._queue.get_nowait()
        except Empty:
            return None

    def take(self, most: int) -> list[Part] | None:
        """The next parts, as soon as there is one; None when no more will come."""
        while not self._dead.is_set():
            try:
                found = [self._queue.get(timeout=LOOK_S)]
            except Empty:
                if self._closed.is_set() and self._queue.empty():
                    return None
                continue
            while len(found) < most and (more := self._oldest()) is not None:
                found.append(more)
            return found
        return None

    def waiting(self) -> int:
        """How many parts wait."""
        return self._queue.qsize()

    def held_s(self) -> float:
        """Seconds for which the source was held up."""
        return self._held

    def close(self) -> None:
        """Say that no more parts will come."""
        self._closed.set()


class Capture:
    """Walks the source, and returns to it when it was lost.

    Attributes:
        lost: Why the source is lost at the moment; None = it is there.
        ended: The source has no more parts: it came to its end by itself.
    """

    def __init__(self, source: Source, feed: Feed, intake: Intake, backoff: Backoff) -> None:
        self.source, self.feed, self.intake, self._backoff = source, feed, intake, backoff
        self.lost: str | None = None
        self.ended = False

    def run(self) -> None:
        """Offer all parts, until there are no more or the line is stopped."""
        while not self.feed.stop.is_set():
            try:
                self._walk()
                self.ended = not self.feed.stop.is_set()
                return
            except SourceLostError as error:
                self.lost = str(error)
                pause = self._backoff.next()
                logger.warning("%s Next try in %.1f s.", error, pause)
                self.feed.stop.wait(pause)

    def _walk(self) -> None:
        for part in self.source.parts(self.feed):
            if self.lost is not None:
                logger.warning("The source is back.")
                self.lost = None
            self._backoff.reset()
            self.intake.offer(part)
            if self.feed.stop.is_set():
                return
