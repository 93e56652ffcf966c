"""From the journal to a sink: in order, until the sink has said that it has it, across restarts.

The journal is the outbox. How far a sink has come stands in `delivered/<sink>.json`, written after each delivery: a
crash between the two repeats one delivery and loses none.
"""

import json
import logging
import os
import time
from pathlib import Path
from threading import Condition, Event

from anomaly_lightning.deploy.line.backoff import Backoff
from anomaly_lightning.deploy.line.records import Records
from anomaly_lightning.deploy.line.sinks import DeliveryError, Message, RefusedError, Sink
from anomaly_lightning.deploy.line.tally import Delivered
from anomaly_lightning.reports.run_folder import read_json, write_text

logger = logging.getLogger(__name__)

LOOK_S = 1.0  # seconds between two looks at the journal where nobody tells that it has grown
SHORT_S = 0.2  # seconds between two looks at whether the line ends


class Courier:
    """Brings the journal's lines to one sink.

    Args:
        name: Of the sink.
        sink: Where they go.
        journal: The file.
        news: Notified when it has grown.
        backoff: Waits between tries.

    Attributes:
        trouble: Why nothing is delivered at the moment; None = all is well.
        delivered: Lines delivered by this process.
        refused: Lines that the sink will never take.
    """

    def __init__(self, name: str, sink: Sink, journal: Path, news: Condition, backoff: Backoff) -> None:
        self.name, self.sink, self._news, self._backoff = name, sink, news, backoff
        self.trouble: str | None = None
        self.delivered, self.refused = 0, 0
        self._mark = journal.parent / "delivered" / f"{name}.json"
        self._mark.parent.mkdir(exist_ok=True)
        self._refused = journal.parent / f"refused-{name}.jsonl"
        self._journal = journal.open("rb")
        self._finish, self._abandon = Event(), Event()
        self._offset = self._where()

    def _where(self) -> int:
        """Bytes of the journal that were delivered before; 0 where the journal is another one now."""
        mark = read_json(self._mark)
        offset, last = mark.get("offset", 0), mark.get("id")
        if not offset:
            return 0
        self._journal.seek(max(0, offset - mark["bytes"]))
        line = self._journal.read(mark["bytes"])
        if line.endswith(b"\n") and json.loads(line).get("id") == last:
            return int(offset)
        logger.warning("%s does not fit the journal, which was moved or cut: all of it is delivered.", self._mark)
        return 0

    def run(self) -> None:
        """Deliver what comes, until `finish` and nothing is left, or `abandon`."""
        while not self._abandon.is_set():
            try:
                message = self._next()
                if message is not None:
                    self._deliver(message)
                elif self._finish.is_set():
                    break
                else:
                    self.sink.keep()
                    self._well()
                    self._sleep()
            except DeliveryError as error:
                self._in_trouble(str(error))
            except Exception as error:  # of a plug-in, or a disk that is full: it may pass, too
                logger.exception("The sink %s failed", self.name)
                self._in_trouble(f"{type(error).__name__}: {error}.")
        self.sink.close()

    def beat(self, text: bytes) -> None:
        """Hand on a heartbeat, unless the sink can't have it now."""
        self.sink.beat(text)

    def finish(self) -> None:
        """Say that the journal grows no more."""
        self._finish.set()

    def abandon(self) -> None:
        """Say that what is left has to wait for the next start."""
        self._abandon.set()

    def outcome(self) -> Delivered:
        """How far it came."""
        size = os.fstat(self._journal.fileno()).st_size
        return Delivered(self.delivered, self.refused, size > self._offset)

    def _next(self) -> Message | None:
        self._journal.seek(self._offset)
        line = self._journal.readline()
        return Message(json.loads(line), line[:-1]) if line.endswith(b"\n") else None

    def _deliver(self, message: Message) -> None:
        try:
            self.sink.deliver(message)
            self.delivered += 1
        except RefusedError as error:
            logger.error("%s refuses part %s: %s It stands in %s.", self.name, message.id, error, self._refused)
            refused = Records(self._refused)
            refused.write_line(message.body + b"\n")
            refused.close()
            self.refused += 1
        length = len(message.body) + 1
        self._offset += length
        write_text(self._mark, json.dumps({"offset": self._offset, "bytes": length, "id": message.id}))
        self._well()

    def _well(self) -> None:
        if self.trouble is not None:
            logger.warning("%s is back.", self.name)
        self.trouble = None
        self._backoff.reset()

    def _in_trouble(self, why: str) -> None:
        pause = self._backoff.next()
        if self.trouble is None:
            told = "%s: %s What is not delivered stays in the journal. Next try in %.1f s."
            logger.warning(told, self.name, why, pause)
        self.trouble = why
        self._pause(pause)

    def _pause(self, seconds: float) -> None:
        """Wait before the next try; where the line ends a second at most, since there is little time left."""
        until, ending = time.monotonic() + seconds, self._finish.is_set()
        if ending:
            until = min(until, time.monotonic() + LOOK_S)
        while (left := until - time.monotonic()) > 0 and self._finish.is_set() == ending:
            if self._abandon.wait(min(left, SHORT_S)):
                return

    def _sleep(self) -> None:
        with self._news:
            self._news.wait(LOOK_S)
