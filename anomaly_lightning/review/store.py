"""The store of decisions and marks: one SQLite file, for several threads and processes at once."""

import json
import logging
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from anomaly_lightning.errors import ReviewError
from anomaly_lightning.review.database import connect, writing
from anomaly_lightning.review.marked import marked_images, marked_models, without_image
from anomaly_lightning.review.marks import (
    LONGEST_NAME,
    Mark,
    MarkedSinceError,
    MarkEntry,
    StoreError,
    as_text,
    fitting,
)
from anomaly_lightning.review.paging import cursor, page_query
from anomaly_lightning.review.records import Decision, Filter, Kept, MarkedImage, NewDecision, Order, Page
from anomaly_lightning.review.rows import as_decision, decision_of, history_of

logger = logging.getLogger(__name__)

T = TypeVar("T")
EVERYTHING = Filter()
AT_ONCE = 1000  # images that are let go of in one transaction
OLDEST_UNMARKED = f"""
SELECT * FROM decisions INDEXED BY decisions_kept WHERE image IS NOT NULL AND (mark IS NOT NULL) = 0
ORDER BY id LIMIT {AT_ONCE}
"""


class ReviewStore:
    """Decisions, and what people say of them. All methods may be called from any thread.

    A method that writes returns when the disk has it.

    Args:
        path: The file; kept images lie in its folder.
        create: Whether to make it where it is not there.

    Attributes:
        path: The file, absolute.

    Raises:
        ReviewError: There is no such file, or it is no store that this version knows.
    """

    def __init__(self, path: Path, create: bool = False) -> None:
        self.path = path.expanduser().absolute()
        self._writer, self._reader = connect(self.path, create), connect(self.path, create=False)
        self._writing, self._reading = threading.Lock(), threading.Lock()

    def record(self, new: NewDecision) -> int:
        """Add a decision; returns its number."""
        row = {field.name: getattr(new, field.name) for field in fields(NewDecision)}
        row |= {"time": as_text(new.time), "regions": json.dumps(list(new.regions), separators=(",", ":"))}
        row["rank"] = float("inf") if new.score is None else new.score
        names = ", ".join(row)
        places = ", ".join(f":{name}" for name in row)
        with self._change() as connection:
            done = connection.execute(f"INSERT INTO decisions ({names}) VALUES ({places})", row)
        return int(done.lastrowid or 0)

    def decision(self, number: int) -> Decision:
        """One decision; raises `ReviewError` where there is none of this number."""
        return self._read(lambda connection: decision_of(connection, number))

    def page(
        self, wanted: Filter = EVERYTHING, order: Order = "newest", after: str | None = None, limit: int = 50
    ) -> Page:
        """Some decisions in order.

        Args:
            wanted: Which.
            order: "newest" or "oldest" first, "highest" or "lowest" score first.
            after: `next` of the page before; None = the first page.
            limit: Most decisions.
        """
        query, values = page_query(wanted, order, after, limit + 1)
        rows = self._read(lambda connection: connection.execute(query, values).fetchall())
        more = cursor(rows[limit - 1], order) if len(rows) > limit else None
        return Page(tuple(as_decision(row) for row in rows[:limit]), more)

    def mark(self, number: int, mark: str | None, who: str, seen: int | None = None) -> MarkEntry:
        """Set a decision's mark. What was set before stays in its history.

        Args:
            number: Of the decision.
            mark: None = take the mark back.
            who: Who says so.
            seen: `mark_id` that the mark rests on: refused where another mark has come since; 0 = no mark yet, None =
                whatever it is.

        Raises:
            ReviewError: No such decision, a mark that contradicts its verdict, no name, or another mark came between.
        """
        who = who.strip()
        if not who or len(who) > LONGEST_NAME:
            raise ReviewError(f"who={who!r}: expected the name of who marks, of at most {LONGEST_NAME} characters.")
        now = datetime.now(UTC)
        with self._change() as connection:
            known = decision_of(connection, number)
            if seen is not None and seen != (known.mark_id or 0):
                raise MarkedSinceError(history_of(connection, number)[-1])
            said: Mark | None = None if mark is None else fitting(known.verdict, mark)
            row = (number, said, who, as_text(now))
            done = connection.execute("INSERT INTO marks (decision, mark, who, time) VALUES (?, ?, ?, ?)", row)
        return MarkEntry(int(done.lastrowid or 0), number, said, who, now)

    def history(self, number: int) -> tuple[MarkEntry, ...]:
        """All marks that a decision ever had, oldest first."""
        return self._read(lambda connection: history_of(connection, number))

    def counts(self) -> dict[tuple[str, str | None], int]:
        """How many decisions there are by verdict and mark."""
        query = "SELECT verdict, mark, count(*) FROM decisions GROUP BY verdict, mark"
        rows = self._read(lambda connection: connection.execute(query).fetchall())
        return {(verdict, mark): count for verdict, mark, count in rows}

    def marked(self, model: str | None = None) -> Iterator[MarkedImage]:
        """Every kept image of which a mark says whether it shows a normal part or a defect, oldest first.

        Of an image that was decided upon several times, the latest mark counts. Marks that come while this is walked
        are not among them.

        Args:
            model: Name of the model that decided; None = the only one.

        Raises:
            ReviewError: None was named, and there are marks on decisions of several: what is normal for one is not for
                another.
        """
        with closing(connect(self.path, create=False)) as connection:  # its own: a walk may take long
            if model is None and len(models := marked_models(connection)) > 1:
                raise ReviewError(
                    f"{self.path} holds marks on decisions of several models: {', '.join(models)}. "
                    "Name one (model_name=...), or let each service keep a store of its own (marks=...)."
                )
            for known in map(as_decision, marked_images(connection, model)):
                path = self.path.parent / str(known.image)
                if known.truth is None:
                    continue
                if not path.is_file():
                    logger.warning("decision %d: its image %s is gone from the disk", known.id, path)
                    continue
                yield MarkedImage(known, known.truth, path)

    def marked_without_image(self) -> int:
        """How many marks say normal or defect of an image that was not kept, or is not kept any more."""
        return self._read(without_image)

    def kept(self) -> Kept:
        """What is kept of images."""
        query = "SELECT bytes, removed, (SELECT count(*) FROM decisions WHERE image IS NOT NULL) FROM kept"
        return Kept(*self._read(lambda connection: connection.execute(query).fetchone()))

    def give_up(self, most_bytes: int) -> tuple[Decision, ...]:
        """Let go of the oldest unmarked images until what is kept has at most so many bytes; see `doomed`.

        Returns:
            Decisions whose images go. Fewer than it takes where what is left is marked.
        """
        now, gone = as_text(datetime.now(UTC)), list[Decision]()
        with self._change() as connection:
            excess = connection.execute("SELECT bytes FROM kept").fetchone()[0] - most_bytes
            walk = iter(connection.execute(OLDEST_UNMARKED).fetchall() if excess > 0 else ())
            while excess > 0 and (row := next(walk, None)) is not None:
                gone.append(as_decision(row))
                excess -= row["image_bytes"]
            query = "UPDATE decisions SET image = NULL, image_bytes = 0, removed = ? WHERE id = ?"
            connection.executemany(query, [(now, one.id) for one in gone])
        return tuple(gone)

    def doomed(self) -> list[str]:
        """Images that no decision names any more and that are still to be deleted."""
        return self._read(lambda connection: [row[0] for row in connection.execute("SELECT image FROM doomed")])

    def deleted(self, images: Sequence[str]) -> None:
        """These are gone from the disk."""
        with self._change() as connection:
            connection.executemany("DELETE FROM doomed WHERE image = ?", [(image,) for image in images])

    def backup(self, target: Path) -> None:
        """Copy the whole database into a new file while it is being used; images are not in it.

        Raises:
            ReviewError: There is such a file already, or it can't be written.
        """
        if target.exists():
            raise ReviewError(f"{target} is there already: a backup takes the place of nothing. Name another file.")
        partial = target.with_name(f"{target.name}.part")
        try:
            partial.unlink(missing_ok=True)
            with closing(sqlite3.connect(self.path)) as source, closing(sqlite3.connect(partial)) as copy:
                source.backup(copy)
            partial.replace(target)
        except (OSError, sqlite3.Error) as error:
            partial.unlink(missing_ok=True)
            raise ReviewError(f"{target} can't be written: {error}.") from error

    def close(self) -> None:
        """Close the file; nothing waits to be written."""
        for lock, connection in ((self._writing, self._writer), (self._reading, self._reader)):
            with lock:
                connection.close()

    def __enter__(self) -> "ReviewStore":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def _change(self) -> Iterator[sqlite3.Connection]:
        try:
            with self._writing, writing(self._writer) as connection:
                yield connection
        except sqlite3.Error as error:
            raise StoreError(f"{self.path} can't be written: {error}. Nothing of this was kept.") from error

    def _read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        try:
            with self._reading:
                return work(self._reader)
        except sqlite3.Error as error:
            raise StoreError(f"{self.path} can't be read: {error}.") from error
