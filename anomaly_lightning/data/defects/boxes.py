"""The part of an image that a made defect touches: work on it alone gives the same pixels in less time."""

import numpy as np
from numpy.typing import NDArray

Box = tuple[slice, slice]


def around(mask: NDArray[np.bool_], margin: float) -> Box:
    """Rows and columns that hold all of a mask (H, W) bool, which is not empty, and a margin in pixels around it."""
    spans = []
    for axis in (1, 0):
        inside = np.flatnonzero(mask.any(axis=axis))
        spans.append(slice(max(0, int(inside[0] - margin)), int(inside[-1] + margin) + 1))
    return spans[0], spans[1]
