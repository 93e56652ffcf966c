"""Which rows' bytes this process has found to match their checksums, so that each is computed once only."""

import os
import threading
import zlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from anomaly_lightning.features.store.index import Index, Place
from anomaly_lightning.features.store.rowfile import RowFile

_UNKNOWN = -1
_CHUNK = 64  # rows a thread checks at a time


class RowChecks:
    """Compares rows with the checksums of the index.

    Args:
        rows: The rows.
        index: Where the checksums stand.
        once: Whether one check a row is enough. Not where no lock keeps others from moving rows.
    """

    def __init__(self, rows: RowFile, index: Index, once: bool) -> None:
        self._rows = rows
        self._index = index
        self._once = once
        self._lock = threading.Lock()
        self._crc = np.empty(0, dtype=np.int64)  # by row
        self._good = np.empty(0, dtype=bool)  # by row

    def remember(self, places: Iterable[Place]) -> None:
        """Take the checksums that `mismatches` will compare with, as the index has them now."""
        with self._lock:
            known = np.array(list(places), dtype=np.int64).reshape(-1, 2)
            if len(known):
                self._reserve(int(known[:, 0].max()) + 1)
                self._crc[known[:, 0]] = known[:, 1]

    def forget(self, rows: Sequence[int]) -> None:
        """Check these rows again at their next use."""
        with self._lock:
            self._good[[row for row in rows if row < len(self._good)]] = False

    def mismatches(self, rows: Sequence[int], raw: memoryview) -> set[Place]:
        """Those of the rows, whose bytes lie one after the other in `raw`, that don't match their checksums."""
        with self._lock:
            self._reserve(max(rows, default=-1) + 1)
            pending = np.flatnonzero(~self._good[list(rows)]).tolist() if rows else []
            self._look_up([rows[at] for at in pending])
            size = self._rows.row_bytes
            crcs = [zlib.crc32(raw[at * size : (at + 1) * size]) for at in pending]
            return self._compare([rows[at] for at in pending], crcs)

    def verify(self, rows: Sequence[int]) -> set[Place]:
        """Read all rows not found good before and return those that don't match; several threads."""
        with self._lock:
            self._reserve(max(rows, default=-1) + 1)
            pending = [row for row in rows if not self._good[row]]
            self._look_up(pending)
            chunks = [pending[at : at + _CHUNK] for at in range(0, len(pending), _CHUNK)]
            with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
                crcs = [crc for chunk in pool.map(self._rows.checksums, chunks) for crc in chunk]
            return self._compare(pending, crcs)

    def _compare(self, rows: Sequence[int], crcs: Sequence[int]) -> set[Place]:
        good = self._crc[list(rows)] == np.array(crcs, dtype=np.int64) if rows else np.empty(0, dtype=bool)
        if self._once:
            self._good[[row for row, fine in zip(rows, good, strict=True) if fine]] = True
        return {Place(row, int(self._crc[row])) for row, fine in zip(rows, good, strict=True) if not fine}

    def _look_up(self, rows: Sequence[int]) -> None:
        unknown = [row for row in rows if self._crc[row] == _UNKNOWN]
        if unknown:
            for row, crc in self._index.checksums(unknown).items():
                self._crc[row] = crc

    def _reserve(self, rows: int) -> None:
        missing = rows - len(self._crc)
        if missing > 0:
            extra = max(missing, len(self._crc))
            self._crc = np.concatenate([self._crc, np.full(extra, _UNKNOWN, dtype=np.int64)])
            self._good = np.concatenate([self._good, np.zeros(extra, dtype=bool)])
