"""Which files a watch has dealt with: one JSON line each, appended and flushed, that a restart reads again."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from anomaly_lightning.errors import UserError

Identity = tuple[str, int, int]  # path below the watched folder, bytes, time of the last change in ns


def identity(file: Path, folder: Path) -> Identity | None:
    """What tells this version of a file from any other; None where it is gone."""
    try:
        state = file.stat()
    except OSError:
        return None
    return str(file.relative_to(folder)), state.st_size, state.st_mtime_ns


class Journal:
    """The lines of one decisions.jsonl. A line that a crash cut off is dropped, so that its image is done again.

    Args:
        file: Made where it is not there.

    Attributes:
        done: Identities of all files that have a line.

    Raises:
        UserError: The file holds something else.
    """

    def __init__(self, file: Path) -> None:
        self.file, self.done = file, set[Identity]()
        whole = self._read() if file.exists() else 0
        file.parent.mkdir(parents=True, exist_ok=True)
        self._stream = file.open("ab")
        self._stream.truncate(whole)

    def _read(self) -> int:
        """Take in the whole lines; returns where they end, in bytes."""
        content = self.file.read_bytes()
        whole = content.rfind(b"\n") + 1
        for number, line in enumerate(content[:whole].splitlines(), start=1):
            try:
                row = json.loads(line)
                self.done.add((row["name"], row["bytes"], row["mtime_ns"]))
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(
                    f"{self.file}, line {number}, was not written by predict watch=...: {error!r}. "
                    "Take another output folder, or move the file away."
                ) from error
        return whole

    def write(self, which: Identity, row: Mapping[str, Any]) -> None:
        """Append one line and hand it to the disk before anything else is done."""
        name, size, changed = which
        line = {"name": name, "bytes": size, "mtime_ns": changed, **row}
        self._stream.write(json.dumps(line, allow_nan=False).encode("ascii") + b"\n")
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self.done.add(which)

    def close(self) -> None:
        """Close the file."""
        self._stream.close()
