"""From a map to a mask: which pixels show a defect. Numpy alone."""

import numpy as np
from numpy.typing import NDArray

from anomaly_lightning.runtime.decision import exceeds
from anomaly_lightning.runtime.regions import bounds

SPAN = 25  # pixels of the network's input: about as far as its maps are smooth


def span(size: tuple[int, int], seen: tuple[int, int]) -> int:
    """Side in pixels of the square that a pixel is compared with.

    Args:
        size: (H, W) of the image, or of a tile where it is cut into some.
        seen: (H, W) that the network saw of it.
    """
    return round(SPAN * min(size) / min(seen))


def predicted(
    anomaly_map: NDArray[np.floating], pixel_threshold: float, share: float = 0.0, side: int = 1
) -> NDArray[np.bool_]:
    """Pixels that show a defect: (H, W) bool.

    Where the map exceeds the pixel threshold there is a defect. But a map is smooth: around a strong one it stays above
    a threshold from normals far beyond the defect's edge. So only the pixels count that lie a share of the way from the
    threshold to the largest value in a square around them.

    Args:
        anomaly_map: (H, W) float.
        pixel_threshold: In the map's unit.
        share: In [0, 1); 0 = every pixel above the threshold.
        side: Of the square, in pixels; see `span`.
    """
    above: NDArray[np.bool_] = exceeds(anomaly_map, pixel_threshold)
    window = bounds(above) if share > 0 else None
    if window is None:
        return above
    values = np.where(above[window], anomaly_map[window] - pixel_threshold, 0)
    above[window] &= values >= share * _largest(_largest(values, side).T, side).T
    return above


def _largest(values: NDArray[np.floating], side: int) -> NDArray[np.floating]:
    """Largest of the `side` (made odd) rows around each row of values (H, W) float, 0 beyond the edge: same shape."""
    side = side // 2 * 2 + 1
    largest = np.pad(values, ((side // 2, side // 2), (0, 0)))
    width = 1  # rows that each row of `largest` is the largest of, itself the first
    while width < side:
        step = min(width, side - width)
        largest = np.maximum(largest[:-step], largest[step:])
        width += step
    return largest
