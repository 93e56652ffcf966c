"""The work on one part of a large set, wherever it is done: read, skip what is done, score, write one file of rows.

A part's rows are written as a whole, under a name that follows from them. So a part that is done twice, because whoever
did it died after writing or is still at it somewhere, leaves the same file and no row twice.
"""

import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any, Literal

import msgspec
from PIL import Image

from anomaly_lightning.deploy.scale.done import Keys, is_done, key, part_name
from anomaly_lightning.deploy.scale.fetching import Fetched, fetched
from anomaly_lightning.deploy.scale.listing import Listing
from anomaly_lightning.deploy.scale.place import Place
from anomaly_lightning.deploy.scale.schema import parquet_bytes, scored, unreadable
from anomaly_lightning.errors import DataError
from anomaly_lightning.runtime.damage import ImageError
from anomaly_lightning.runtime.inspection import Inspection
from anomaly_lightning.runtime.inspector import Inspector
from anomaly_lightning.runtime.reading import Encoded

ROWS, HEATMAPS, LISTING = "rows", "heatmaps", "listing.parquet"  # below the output
Drawn = Literal["none", "ng", "all"]


class Job(msgspec.Struct, frozen=True):
    """What a worker has to know beside the model.

    Attributes:
        output: Path or address of the output folder.
        model_id: Of every row.
        heatmaps: Of which images they are written.
        batch_size: Images that are scored at once.
        workers: Threads that read, and threads that decode.
    """

    output: str
    model_id: str
    heatmaps: Drawn
    batch_size: int
    workers: int


class Tally(msgspec.Struct):
    """What became of the images of a part: counts that add up.

    Attributes:
        images: All of them.
        before: Those that an earlier start had done.
        verdicts: Of those scored now.
        unreadable: How many have an error in the place of a verdict.
        seconds: That the part took.
    """

    images: int = 0
    before: int = 0
    verdicts: dict[str, int] = {}
    unreadable: int = 0
    seconds: float = 0.0

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(
            self.images + other.images,
            self.before + other.before,
            dict(Counter(self.verdicts) + Counter(other.verdicts)),
            self.unreadable + other.unreadable,
            self.seconds + other.seconds,
        )

    @property
    def now(self) -> int:
        """Images that were looked at now."""
        return self.images - self.before


@dataclass
class _Part:
    """A part while it is worked on: its rows, and the files that are with the inspector."""

    rows: list[tuple[bytes, Mapping[str, Any]]] = field(default_factory=list)
    unopened: list[tuple[bytes, Mapping[str, Any]]] = field(default_factory=list)
    waiting: deque[tuple[bytes, Fetched]] = field(default_factory=deque)
    before: int = 0


class Scorer:
    """Does the parts of a job, one after the other.

    Args:
        inspector: Scores.
        job: What is asked for.
        done: Keys of the rows that are there.
    """

    def __init__(self, inspector: Inspector, job: Job, done: Keys) -> None:
        self.inspector, self.job, self.done = inspector, job, done
        self.output = Place.at(job.output)
        self.listing = Listing(self.output / LISTING)

    def __call__(self, number: int) -> Tally:
        """Do one part of the listing; its rows are in the output when this returns."""
        start, paths, part = time.perf_counter(), self.listing.part(number), _Part()
        size, workers = self.job.batch_size, self.job.workers
        for said in self.inspector.stream(self._to_score(paths, part), size, workers):
            known, file = part.waiting.popleft()
            part.rows.append((known, self._row(file, said)))
        self._write(part.rows)
        self._write(part.unopened, opened=False)
        rows = [row for _, row in (*part.rows, *part.unopened)]
        verdicts = Counter(row["verdict"] for row in rows if row["verdict"])
        seconds = time.perf_counter() - start
        return Tally(len(paths), part.before, dict(verdicts), len(rows) - verdicts.total(), seconds)

    def _to_score(self, paths: Sequence[str], part: _Part) -> Iterator[Encoded]:
        """Contents of the files that have no row yet; a few are read ahead, whatever the part's size."""
        for file in fetched(paths, self.job.workers, 2 * self.job.batch_size):
            known = key(file.path, file.content_hash or "", self.job.model_id)
            if file.content_hash is None:
                row = unreadable(file.path, None, file.error or "", self.job.model_id)
                part.unopened.append((known, row))
            elif is_done(self.done, known):
                part.before += 1
            else:
                part.waiting.append((known, Fetched(file.path, content_hash=file.content_hash)))
                yield Encoded(file.data, file.path)

    def _row(self, file: Fetched, said: Inspection | DataError) -> Mapping[str, Any]:
        known = file.content_hash or ""
        if isinstance(said, DataError):
            reason = said.reason if isinstance(said, ImageError) else str(said)
            return unreadable(file.path, known, reason, self.job.model_id)
        return scored(file.path, known, said, self._heatmap(known, said), self.job.model_id)

    def _heatmap(self, known: str, said: Inspection) -> str | None:
        """Write the heatmap where one is asked for; its path below the output, by the image's content."""
        wanted = self.job.heatmaps == "all" or (self.job.heatmaps == "ng" and said.verdict == "NG")
        if not wanted:
            return None
        name, stream = f"{HEATMAPS}/{self.job.model_id[:12]}/{known[:2]}/{known}.png", BytesIO()
        Image.fromarray(said.heatmap()).save(stream, "PNG")
        (self.output / name).write(stream.getvalue())
        return name

    def _write(self, rows: Sequence[tuple[bytes, Mapping[str, Any]]], opened: bool = True) -> None:
        if rows:
            name = part_name([known for known, _ in rows], opened)
            (self.output / ROWS / name).write(parquet_bytes([row for _, row in rows]))
