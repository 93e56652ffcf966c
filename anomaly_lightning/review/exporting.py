"""Marks for other programs: a table of all of them, and a manifest of marked images that `data=manifest` reads."""

import csv
import os
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path

from anomaly_lightning.errors import ReviewError
from anomaly_lightning.review.marks import MARKS, as_text
from anomaly_lightning.review.records import Decision, Filter
from anomaly_lightning.review.store import ReviewStore

AT_ONCE = 500  # decisions in memory
TABLE = (
    "id", "time", "model", "model_id", "bundle_version", "name", "content", "score", "threshold", "verdict", "mark",
    "truth", "who", "marked", "image",
)  # fmt: skip
MANIFEST = ("path", "split", "label", "defect")  # see data/manifest.py


def table_rows(store: ReviewStore, wanted: Filter | None = None) -> Iterator[tuple[object, ...]]:
    """Rows of `TABLE`, oldest first.

    Args:
        store: Of the decisions.
        wanted: Which; None = those with a mark.
    """
    for known in _all(store, wanted or Filter(marks=MARKS)):
        last = store.history(known.id)[-1:] if known.mark is not None else ()
        who, when = (last[0].who, as_text(last[0].time)) if last else ("", "")
        decided = (known.name, known.content, known.score, known.threshold, known.verdict)
        model = (known.model, known.model_id, known.bundle_version)
        yield known.id, as_text(known.time), *model, *decided, known.mark, known.truth, who, when, known.image


def manifest_rows(
    store: ReviewStore, folder: Path | None, model: str | None = None
) -> Iterator[tuple[str, str, str, str]]:
    """Rows of `MANIFEST`: normals to train on, defects to test with, each content once.

    Args:
        store: Of the marks.
        folder: Where the table is to lie: paths are relative to it; None = absolute paths.
        model: Whose decisions; None = those of the only model.

    Raises:
        ReviewError: See `ReviewStore.marked`.
    """
    for one in store.marked(model):
        path = one.path if folder is None else _relative(one.path, folder.absolute())
        normal = one.truth == "normal"
        yield path.as_posix(), "train" if normal else "test", "good" if normal else "bad", "" if normal else "defect"


def write_table(store: ReviewStore, file: Path, wanted: Filter | None = None) -> int:
    """Write `table_rows` as CSV; returns how many."""
    return _written(file, TABLE, lambda: table_rows(store, wanted))


def write_manifest(store: ReviewStore, file: Path, model: str | None = None) -> int:
    """Write `manifest_rows` as CSV, paths relative to it where they can be; returns how many images it lists."""
    return _written(file, MANIFEST, lambda: manifest_rows(store, file.parent, model))


def csv_lines(head: tuple[str, ...], rows: Iterable[tuple[object, ...]]) -> Iterator[str]:
    """A head line and rows as lines of CSV, None as nothing."""
    lines = list[str]()
    writer = csv.writer(_Lines(lines))
    for row in chain([head], rows):
        writer.writerow(["" if value is None else value for value in row])
        yield lines.pop()


class _Lines:
    """What csv takes for a file: puts lines into a list."""

    def __init__(self, lines: list[str]) -> None:
        self.write = lines.append


def _written(file: Path, head: tuple[str, ...], rows: Callable[[], Iterator[tuple[object, ...]]]) -> int:
    """Write a table whole or not at all."""
    partial = file.with_name(f"{file.name}.part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("w", encoding="utf-8", newline="") as stream:
            for count, line in enumerate(csv_lines(head, rows())):  # noqa: B007 - the head is number 0
                stream.write(line)
        partial.replace(file)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise ReviewError(f"{file} can't be written: {error.strerror or error}.") from error
    except ReviewError:
        partial.unlink(missing_ok=True)
        raise
    return count


def _all(store: ReviewStore, wanted: Filter) -> Iterator[Decision]:
    after: str | None = None
    while True:
        page = store.page(wanted, "oldest", after, AT_ONCE)
        yield from page.decisions
        if (after := page.next) is None:
            return


def _relative(path: Path, folder: Path) -> Path:
    try:
        return Path(os.path.relpath(path, folder))
    except ValueError:  # another drive of Windows
        return path
