"""The SQLite file: its tables, how it is opened, and which files are refused."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from anomaly_lightning.errors import ReviewError

SCHEMA = 1  # raise it with every change that an older reader would misread
APPLICATION = 0x416E6F6D  # "Anom": tells this file from SQLite files of other programs
BUSY_S = 30.0  # how long another process may hold the file

# `mark` and `mark_id` repeat the latest entry of `marks`, for indices; the trigger keeps them equal, whoever writes.
# `rank` is the score, +infinity where that is not a number: such a decision is NG, and stands above all others.
# `kept` counts what is on the disk; `doomed` names images that are to be deleted, until they are.
# Both indices of pages hold all that filters look at, so that rows are read for what is shown alone.
TABLES = """
CREATE TABLE decisions (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    time TEXT NOT NULL,
    model TEXT NOT NULL,
    model_id TEXT NOT NULL,
    bundle_version TEXT,
    name TEXT NOT NULL,
    content TEXT NOT NULL,
    score REAL,
    rank REAL NOT NULL,
    threshold REAL NOT NULL,
    pixel_threshold REAL NOT NULL,
    review REAL,
    verdict TEXT NOT NULL CHECK (verdict IN ('OK', 'REVIEW', 'NG', 'INVALID')),
    reason TEXT,
    width INTEGER NOT NULL,
    height INTEGER NOT NULL,
    regions TEXT NOT NULL,
    region_count INTEGER NOT NULL,
    image TEXT,
    image_bytes INTEGER NOT NULL DEFAULT 0,
    removed TEXT,
    mark TEXT CHECK (mark IN ('right', 'false_alarm', 'missed_defect', 'not_a_part')),
    mark_id INTEGER
);
CREATE TABLE marks (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    decision INTEGER NOT NULL REFERENCES decisions (id),
    mark TEXT CHECK (mark IN ('right', 'false_alarm', 'missed_defect', 'not_a_part')),
    who TEXT NOT NULL,
    time TEXT NOT NULL
);
CREATE TABLE kept (one INTEGER PRIMARY KEY CHECK (one = 1), bytes INTEGER NOT NULL, removed INTEGER NOT NULL);
INSERT INTO kept VALUES (1, 0, 0);
CREATE TABLE doomed (image TEXT PRIMARY KEY);
CREATE INDEX decisions_by_time ON decisions (verdict, mark, time, id, rank, model);
CREATE INDEX decisions_by_score ON decisions (verdict, mark, rank, id, time, model);
CREATE INDEX decisions_marked ON decisions (content, mark_id) WHERE mark IS NOT NULL;
CREATE INDEX decisions_kept ON decisions (mark IS NOT NULL, id) WHERE image IS NOT NULL;
CREATE UNIQUE INDEX decisions_image ON decisions (image) WHERE image IS NOT NULL;
CREATE INDEX marks_of_decision ON marks (decision);
CREATE TRIGGER latest_mark AFTER INSERT ON marks BEGIN
    UPDATE decisions SET mark = NEW.mark, mark_id = NEW.id WHERE id = NEW.decision;
END;
CREATE TRIGGER image_kept AFTER INSERT ON decisions WHEN NEW.image IS NOT NULL BEGIN
    UPDATE kept SET bytes = bytes + NEW.image_bytes;
END;
CREATE TRIGGER image_removed AFTER UPDATE OF image ON decisions WHEN OLD.image IS NOT NULL AND NEW.image IS NULL BEGIN
    UPDATE kept SET bytes = bytes - OLD.image_bytes, removed = removed + 1;
    INSERT INTO doomed VALUES (OLD.image);
END;
"""


def connect(path: Path, create: bool) -> sqlite3.Connection:
    """A connection to a store, usable from any thread, one at a time; it commits at once outside of `writing`.

    Args:
        path: The file.
        create: Whether to make it where it is not there.

    Raises:
        ReviewError: There is no such file, it is something else, of another schema, or can't be opened.
    """
    if not create and not path.is_file():
        raise ReviewError(f"{path}: there is no such file. Expected a store of decisions, as serve writes it.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
    except (OSError, sqlite3.Error) as error:
        raise ReviewError(f"{path} can't be opened: {error}. Check the folder's rights, or name another.") from error
    try:
        _prepare(connection, path)
    except sqlite3.Error as error:
        connection.close()
        raise ReviewError(f"{path} is no store of decisions, or is damaged: {error}. Take the last backup.") from error
    except ReviewError:
        connection.close()
        raise
    return connection


@contextmanager
def writing(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """One transaction: all that is written inside is there afterwards, or nothing of it."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield connection
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    connection.row_factory = sqlite3.Row
    _check(connection, path)  # before anything is changed: the file may be somebody else's
    mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
    if mode != "wal":
        raise ReviewError(f"{path} lies where SQLite can't keep a write-ahead log (got {mode}). Name a local folder.")
    connection.execute("PRAGMA synchronous = FULL")  # a mark that was acknowledged survives a power cut, too
    connection.execute("PRAGMA foreign_keys = ON")
    if _number(connection, "application_id"):
        return
    with writing(connection):
        if not _number(connection, "application_id"):  # another process may have been first
            for statement in _statements(TABLES):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {SCHEMA}")
            connection.execute(f"PRAGMA application_id = {APPLICATION}")


def _check(connection: sqlite3.Connection, path: Path) -> None:
    # In this order: another process may make the file in between, tables and number at once.
    tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    application = _number(connection, "application_id")
    if application != APPLICATION and (application or tables):
        raise ReviewError(f"{path} is an SQLite file of another program. Name another file.")
    found = _number(connection, "user_version")
    if application and found != SCHEMA:
        raise ReviewError(
            f"{path}: expected a store of schema {SCHEMA}, got {found}. Use the version of anomaly_lightning that "
            "wrote it, or name another file."
        )


def _number(connection: sqlite3.Connection, pragma: str) -> int:
    number: int = connection.execute(f"PRAGMA {pragma}").fetchone()[0]
    return number


def _statements(script: str) -> Iterator[str]:
    """The statements of a script, since `executescript` would end the transaction."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
