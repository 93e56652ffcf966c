"""Counts and latencies of a line since it started, and the table of them."""

import threading
from collections import Counter, deque
from dataclasses import dataclass

import numpy as np
from rich.table import Table

from anomaly_lightning.deploy.line.part import KINDS, Kind, Outcome
from anomaly_lightning.runtime.decision import VERDICTS

REMEMBERED = 100_000  # latencies of each outcome that percentiles are taken of: the last ones
PERCENTILES = (50, 95, 99)


@dataclass(frozen=True)
class Delivered:
    """What a sink got since the start, what it refused, and whether anything waits for it."""

    delivered: int
    refused: int
    waiting: bool


class Tally:
    """Counts parts by outcome; verdicts are counted by decision, too."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.taken, self.given_up = 0, 0
        self.outcomes, self.verdicts = Counter[str](), Counter[str]()
        self._latencies = {kind: deque[float](maxlen=REMEMBERED) for kind in KINDS}

    def took(self) -> None:
        """Count a part that was taken."""
        with self._lock:
            self.taken += 1

    def add(self, outcome: Outcome, latency: float) -> None:
        """Count a part that got its line so many seconds after it was taken."""
        with self._lock:
            self.outcomes[outcome.kind] += 1
            self._latencies[outcome.kind].append(latency)
            if outcome.kind == "verdict":
                self.verdicts[str(outcome.decision)] += 1

    def recovered(self, outcome: Outcome) -> None:
        """Count a part that an earlier process took, and whose line was written now."""
        with self._lock:
            self.given_up += 1
            self.outcomes[outcome.kind] += 1

    @property
    def lines(self) -> int:
        """Lines written."""
        with self._lock:
            return self.outcomes.total()

    def counts(self) -> dict[str, int]:
        """Parts taken, and lines by outcome."""
        with self._lock:
            return {"taken": self.taken, **{kind: self.outcomes[kind] for kind in KINDS}}

    def table(self) -> Table:
        """A row for each outcome, and their sum beside the number of parts that were taken."""
        table = Table(title="Parts of this run", title_justify="left")
        for column in ("outcome", "parts", *(f"p{percent} ms" for percent in PERCENTILES), "max ms"):
            table.add_column(column, justify="left" if column == "outcome" else "right")
        with self._lock:
            for kind in KINDS:
                table.add_row(kind, str(self.outcomes[kind]), *self._spread(kind))
                for verdict in VERDICTS if kind == "verdict" else ():
                    table.add_row(f"  {verdict}", str(self.verdicts[verdict]))
            table.add_section()
            table.add_row("lines", str(self.outcomes.total()))
            table.add_row("taken", str(self.taken + self.given_up))
        return table

    def _spread(self, kind: Kind) -> list[str]:
        """Percentiles and maximum of an outcome's latencies, in ms."""
        found = np.asarray(list(self._latencies[kind]))
        if not len(found):
            return ["-"] * (len(PERCENTILES) + 1)
        return [f"{value * 1000:.1f}" for value in (*np.percentile(found, PERCENTILES), found.max())]


def sinks_table(sinks: dict[str, Delivered]) -> Table:
    """A row for each sink."""
    table = Table(title="Sinks", title_justify="left")
    for column in ("sink", "delivered", "refused", "waiting"):
        table.add_column(column, justify="left" if column == "sink" else "right")
    for name, known in sinks.items():
        table.add_row(name, str(known.delivered), str(known.refused), "yes" if known.waiting else "no")
    return table
