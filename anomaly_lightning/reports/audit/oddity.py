"""Training normals that look unlike the others, by the error of a detector that has not seen them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor

from anomaly_lightning.calibration import fold_indices
from anomaly_lightning.data.dataset import ImageDataset
from anomaly_lightning.detectors.base import Detector, Spec, TrainedDetector
from anomaly_lightning.detectors.registry import create_detector
from anomaly_lightning.errors import UserError
from anomaly_lightning.features.batches import Repeated
from anomaly_lightning.features.extract import fill
from anomaly_lightning.features.housekeeping import limit_bytes, trim
from anomaly_lightning.features.store import FeatureStore
from anomaly_lightning.places import FEATURES
from anomaly_lightning.reports.audit.facts import Facts
from anomaly_lightning.reports.audit.findings import Finding, robust_z
from anomaly_lightning.runtime.transform import ImageTransform
from anomaly_lightning.scoring import Scoring
from anomaly_lightning.training import compose

FEWEST = 10  # normals; with fewer no detector learns what is usual
LOG_FLOOR = 0.05  # smallest spread of the log scores that is believed
BATCH = 16


@dataclass(frozen=True)
class Oddities:
    """Out-of-fold errors of normals, the most anomalous first.

    Attributes:
        rows: N plain path, score (raw error) and z (robust standard deviations of the log score above the median).
        error_maps: (N, h, w) float, raw errors.
    """

    rows: Sequence[dict[str, Any]]
    error_maps: Tensor

    def findings(self, limit: float, exclude: bool) -> list[Finding]:
        """Findings about the normals whose z is above a limit, to be left out of training or only to be looked at."""
        words = "out-of-fold error {score:.3g}, {z:.1f} robust standard deviations above the median"
        odd = [(Path(row["path"]), words.format(**row)) for row in self.rows if row["z"] > limit]
        return [Finding("looks_anomalous", (path,), said, (path,) if exclude else ()) for path, said in odd]


@torch.inference_mode()
def rank(cfg: DictConfig, normals: Sequence[Facts], white: int | None) -> Oddities:
    """Score each normal by a detector fitted on the other folds, and rank them.

    Args:
        cfg: Composed from conf/audit.yaml.
        normals: At least FEWEST, readable, each content once.
        white: Grey level that counts as white in images of 16 bits; None = 65535.

    Raises:
        UserError: The detector needs gradient steps.
    """
    folder, data, model = Path(cfg.cache.dir), compose.plain(cfg.data), compose.plain(cfg.model)
    extractor = compose.build_extractor(cfg)
    mean, std = extractor.backbone.mean, extractor.backbone.std
    transform = ImageTransform(data["image_size"], mean, std, data["resize"], white)
    spec = Spec(extractor.shape(transform.size), transform.size, extractor.scales(transform.size))

    def make() -> Detector:
        detector = create_detector(model, trust=[str(model["_target_"]).partition(".")[0]])
        detector.build(spec)
        return detector

    fresh = make()
    if isinstance(fresh, TrainedDetector):
        raise UserError("The audit's model must be fitted without gradients: pca, padim or patchcore.")
    if cfg.cache.mode == "disk":
        trim(folder / FEATURES, limit_bytes(cfg.cache.max_gb))
    store = compose.store_for(extractor, transform, cfg.cache.mode, folder, cfg.cache.dtype)
    keys, dataset = [item.content for item in normals], ImageDataset([item.sample for item in normals], transform)
    fill(store, keys, dataset.images, extractor, batch_size=BATCH, workers=data["workers"])
    maps = torch.empty(len(keys), *fresh.grid(spec))
    for known, held_out in fold_indices(len(keys), min(cfg.folds, len(keys)), cfg.seed):
        detector = make()
        detector.prepare(Repeated(partial(_batches, store, keys, known)))
        for chosen in held_out.split(BATCH):
            maps[chosen] = detector.error_map(_features(store, keys, chosen)).float()
    parts = {name: value for name, value in compose.plain(cfg.scoring).items() if name != "mask_share"}
    _, scores = Scoring(**parts, grid=fresh.grid(spec), size=transform.size)(maps)
    return _ranked([item.path for item in normals], scores, maps)


def _batches(store: FeatureStore, keys: Sequence[str], places: Tensor) -> Iterator[Tensor]:
    """Features (B, C, h, w) float of places (n,) int64 among the keys, batch by batch."""
    return (_features(store, keys, chosen) for chosen in places.split(BATCH))


def _features(store: FeatureStore, keys: Sequence[str], places: Tensor) -> Tensor:
    """Features (B, C, h, w) float32 of places (B,) int64 among the keys."""
    return store.batch([keys[place] for place in places.tolist()])


def _ranked(paths: Sequence[Path], scores: Tensor, error_maps: Tensor) -> Oddities:
    """N paths by their scores (N,) float, with error maps (N, h, w) float."""
    z = np.asarray(robust_z(scores.double().clamp_min(1e-12).log().numpy(), LOG_FLOOR))
    order = scores.argsort(descending=True)
    rows = [{"path": str(paths[i]), "score": float(scores[i]), "z": float(z[i])} for i in order.tolist()]
    return Oddities(rows, error_maps[order])
