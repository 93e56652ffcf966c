"""What tells one image's content from another's, kept between runs so that a second one need not read every file.

A hash is kept with the file's size and its times of change, and holds as long as they do: the time of the content,
which a copy may take over from another file, and the time of the entry, which it may not. A file that changed within
the last seconds may change again without its times telling (a clock of a file system has its ticks), so its hash is
kept by this process alone.
"""

import logging
import os
import sqlite3
import time
from pathlib import Path
from typing import Any, NamedTuple

from anomaly_lightning.runtime.damage import ImageError
from anomaly_lightning.runtime.files import content_hash

HASHES = "hashes.sqlite"  # below cache.dir
SETTLED_NS = 3_000_000_000  # more than the coarsest tick in use, 2 s of FAT
AT_ONCE = 1000  # rows a transaction
WAIT_S = 10.0  # for another process that writes

logger = logging.getLogger(__name__)


class Stamp(NamedTuple):
    """What changes with a file: its size in bytes, and the times of its content and its entry in ns since 1970."""

    size: int
    content_ns: int
    entry_ns: int

    @classmethod
    def of(cls, path: Path) -> "Stamp":
        """The file's own, links followed; raises `ImageError` where there is no such file."""
        try:
            status = path.stat()
        except OSError as error:
            raise ImageError(path, error.strerror or str(error)) from error
        return cls(status.st_size, status.st_mtime_ns, status.st_ctime_ns)

    def settled(self) -> bool:
        """Whether the file changed so long ago that another change would show in its times."""
        return time.time_ns() - max(self.content_ns, self.entry_ns) > SETTLED_NS


class ContentHashes:
    """Content hashes of files, each computed once as long as the file stays as it was.

    Several processes may share a folder: each row is whole or not there, and equal files have equal rows. Where the
    database can't be used, hashes are kept by this process, and a warning says so.

    Args:
        folder: Where they are kept between runs, `cache.dir`; made where it is missing. None = nowhere.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._own: dict[Path, tuple[Stamp, str]] = {}
        self._waiting: dict[bytes, tuple[Stamp, str]] = {}
        self._file = None if folder is None else folder / HASHES
        self._database: sqlite3.Connection | None = None

    def __call__(self, path: Path) -> str:
        """Hex sha256 of the file's bytes; raises `ImageError` where it can't be opened."""
        stamp = Stamp.of(path)
        known = self._find(path)
        if known is not None and known[0] == stamp:
            return known[1]
        settled = stamp.settled()  # before it is read
        found = content_hash(path)
        if self._file is None or not settled:
            self._own[path] = (stamp, found)
        elif Stamp.of(path) == stamp:
            self._waiting[_name(path)] = (stamp, found)
            if len(self._waiting) >= AT_ONCE:
                self.flush()
        return found

    def flush(self) -> None:
        """Write what was computed since the last time, for other processes and later runs."""
        rows = [(name, *stamp, bytes.fromhex(found)) for name, (stamp, found) in self._waiting.items()]
        if not rows or self._file is None:
            return
        try:
            with self._opened(self._file) as database:
                database.executemany("INSERT OR REPLACE INTO hashes VALUES (?, ?, ?, ?, ?)", rows)
        except (sqlite3.Error, OSError) as error:
            self._give_up(error)
        else:
            self._waiting = {}

    def __getstate__(self) -> dict[str, Any]:
        """Without the connection, which belongs to one process."""
        return {**self.__dict__, "_database": None}

    def _find(self, path: Path) -> tuple[Stamp, str] | None:
        """What is known of a path, whatever has become of its file."""
        if path in self._own or self._file is None:
            return self._own.get(path)
        name = _name(path)
        if name in self._waiting:
            return self._waiting[name]
        try:
            asked = "SELECT size, content_ns, entry_ns, sha256 FROM hashes WHERE path = ?"
            row = self._opened(self._file).execute(asked, (name,)).fetchone()
        except (sqlite3.Error, OSError) as error:
            self._give_up(error)
            return None
        return None if row is None else (Stamp(*row[:3]), row[3].hex())

    def _opened(self, file: Path) -> sqlite3.Connection:
        if self._database is None:
            file.parent.mkdir(parents=True, exist_ok=True)
            database = sqlite3.connect(file, timeout=WAIT_S)
            database.execute(
                "CREATE TABLE IF NOT EXISTS hashes (path BLOB PRIMARY KEY, size INTEGER NOT NULL, content_ns INTEGER "
                "NOT NULL, entry_ns INTEGER NOT NULL, sha256 BLOB NOT NULL) WITHOUT ROWID"
            )
            self._database = database
        return self._database

    def _give_up(self, error: Exception) -> None:
        """Go on without the database."""
        logger.warning(
            "Hashes of images can't be kept in %s (%s): every run reads every image again. Remove the file, or point "
            "cache.dir to a folder you may write to.",
            self._file,
            error,
        )
        self._own |= {Path(os.fsdecode(name)): known for name, known in self._waiting.items()}
        self._waiting, self._file, self._database = {}, None, None


def _name(path: Path) -> bytes:
    """The absolute path as the system has it, UTF-8 or not."""
    return os.fsencode(path.absolute())
