"""Deadlines and the heartbeat: what has to happen even where everything else is stuck."""

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from threading import Event
from typing import Any

from anomaly_lightning.deploy.line.ledger import Ledger
from anomaly_lightning.deploy.line.part import Outcome
from anomaly_lightning.reports.run_folder import write_text

logger = logging.getLogger(__name__)

HEARTBEAT = "heartbeat.json"
SHORTEST_S, LONGEST_S = 0.001, 0.02  # between two looks at the deadlines


class Deadlines:
    """Gives a part its line when its deadline passes, whatever the model is doing.

    Args:
        ledger: With a deadline.
        over: Set when no part can become late any more.
    """

    def __init__(self, ledger: Ledger, over: Event) -> None:
        self.ledger, self._over = ledger, over

    def run(self) -> None:
        """Look until it is over."""
        limit = (self.ledger.gate.deadline_s or 0.0) * 1000
        pause = LONGEST_S
        while not self._over.wait(pause):
            for part in self.ledger.overdue():
                self.ledger.decide(part, Outcome("late", error=f"no verdict within {limit:.0f} ms"))
            due = self.ledger.next_due()
            pause = LONGEST_S if due is None else min(max(due - time.monotonic(), SHORTEST_S), LONGEST_S)


class Heartbeat:
    """Says every few seconds that the line lives, and how it does: heartbeat.json, and the sinks that want it.

    A part of the line that is stuck, lost or dead shows as another `state` than "running". A process that is stuck as a
    whole shows as a heartbeat that grows old.

    Args:
        folder: Of heartbeat.json.
        every_s: Seconds between two.
        status: What to say.
        sinks: Get it, too.
        over: Set when the line ends.
    """

    def __init__(
        self,
        folder: Path,
        every_s: float,
        status: Callable[[], Mapping[str, Any]],
        sinks: Sequence[Callable[[bytes], None]],
        over: Event,
    ) -> None:
        self.file, self.every_s, self._status, self._sinks, self._over = (
            folder / HEARTBEAT,
            every_s,
            status,
            sinks,
            over,
        )

    def run(self) -> None:
        """Beat until it is over, and once more then."""
        while True:
            self._beat()
            if self._over.wait(self.every_s):
                return self._beat()

    def _beat(self) -> None:
        body = json.dumps(self._status()).encode("ascii")
        try:
            write_text(self.file, body.decode() + "\n")
        except OSError as error:
            logger.error("%s: %s", self.file, error.strerror or error)
        for beat in self._sinks:
            try:
                beat(body)
            except Exception:
                logger.exception("A sink failed on the heartbeat")
