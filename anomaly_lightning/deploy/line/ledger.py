"""Which parts were taken, and the one line that each of them gets: nothing is lost, nothing is there twice.

`taken.jsonl` holds a part's id before anything is done with it, the journal its outcome. A part is open in between;
what a crash left open is found at the next start. `taken.jsonl` forgets parts that have their line, so it stays small.
"""

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO

from anomaly_lightning.deploy.line.part import Outcome, Part
from anomaly_lightning.deploy.line.records import Records, rows
from anomaly_lightning.deploy.line.tally import Tally
from anomaly_lightning.errors import UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

TAKEN = "taken.jsonl"
LARGEST_TAKEN = 1_000_000  # bytes of taken.jsonl from which on it forgets
NOTHING: dict[str, Any] = {
    "score": None,
    "threshold": None,
    "regions": [],
    "reason": None,
    "heatmap": None,
    "drift": None,
}


@dataclass(frozen=True)
class Gate:
    """What a line says to whoever lets parts pass.

    Attributes:
        accepted: Verdicts of parts that may pass; no other outcome ever does.
        without_verdict: The decision on parts that got none: None, or "NG".
        deadline_s: Seconds after which a part is late; None = never.
    """

    accepted: tuple[str, ...] = ("OK",)
    without_verdict: str | None = None
    deadline_s: float | None = None


class Ledger:
    """The two files of one line. All methods may be called from any thread.

    Args:
        folder: Where they are; held by one process at a time.
        line: Name of the line, in every row.
        gate: What is said of each part besides its outcome.
        remember: Whether ids with a line are kept in memory, for sources that offer parts again.
        journal: Name of the journal in the folder.

    Attributes:
        expected: Parts that were open when the last process ended: id to what their source said of them.
        before: Lines that were there before.
        journal: The journal's path.
        tally: Counts of this process.

    Raises:
        UserError: Another process holds the folder, or a file holds something else.
    """

    def __init__(self, folder: Path, line: str, gate: Gate, remember: bool, journal: str = "journal.jsonl") -> None:
        self.line, self.gate, self.tally, self.journal = line, gate, Tally(), folder / journal
        self._lock, self._open, self._done = threading.Lock(), dict[str, Part](), set[str]()
        self.news = threading.Condition()
        self._holder = self._hold(folder)
        self._taken = Records(folder / TAKEN)
        self.expected: dict[str, dict[str, Any]] = {row["id"]: row for row in rows(folder / TAKEN)}
        self.before = 0
        for row in rows(self.journal):
            self.before += 1
            self.expected.pop(row["id"], None)
            if remember:
                self._done.add(row["id"])
        self._remember = remember
        self._lines = Records(self.journal)

    def _hold(self, folder: Path) -> BinaryIO | None:
        """Keep other processes out until this one ends, however it ends."""
        if fcntl is None:
            return None
        folder.mkdir(parents=True, exist_ok=True)
        holder = (folder / ".lock").open("ab")
        try:
            fcntl.flock(holder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder.close()
            words = "another process writes there. Stop it, or take another output folder."
            raise UserError(f"{folder}: {words}") from error
        return holder

    def _forget(self) -> None:
        """Take parts that have their line out of taken.jsonl."""
        still = [{"id": part.id, **part.names} for part in self._open.values()]
        self._taken.replace([*self.expected.values(), *still])

    def known(self, part_id: str) -> bool:
        """Whether a part has its line, or is on its way to it."""
        with self._lock:
            return part_id in self._done or part_id in self._open

    def is_open(self, part_id: str) -> bool:
        """Whether a part still needs its line."""
        with self._lock:
            return part_id in self._open

    def take(self, part: Part) -> None:
        """Write down that a part is here, before anything is done with it.

        Raises:
            ValueError: A part of this id is here already, which is a mistake of the source.
            OSError: The disk does not take it; the part is not taken.
        """
        with self._lock:
            if part.id in self._open or part.id in self._done:
                raise ValueError(f"the source gave the id {part.id} twice")
            if self._taken.stream.tell() > LARGEST_TAKEN:
                self._forget()
            if part.id not in self.expected:
                self._taken.write({"id": part.id, **part.names})
            self.expected.pop(part.id, None)
            self._open[part.id] = part
            self.tally.took()

    def decide(self, part: Part, outcome: Outcome) -> bool:
        """Write a part's line, unless it has one.

        Returns:
            Whether this was it; False where the part had its line before (it was late, say).

        Raises:
            OSError: The disk does not take it; the part stays open.
        """
        with self._lock:
            if part.id not in self._open:
                return False
            latency = time.monotonic() - part.taken
            outcome = self._in_time(outcome, latency)
            self._write(part.id, part.names, outcome, latency)
            del self._open[part.id]
            self.tally.add(outcome, latency)
        self._tell()
        return True

    def give_up(self, part_id: str, why: str) -> None:
        """Write the line of a part that was open when the last process ended, and that can't be had again."""
        with self._lock:
            names = {key: value for key, value in self.expected[part_id].items() if key != "id"}
            outcome = Outcome("failed", error=why)
            self._write(part_id, names, outcome, None)
            del self.expected[part_id]
            self.tally.recovered(outcome)
        self._tell()

    def overdue(self) -> list[Part]:
        """Open parts whose deadline has passed."""
        if self.gate.deadline_s is None:
            return []
        until = time.monotonic() - self.gate.deadline_s
        with self._lock:
            return [part for part in self._open.values() if part.taken < until]

    def next_due(self) -> float | None:
        """When the first deadline of an open part passes, by the monotonic clock; None = nothing is open."""
        with self._lock:
            first = min((part.taken for part in self._open.values()), default=None)
        return None if first is None or self.gate.deadline_s is None else first + self.gate.deadline_s

    def still_open(self) -> int:
        """How many parts of this process have no line yet."""
        with self._lock:
            return len(self._open)

    def close(self) -> None:
        """Close both files; taken.jsonl holds what has no line, so that it is empty where all have one."""
        with self._lock:
            self._forget()
            self._lines.close()
            self._taken.close()
            if self._holder is not None:
                self._holder.close()

    def _in_time(self, outcome: Outcome, latency: float) -> Outcome:
        """The outcome, or that it came too late."""
        limit = self.gate.deadline_s
        if limit is None or latency <= limit or outcome.kind != "verdict":
            return outcome
        return Outcome("late", error=f"no verdict within {limit * 1000:.0f} ms")

    def _write(self, part_id: str, names: Mapping[str, Any], outcome: Outcome, latency: float | None) -> None:
        decision = outcome.decision if outcome.kind == "verdict" else self.gate.without_verdict
        now = datetime.now(UTC)
        taken = None if latency is None else (now - timedelta(seconds=latency)).isoformat(timespec="milliseconds")
        row = {
            "id": part_id,
            "line": self.line,
            "outcome": outcome.kind,
            "decision": decision,
            "accept": outcome.kind == "verdict" and decision in self.gate.accepted,
            **NOTHING,
            **outcome.fields,
            "error": outcome.error,
            "taken": taken,
            "decided": now.isoformat(timespec="milliseconds"),
            "latency_ms": None if latency is None else round(latency * 1000, 3),
        }
        self._lines.write(row | {key: value for key, value in names.items() if key not in row})
        if self._remember:
            self._done.add(part_id)

    def _tell(self) -> None:
        with self.news:
            self.news.notify_all()
