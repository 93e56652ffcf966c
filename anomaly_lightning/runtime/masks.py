"""From a map to a mask: which pixels show a defect."""

import numpy as np
from numpy.typing import NDArray

from anomaly_lightning.runtime.decision import exceeds
from anomaly_lightning.runtime.regions import peaks_of


def predicted(anomaly_map: NDArray[np.floating], pixel_threshold: float, share: float = 0.0) -> NDArray[np.bool_]:
    """Pixels that show a defect: (H, W) bool.

    Where the map exceeds the pixel threshold there is a defect. But a map is smooth: around a strong one it stays above
    a threshold from normals far beyond the defect's edge. So of each connected region only the pixels count that lie a
    share of the way from the threshold to the region's largest value. No region is lost by it.

    Args:
        anomaly_map: (H, W) float.
        pixel_threshold: In the map's unit.
        share: In [0, 1); 0 = every pixel above the threshold.
    """
    above: NDArray[np.bool_] = exceeds(anomaly_map, pixel_threshold)
    if share > 0 and above.any():
        level = pixel_threshold + share * (peaks_of(above, anomaly_map) - pixel_threshold)
        above[above] = anomaly_map[above] >= level
    return above
