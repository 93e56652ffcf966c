"""Marks: what a person says of a decision, and what that says of the part."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from anomaly_lightning.errors import ReviewError
from anomaly_lightning.runtime.decision import VERDICTS, Verdict

Mark = Literal["right", "false_alarm", "missed_defect", "not_a_part"]
MARKS: tuple[Mark, ...] = ("right", "false_alarm", "missed_defect", "not_a_part")
Truth = Literal["normal", "defect"]
UNMARKED = "unmarked"
LONGEST_NAME = 80

# What a mark says of the part, by verdict; None = nothing that calibration could use. A pair that is not here
# contradicts itself: an OK is no alarm, and after an NG nothing was missed. REVIEW says neither good nor defective, so
# that it can't be right; an INVALID that is right shows no part.
MEANING: dict[tuple[Verdict, Mark], Truth | None] = {
    ("OK", "right"): "normal",
    ("OK", "missed_defect"): "defect",
    ("NG", "right"): "defect",
    ("NG", "false_alarm"): "normal",
    ("REVIEW", "false_alarm"): "normal",
    ("REVIEW", "missed_defect"): "defect",
    ("INVALID", "right"): None,
    ("INVALID", "false_alarm"): "normal",
    ("INVALID", "missed_defect"): "defect",
    **{(verdict, "not_a_part"): None for verdict in VERDICTS},
}


def fitting(verdict: Verdict, mark: str) -> Mark:
    """The mark, where a decision of this verdict can carry it.

    Raises:
        ReviewError: It is no mark, or contradicts the verdict.
    """
    if mark not in MARKS:
        raise ReviewError(f"mark={mark}: expected one of {', '.join(MARKS)}.")
    if (verdict, mark) not in MEANING:
        possible = ", ".join(name for kind, name in MEANING if kind == verdict)
        raise ReviewError(f"A decision {verdict} can't be marked {mark}: expected one of {possible}.")
    return mark


@dataclass(frozen=True)
class MarkEntry:
    """One entry of a decision's history, the latest of which counts.

    Attributes:
        id: Number within the store, in the order in which marks were set.
        decision: Number of the decision.
        mark: None = the mark before was taken back.
        who: Who set it.
        time: When, UTC.
    """

    id: int
    decision: int
    mark: Mark | None
    who: str
    time: datetime


def as_text(moment: datetime) -> str:
    """A moment as the store has it: UTC with milliseconds, which sorts as text.

    Raises:
        ReviewError: It has no time zone.
    """
    if moment.tzinfo is None:
        raise ReviewError(f"time {moment.isoformat()}: expected one with a time zone, like 2026-01-31T08:00:00+01:00.")
    return moment.astimezone(UTC).isoformat(timespec="milliseconds")


class StoreError(ReviewError):
    """The file of a store can't be read or written."""


class NoDecisionError(ReviewError):
    """There is no decision of a number."""


class MarkedSinceError(ReviewError):
    """Another mark came between; `latest` is that one."""

    def __init__(self, latest: MarkEntry) -> None:
        said = "took the mark back" if latest.mark is None else f"marked it {latest.mark}"
        super().__init__(f"{latest.who} {said} in the meantime: look again before you change it.")
        self.latest = latest
