"""Where a rule's scores of normals come from: held-out normals, and more of them, as a row of the suite holds them."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from anomaly_lightning.calibration import on_final_scale
from anomaly_lightning.calibration.scores import Scores

Source = Callable[[Mapping[str, Any]], Scores | None]
"""From the block `scores` of a row to scores (n,) of normals; None where the row lacks what it takes."""


def held_out(scores: Mapping[str, Any]) -> Scores:
    """Normals that nothing was fitted on."""
    return np.asarray(scores["normals"], dtype=np.float64)


def cross_fitted(scores: Mapping[str, Any]) -> Scores | None:
    """Held-out normals, and all training normals on the final detector's scale: what calibration_folds does."""
    if not scores.get("folds"):
        return None
    folds = [on_final_scale(fold["train"], fold["normals"], scores["normals"]) for fold in scores["folds"]]
    return np.concatenate((held_out(scores), *folds))


def plain_folds(scores: Mapping[str, Any]) -> Scores | None:
    """Held-out normals, and all training normals as the folds' detectors score them."""
    if not scores.get("folds"):
        return None
    return np.concatenate((held_out(scores), *(np.asarray(fold["train"]) for fold in scores["folds"])))


def changed(scores: Mapping[str, Any]) -> Scores | None:
    """Held-out normals, and the same moved, brighter and darker."""
    if not scores.get("changed"):
        return None
    return np.concatenate((held_out(scores), *map(np.asarray, scores["changed"].values())))


SOURCES: Mapping[str, Source] = MappingProxyType(
    {"held out": held_out, "cross-fitted": cross_fitted, "folds as they are": plain_folds, "changed": changed}
)
