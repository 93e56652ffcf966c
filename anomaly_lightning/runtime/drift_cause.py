"""Which of three things changed: camera or lighting, the product, or how many parts are defective."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from anomaly_lightning.runtime.drift_measures import LOOKS, MEASURES

Cause = Literal["camera or lighting", "another product", "more defects"]
CAUSES: tuple[Cause, ...] = ("camera or lighting", "another product", "more defects")
WORDS: dict[Cause, str] = {
    "camera or lighting": "All images are different: check lens, focus, position, light; where all are NG, the parts.",
    "another product": "Images are not of the product that the model knows: check what is on the line.",
    "more defects": "Some images have larger errors than before, the others are as they were: check the process.",
}

CLEAR = 4.0  # standard errors that a median of normal scores has to be away from 0
FAR = 5.0  # standard deviations of the normals
OUT = 2.0  # normal score from which on an image is among those that moved
_NAMES = list(MEASURES)
_GROUPS = np.array([group for group, _ in MEASURES.values()])
_LOOKS = _GROUPS == LOOKS
_PRODUCT = [_NAMES.index(name) for name in ("log_aspect", "log_height", "layout")]
_MEDIAN_ERROR = 1.2533  # standard error of a median of normals, in units of that of their mean


def cause(scores: NDArray[np.float64], distances: NDArray[np.float64], invalid: NDArray[np.bool_], worst: int) -> Cause:
    """Name what happened to the images since the change.

    Where most images moved, camera or product changed: a median over the images does not see a share of defects. That
    all parts are defective at once can't be told from a camera that was touched; their verdicts tell it.

    Args:
        scores: (n, K) normal scores of the measures' ranks.
        distances: (n, K) signed distances from the normals' median, in their standard deviations.
        invalid: (n,), whether an image is not of the kind that the model knows.
        worst: Measure that raised the alarm.
    """
    if invalid.mean() >= 0.5:
        return _camera_or_product(distances[invalid])
    errors = np.median(scores, axis=0) * np.sqrt(len(scores)) / _MEDIAN_ERROR
    if np.abs(errors).max() > CLEAR:
        return "camera or lighting"
    out = np.abs(scores[:, worst]) > OUT
    if out.any() and invalid[out].mean() >= 0.5:
        return _camera_or_product(distances[out & invalid])
    return "camera or lighting" if _LOOKS[worst] else "more defects"


def _camera_or_product(distances: NDArray[np.float64]) -> Cause:
    """Where images (n, K) of an unknown kind come from: light and focus leave size and layout as they are."""
    middle = np.abs(np.median(distances, axis=0))
    return "another product" if (middle[_PRODUCT] > FAR).any() else "camera or lighting"
