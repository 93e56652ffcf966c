"""Decisions for tests of the review; as a program, a reviewer to be killed: python reviewed.py <store> <name>.

The reviewer marks decisions at random without end, and says each mark that was acknowledged on a line.
"""

import hashlib
import random
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from anomaly_lightning.review.marks import MARKS, MEANING
from anomaly_lightning.review.records import NewDecision
from anomaly_lightning.review.store import ReviewStore
from anomaly_lightning.runtime.decision import VERDICTS

START = datetime(2026, 11, 1, 6, 0, tzinfo=UTC)


def new(number: int = 0, **given: Any) -> NewDecision:
    """A decision a second after the one of the number before, whose score is its number."""
    known: dict[str, Any] = {
        "model": "toy",
        "model_id": "0123456789abcdef",
        "name": f"{number}.png",
        "content": hashlib.sha256(str(number).encode()).hexdigest(),
        "score": float(number),
        "threshold": 10.5,
        "pixel_threshold": 0.4,
        "verdict": VERDICTS[number % 4],
        "width": 60,
        "height": 40,
        "time": START + timedelta(seconds=number),
    }
    return NewDecision(**known | given)


def possible(verdict: str) -> list[str]:
    """Marks that a decision of a verdict can carry."""
    return [mark for mark in MARKS if (verdict, mark) in MEANING]


def mark_without_end(path: Path, who: str) -> None:
    with ReviewStore(path) as store:
        while True:
            for known in store.page(limit=20).decisions:
                entry = store.mark(known.id, random.choice(possible(known.verdict)), who)
                sys.stdout.write(f"{entry.id} {entry.decision} {entry.mark} {who}\n")
                sys.stdout.flush()


if __name__ == "__main__":
    mark_without_end(Path(sys.argv[1]), sys.argv[2])
