"""Files of rows of equal size: plain bytes at row * row_bytes, nothing else."""

import os
import threading
import zlib
from collections.abc import Mapping, Sequence
from io import RawIOBase
from pathlib import Path


class RowReader:
    """Reads rows straight into the caller's buffer.

    Positioned reads rather than a mapping of the file: they come from the same page cache, were measured faster than
    a gather from a mapping (no page faults), leave the pages out of the process's resident memory, see what other
    processes append, and end in an error instead of SIGBUS where the disk fails.

    Args:
        file: Open for reading, without a buffer of its own; closed by `close`.
        row_bytes: Size of a row in bytes.
    """

    def __init__(self, file: RawIOBase, row_bytes: int) -> None:
        self.row_bytes = row_bytes
        self._file = file
        self._seek_lock = threading.Lock()

    def read_into(self, rows: Sequence[int], buffer: memoryview) -> list[int]:
        """Read rows, one after the other, into `buffer`.

        Args:
            rows: Numbers of rows.
            buffer: At least len(rows) * row_bytes bytes.

        Returns:
            The rows that the file is too short for; their bytes in `buffer` mean nothing.
        """
        size = self.row_bytes
        slots = (buffer[at * size : (at + 1) * size] for at in range(len(rows)))
        return [row for row, slot in zip(rows, slots, strict=True) if self._read(row * size, slot) < size]

    def close(self) -> None:
        """Close the file; idempotent."""
        self._file.close()

    def _read(self, offset: int, slot: memoryview) -> int:
        """Fill `slot` from `offset` on; returns the bytes that were there."""
        done = 0
        while done < len(slot):
            count = self._read_once(offset + done, slot[done:])
            if count == 0:
                break
            done += count
        return done

    def _read_once(self, offset: int, slot: memoryview) -> int:
        if hasattr(os, "preadv"):  # Linux, BSD, macOS: no shared file position, so threads and forks can't collide
            return os.preadv(self._file.fileno(), [slot], offset)
        with self._seek_lock:
            self._file.seek(offset)
            return self._file.readinto(slot) or 0


class RowFile(RowReader):
    """Rows that lie in a file with a name: read as above, and appended durably.

    Args:
        path: The file; it must exist.
        row_bytes: Size of a row in bytes.
    """

    def __init__(self, path: Path, row_bytes: int) -> None:
        super().__init__(path.open("rb", buffering=0), row_bytes)
        self.path = path

    def checksums(self, rows: Sequence[int]) -> list[int]:
        """CRC-32 of each row's bytes; -1 where the file is too short."""
        buffer = memoryview(bytearray(self.row_bytes))
        return [-1 if self.read_into([row], buffer) else zlib.crc32(buffer) for row in rows]

    def write(self, first: int, data: memoryview) -> None:
        """Write whole rows from row `first` on and return when they are on the disk.

        Raises:
            OSError: Not all of it could be written.
        """
        with self.path.open("r+b") as file:
            file.seek(first * self.row_bytes)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())

    def move(self, moves: Mapping[int, int]) -> None:
        """Copy rows (from -> to) and return when they are on the disk.

        Raises:
            OSError: Not all of it could be written.
        """
        buffer = memoryview(bytearray(self.row_bytes))
        with self.path.open("r+b") as file:
            for old, new in moves.items():
                self.read_into([old], buffer)
                file.seek(new * self.row_bytes)
                file.write(buffer)
            file.flush()
            os.fsync(file.fileno())

    def truncate(self, rows: int) -> None:
        """Cut off what lies behind the first `rows` rows, if anything."""
        if self.path.stat().st_size > rows * self.row_bytes:
            os.truncate(self.path, rows * self.row_bytes)

    def stamp(self) -> str:
        """Size and time of the last change: differs after any write through the file system."""
        status = os.fstat(self._file.fileno())
        return f"{status.st_size}:{status.st_mtime_ns}"

    def replaced(self) -> bool:
        """Whether the path now leads to another file, or to none."""
        try:
            return not os.path.samestat(os.fstat(self._file.fileno()), self.path.stat())
        except FileNotFoundError:
            return True
