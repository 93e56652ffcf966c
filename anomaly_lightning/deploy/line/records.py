"""Files of JSON lines that survive a kill: a line is there whole, or it is not there."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from anomaly_lightning.errors import UserError


def encoded(row: Mapping[str, Any]) -> bytes:
    """One line of ASCII JSON with its newline."""
    return json.dumps(row, allow_nan=False, separators=(", ", ": ")).encode("ascii") + b"\n"


def rows(file: Path) -> Iterator[dict[str, Any]]:
    """All whole lines of a file, each with an "id"; one that a crash cut off is not among them.

    Raises:
        UserError: A line is something else.
    """
    if not file.exists():
        return
    with file.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            if not line.endswith(b"\n"):
                return
            try:
                row = json.loads(line)
                row["id"]
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(
                    f"{file}, line {number}, was not written by a line or watch=...: {error!r}. "
                    "Take another output folder, or move the file away."
                ) from error
            yield row


def whole(file: BinaryIO) -> int:
    """Where the last whole line of an open file ends, in bytes."""
    end = file.seek(0, os.SEEK_END)
    while end:
        start = max(0, end - 65536)
        file.seek(start)
        found = file.read(end - start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0


class Records:
    """A file that lines are appended to, each handed to the disk before `write` returns.

    Args:
        file: Made where it is not there; a line that a crash cut off is taken away.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        file.parent.mkdir(parents=True, exist_ok=True)
        self.stream = file.open("a+b", buffering=0)
        self.stream.truncate(whole(self.stream))

    def write(self, row: Mapping[str, Any]) -> None:
        """Append one line. A disk that takes but a piece of it is left without that piece, and raises OSError."""
        self.write_line(encoded(row))

    def write_line(self, line: bytes) -> None:
        """Append one line that is encoded already."""
        before = self.stream.seek(0, os.SEEK_END)
        try:
            left = memoryview(line)
            while left:
                left = left[self.stream.write(left) :]
            os.fsync(self.stream.fileno())
        except OSError:
            self.stream.truncate(before)
            raise

    def replace(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Hold these lines in place of all others; a crash leaves the file as it was, or as it is to be."""
        fresh = self.file.with_name(f"{self.file.name}.part")
        fresh.unlink(missing_ok=True)
        made = Records(fresh)
        made.stream.write(b"".join(encoded(row) for row in rows))
        os.fsync(made.stream.fileno())
        fresh.replace(self.file)
        self.stream.close()
        self.stream = made.stream

    def close(self) -> None:
        """Close the file."""
        self.stream.close()
