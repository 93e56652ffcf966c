"""Which key lies in which row, with the checksum of its bytes: a small sqlite file beside the rows.

Every call opens its own connection, so that the index may be used from any thread and after a fork. Rows are numbered
upwards and never used twice while anybody has the store open: `next_row` only grows.
"""

import json
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

PATIENCE_S = 60.0  # how long a statement waits for another process's commit, which takes milliseconds
TOUCH_EVERY_S = 60.0  # last use is kept to this precision, to spare the disk

_SCHEMA = """
    CREATE TABLE IF NOT EXISTS entry (key TEXT PRIMARY KEY, row INTEGER UNIQUE, crc INTEGER, used REAL) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS state (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
    INSERT OR IGNORE INTO state VALUES ('next_row', 0), ('stamp', '');
"""
_GIVEN = "(SELECT value FROM json_each(?))"


class Place(NamedTuple):
    """Where a key's features lie.

    Attributes:
        row: Number of the row.
        crc: CRC-32 of the row's bytes.
    """

    row: int
    crc: int


class Index:
    """The index of one store folder.

    Args:
        path: The sqlite file.
        writable: Whether this process may change it.
    """

    def __init__(self, path: Path, writable: bool = True) -> None:
        self.path = path
        self._mode = "rw" if writable else "ro"

    def create(self) -> None:
        """Make the file and its tables where they are not there yet."""
        with closing(sqlite3.connect(self.path, timeout=PATIENCE_S)) as connection:
            connection.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} COMMIT;")

    def sound(self) -> bool:
        """Whether sqlite can read the file and finds its structure whole."""
        try:
            with self._reading() as connection:
                return connection.execute("PRAGMA quick_check(1)").fetchone() == ("ok",)
        except sqlite3.DatabaseError as error:
            if error.sqlite_errorcode & 0xFF in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}:
                return False
            raise

    def find(self, keys: Iterable[str]) -> dict[str, Place]:
        """Places of those of the keys that are stored."""
        with self._reading() as connection:
            query = f"SELECT key, row, crc FROM entry WHERE key IN {_GIVEN}"
            return {key: Place(row, crc) for key, row, crc in connection.execute(query, (json.dumps(list(keys)),))}

    def checksums(self, rows: Sequence[int]) -> dict[int, int]:
        """CRC-32 by row, for those of the rows that are stored."""
        with self._reading() as connection:
            return dict(connection.execute(f"SELECT row, crc FROM entry WHERE row IN {_GIVEN}", (json.dumps(rows),)))

    def uses(self) -> list[tuple[float, int]]:
        """(time of last use in seconds since 1970, row) of every entry, oldest first."""
        with self._reading() as connection:
            return connection.execute("SELECT used, row FROM entry ORDER BY used, row").fetchall()

    def count(self) -> int:
        """Entries in all."""
        with self._reading() as connection:
            return int(connection.execute("SELECT count(*) FROM entry").fetchone()[0])

    def next_row(self) -> int:
        """Number of the row to be written next."""
        return int(self._state("next_row"))

    def stamp(self) -> str:
        """The row file's stamp after its last known change."""
        return str(self._state("stamp"))

    def add(self, places: dict[str, Place], stamp: str) -> None:
        """Enter keys whose bytes are on the disk already; all of them or none."""
        now = time.time()
        with self._writing() as connection:
            entries = [(key, place.row, place.crc, now) for key, place in places.items()]
            connection.executemany("INSERT INTO entry VALUES (?, ?, ?, ?)", entries)
            next_row = max(place.row for place in places.values()) + 1
            self._set(connection, next_row=next_row, stamp=stamp)

    def drop(self, places: Iterable[Place]) -> None:
        """Forget entries, provided that they still lie where `places` says."""
        with self._writing() as connection:
            connection.executemany("DELETE FROM entry WHERE row = ? AND crc = ?", list(places))

    def drop_oldest(self, keep: int) -> None:
        """Forget all but the `keep` entries used last."""
        with self._writing() as connection:
            query = "DELETE FROM entry WHERE row NOT IN (SELECT row FROM entry ORDER BY used DESC, row DESC LIMIT ?)"
            connection.execute(query, (keep,))

    def touch(self, keys: Iterable[str]) -> None:
        """Note that keys are used now; left out, without an error, where the index is busy or can't be written."""
        now = time.time()
        try:
            with self._writing(patience=0.2) as connection:
                query = f"UPDATE entry SET used = ? WHERE used < ? AND key IN {_GIVEN}"
                connection.execute(query, (now, now - TOUCH_EVERY_S, json.dumps(list(keys))))
        except sqlite3.OperationalError:
            return

    def restamp(self, stamp: str) -> None:
        """Note the row file's stamp."""
        with self._writing() as connection:
            self._set(connection, stamp=stamp)

    def renumber(self, moves: dict[int, int], next_row: int) -> None:
        """Give rows new numbers (old -> new) at once, and start numbering at `next_row`."""
        with self._writing() as connection:
            connection.executemany("UPDATE entry SET row = ? WHERE row = ?", [(new, old) for old, new in moves.items()])
            self._set(connection, next_row=next_row)

    def _state(self, name: str) -> str | int:
        with self._reading() as connection:
            value: str | int = connection.execute("SELECT value FROM state WHERE name = ?", (name,)).fetchone()[0]
            return value

    @staticmethod
    def _set(connection: sqlite3.Connection, **values: str | int) -> None:
        connection.executemany("UPDATE state SET value = ? WHERE name = ?", [(v, k) for k, v in values.items()])

    @contextmanager
    def _reading(self, patience: float = PATIENCE_S) -> Iterator[sqlite3.Connection]:
        address = f"{self.path.absolute().as_uri()}?mode={self._mode}"
        with closing(sqlite3.connect(address, uri=True, timeout=patience, isolation_level=None)) as connection:
            yield connection

    @contextmanager
    def _writing(self, patience: float = PATIENCE_S) -> Iterator[sqlite3.Connection]:
        with self._reading(patience=patience) as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
