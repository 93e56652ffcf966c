"""Training normals that look unlike the others, by the error of a detector that has not seen them."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from anomaly_lightning.calibration import fold_indices
from anomaly_lightning.detectors.base import Detector, TrainedDetector
from anomaly_lightning.errors import UserError
from anomaly_lightning.features.batches import Repeated
from anomaly_lightning.features.store import FeatureStore
from anomaly_lightning.reports.audit.findings import robust_z
from anomaly_lightning.scoring import Scoring

FEWEST = 10  # normals; with fewer no detector learns what is usual
LOG_FLOOR = 0.05  # smallest spread of the log scores that is believed


@dataclass(frozen=True)
class Oddities:
    """Out-of-fold errors of normals.

    Attributes:
        paths: N images, the most anomalous first.
        scores: (N,) float, raw errors.
        z: (N,) float, robust standard deviations of the log score above the median.
        error_maps: (N, h, w) float, raw errors.
    """

    paths: Sequence[Path]
    scores: Tensor
    z: Tensor
    error_maps: Tensor

    def rows(self) -> list[dict[str, Any]]:
        """Plain path, score and z of each."""
        values = zip(self.paths, self.scores.tolist(), self.z.tolist(), strict=True)
        return [{"path": str(path), "score": score, "z": z} for path, score, z in values]


def out_of_fold(
    store: FeatureStore,
    keys: Sequence[str],
    paths: Sequence[Path],
    make: Callable[[], Detector],
    scoring: Scoring,
    folds: int = 5,
    seed: int = 0,
    batch: int = 16,
) -> Oddities:
    """Score every normal by a detector fitted on the other folds, and rank them.

    Args:
        store: Holds the features of all.
        keys: N content hashes.
        paths: N files.
        make: A fresh detector, fitted without gradients.
        scoring: From error maps to scores.
        folds: How many detectors are fitted.
        seed: Of the folds.
        batch: Images taken from the store at once.

    Raises:
        UserError: The detector needs gradient steps, or there are too few normals.
    """
    if len(keys) < FEWEST:
        raise UserError(f"Ranking normals by their error needs at least {FEWEST} of them; there are {len(keys)}.")
    if isinstance(make(), TrainedDetector):
        raise UserError("The audit's model must be fitted without gradients: pca, padim or patchcore.")
    maps = torch.empty(len(keys), *store.shape[1:])
    for known, held_out in fold_indices(len(keys), min(folds, len(keys)), seed):
        detector = make()
        detector.prepare(Repeated(partial(_batches, store, keys, known, batch)))
        for chosen in held_out.split(batch):
            maps[chosen] = detector.error_map(_features(store, keys, chosen)).float()
    _, scores = scoring(maps)
    order = scores.argsort(descending=True)
    logs = scores.double().clamp_min(1e-12).log().numpy()
    z = torch.from_numpy(np.asarray(robust_z(logs, LOG_FLOOR)))
    return Oddities([paths[i] for i in order.tolist()], scores[order], z[order], maps[order])


def _batches(store: FeatureStore, keys: Sequence[str], places: Tensor, size: int) -> Iterator[Tensor]:
    """Features (B, C, h, w) float of places (n,) int64 among the keys, batch by batch."""
    return (_features(store, keys, chosen) for chosen in places.split(size))


def _features(store: FeatureStore, keys: Sequence[str], places: Tensor) -> Tensor:
    """Features (B, C, h, w) float32 of places (B,) int64 among the keys."""
    return store.batch([keys[place] for place in places.tolist()])
