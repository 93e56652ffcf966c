"""Defects one by one: the connected regions of a mask, in image pixels. Numpy alone.

A mask is looked at as runs: stretches of set pixels in one row. Runs of neighbouring rows that touch, corners
included, belong together; which do is found for all rows at once, and who belongs to whom by hooking roots to smaller
ones (Shiloach and Vishkin, "An O(log n) parallel connectivity algorithm", J. Algorithms 3, 1982).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Point = tuple[int, int]


@dataclass(frozen=True)
class DefectRegion:
    """One connected defect.

    Attributes:
        box: (left, top, width, height) in pixels.
        contour: Corners (x, y) of its outer outline, clockwise on the screen, along the pixels' edges: the pixel in
            row r and column c covers [c, c + 1] x [r, r + 1].
        area: Pixels that belong to it; holes don't.
        peak: Largest error inside, in the unit of the anomaly map.
    """

    box: tuple[int, int, int, int]
    contour: tuple[Point, ...]
    area: int
    peak: float


@dataclass(frozen=True)
class _Runs:
    """Runs of a mask in raster order, (n,) each: row, first column, column after the last, label of the region."""

    rows: NDArray[np.intp]
    starts: NDArray[np.intp]
    ends: NDArray[np.intp]
    labels: NDArray[np.intp]


def find_regions(mask: NDArray[np.bool_], anomaly_map: NDArray[np.float32]) -> tuple[DefectRegion, ...]:
    """Connected regions of a mask, diagonal neighbours included, those with the largest peak first.

    Args:
        mask: (H, W) bool.
        anomaly_map: (H, W) float, whose largest value inside is a region's peak.
    """
    window = bounds(mask)
    if window is None:
        return ()
    top, left = window[0].start, window[1].start
    mask, anomaly_map = mask[window], anomaly_map[window]
    runs = _labelled(mask)
    count = int(runs.labels.max()) + 1
    lengths = runs.ends - runs.starts
    peaks = np.full(count, -np.inf, anomaly_map.dtype)
    np.maximum.at(peaks, runs.labels, np.maximum.reduceat(anomaly_map[mask], np.cumsum(lengths) - lengths))
    firsts, rows = np.full(count, mask.shape[1]), np.full(count, mask.shape[0])
    lasts, ends = np.zeros(count, int), np.zeros(count, int)
    np.minimum.at(firsts, runs.labels, runs.starts)
    np.minimum.at(rows, runs.labels, runs.rows)
    np.maximum.at(lasts, runs.labels, runs.ends)
    np.maximum.at(ends, runs.labels, runs.rows + 1)
    boxes = np.stack([left + firsts, top + rows, lasts - firsts, ends - rows], axis=1).tolist()
    areas = np.bincount(runs.labels, weights=lengths).astype(int).tolist()
    contours = _contours(mask, runs, (left, top))
    order = np.argsort(-peaks, kind="stable").tolist()
    return tuple(DefectRegion(tuple(boxes[i]), contours[i], areas[i], float(peaks[i])) for i in order)


def bounds(mask: NDArray[np.bool_]) -> tuple[slice, slice] | None:
    """The rows and columns that hold all of a mask (H, W), often a small part of it; None where nothing is set."""
    rows = np.flatnonzero(mask.any(1))
    if not len(rows):
        return None
    down = slice(int(rows[0]), int(rows[-1]) + 1)
    columns = np.flatnonzero(mask[down].any(0))
    return down, slice(int(columns[0]), int(columns[-1]) + 1)


def _labelled(mask: NDArray[np.bool_]) -> _Runs:
    """Runs of a mask (H, W), labelled from 0 in the order of their regions' first pixels."""
    height, width = mask.shape
    padded = np.zeros((height, width + 2), np.int8)
    padded[:, 1:-1] = mask
    edges = np.flatnonzero(np.diff(padded.ravel()))  # start, end, start, end, ... : the padding parts the rows
    starts, ends = edges[::2], edges[1::2]  # places in rows of width + 2
    rows = starts // (width + 2)
    # Of the row above, runs from `first` to before `last` touch: they end no earlier than this one starts, and start no
    # later than it ends.
    above = width + 2
    first, last = np.searchsorted(ends, starts - above), np.searchsorted(starts, ends - above, side="right")
    touching = np.maximum(last - first, 0)
    below = np.repeat(np.arange(len(rows)), touching)
    offsets = np.arange(len(below)) - np.repeat(np.cumsum(touching) - touching, touching)
    roots = _roots(len(rows), below, first[below] + offsets)
    labels = np.unique(roots, return_inverse=True)[1]
    return _Runs(rows, starts % above, ends - rows * above, labels)


