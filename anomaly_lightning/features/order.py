"""In which order an epoch serves its rows: shuffled as a whole, or part by part where memory can't hold them all.

Rows that lie in a file are read from the system's page cache as long as they fit into it. Beyond, an order over all of
them costs a seek a row. So blocks of neighbouring rows are drawn, as many as memory holds, and the rows of these are
shuffled; the blocks that come next are read ahead meanwhile, each in one piece. Every row is served once an epoch all
the same.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

BLOCK_BYTES = 8_000_000  # read in one piece: far more than a seek costs, far less than a window


@dataclass(frozen=True)
class Windows:
    """How much is shuffled at once.

    Attributes:
        rows: Of a window, at least 1; so many or fewer are shuffled as a whole.
        block: Neighbouring rows that stay in one window, at least 1.
    """

    rows: int
    block: int

    @classmethod
    def of(cls, window_bytes: float, row_bytes: int) -> "Windows":
        """For windows of so many bytes, and rows of so many."""
        row_bytes = max(1, row_bytes)  # there may be no row yet
        rows = max(1, int(window_bytes // row_bytes))
        return cls(rows, max(1, min(BLOCK_BYTES // row_bytes, rows // 16)))


@dataclass(frozen=True)
class Order:
    """The rows of an epoch.

    Attributes:
        places: (N,) int64, each row once.
        ahead: What to read ahead: once so many rows are served, rows from (inclusive) and to (exclusive).
    """

    places: Tensor
    ahead: tuple[tuple[int, int, int], ...] = ()


def shuffled(count: int, generator: torch.Generator, windows: Windows | None = None) -> Order:
    """A random order of `count` rows.

    Args:
        count: How many rows there are.
        generator: Source of chance; the same state gives the same order.
        windows: Shuffle no more than this at once; None = everything.
    """
    if windows is None or count <= windows.rows:
        return Order(torch.randperm(count, generator=generator))
    starts = torch.arange(0, count, windows.block)
    starts = starts[torch.randperm(len(starts), generator=generator)]
    places: list[Tensor] = []
    ahead: list[tuple[int, int, int]] = []
    begun = [0, 0]  # rows served when the window before this one begins, and when this one does
    for some in starts.split(max(1, windows.rows // windows.block)):
        blocks = [(start, min(start + windows.block, count)) for start in some.tolist()]
        step = (begun[1] - begun[0]) / len(blocks)
        ahead += [(begun[0] + int(number * step), *block) for number, block in enumerate(blocks)]
        rows = torch.cat([torch.arange(*block) for block in blocks])
        places.append(rows[torch.randperm(len(rows), generator=generator)])
        begun = [begun[1], begun[1] + len(rows)]
    return Order(torch.cat(places), tuple(ahead))