def _roots(count: int, one: NDArray[np.intp], other: NDArray[np.intp]) -> NDArray[np.intp]:
    """Smallest member of the set that each of `count` things belongs to, where one[i] and other[i] belong together."""
    root = np.arange(count)
    while True:
        left, right = root[one], root[other]
        apart = left != right
        if not apart.any():
            return root
        one, other, left, right = one[apart], other[apart], left[apart], right[apart]
        np.minimum.at(root, np.maximum(left, right), np.minimum(left, right))
        while not np.array_equal(root, shorter := root[root]):
            root = shorter


def _contours(mask: NDArray[np.bool_], runs: _Runs, origin: Point) -> list[tuple[Point, ...]]:
    """Outer outline of each region, in the order of the labels; `origin` (x, y) is where the mask's corner lies.

    Corners that neighbour each other on one line of the grid are the two ends of one edge of an outline, so that each
    corner has one partner on its row and one on its column; an outline is walked from partner to partner.
    """
    y, x, twin = _corners(mask)
    count = len(y)
    across, down = np.empty(count, np.intp), np.empty(count, np.intp)
    across[0::2], across[1::2] = np.arange(1, count, 2), np.arange(0, count, 2)  # corners come row by row
    columns = np.lexsort((twin, y, x))
    down[columns[0::2]], down[columns[1::2]] = columns[1::2], columns[0::2]
    points = list(zip((origin[0] + x).tolist(), (origin[1] + y).tolist(), strict=True))
    right, vertical = across.tolist(), down.tolist()
    _, firsts = np.unique(runs.labels, return_index=True)
    places = np.searchsorted(y * (mask.shape[1] + 1) + x, runs.rows[firsts] * (mask.shape[1] + 1) + runs.starts[firsts])
    found = []
    for place in places.tolist():  # the upper left corner of a region's first pixel is on its outer outline
        walked, here = [], place
        while True:
            walked += [points[here], points[right[here]]]
            here = vertical[right[here]]
            if here == place:
                break
        found.append(tuple(walked))
    return found


def _corners(mask: NDArray[np.bool_]) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
    """Corners of the outlines of a mask (H, W), row by row: y, x, and the order of two at one place in their column.

    Where two pixels touch by a corner alone, two corners of the outline lie: the first is that of the edge from the
    left, the second that of the edge to the right. The outline turns so that the pixels stay together.
    """
    padded = np.pad(mask, 1)
    upper_left, upper_right = padded[:-1, :-1], padded[:-1, 1:]
    lower_left, lower_right = padded[1:, :-1], padded[1:, 1:]
    single = upper_left ^ upper_right ^ lower_left ^ lower_right
    double = (upper_left == lower_right) & (upper_right == lower_left) & (upper_left != upper_right)
    y, x = np.nonzero(single | double)
    copies = 1 + double[y, x]
    twice = np.repeat(copies == 2, copies)
    falling = np.repeat(upper_left[y, x], copies)  # set pixels above left and below right
    y, x = np.repeat(y, copies), np.repeat(x, copies)
    second = np.zeros(len(y), np.intp)
    second[1:] = twice[1:] & (y[1:] == y[:-1]) & (x[1:] == x[:-1])
    # The edge from the left goes on downwards around the empty pixel below left, or upwards around that above left.
    return y, x, np.where(twice & falling, 1 - second, second)
