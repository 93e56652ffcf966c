"""Training normals that look unlike the others, by the error of a detector that has not seen them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor

from anomaly_lightning.cache import FEATURES, limit_bytes
from anomaly_lightning.calibration import fold_indices
from anomaly_lightning.data.dataset import ImageDataset
from anomaly_lightning.detectors.base import Detector
from anomaly_lightning.errors import UserError
from anomaly_lightning.features.extract import fill
from anomaly_lightning.features.store import trim
from anomaly_lightning.reports.audit.facts import Facts
from anomaly_lightning.reports.audit.findings import Finding
from anomaly_lightning.runtime.appearance import robust_z
from anomaly_lightning.runtime.transform import ImageTransform
from anomaly_lightning.scoring import Scoring
from anomaly_lightning.training import compose
from anomaly_lightning.training.checkpoint import create_detector

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

    def findings(self, limit: float) -> list[Finding]:
        """Findings about the normals whose z is above a limit."""
        words = "out-of-fold error {score:.3g}, {z:.1f} robust standard deviations above the median"
        odd = [(Path(row["path"]), words.format(**row)) for row in self.rows if row["z"] > limit]
        return [Finding("looks_anomalous", (path,), said, (path,)) for path, said in odd]


@torch.inference_mode()
def rank(cfg: DictConfig, normals: Sequence[Facts]) -> Oddities:
    """Score each normal by a detector fitted on the other folds, and rank them.

    Args:
        cfg: Composed from conf/audit.yaml.
        normals: At least FEWEST, readable, each content once.

    Raises:
        UserError: The detector needs gradient steps.
    """
    folder, data, model = Path(cfg.cache.dir), compose.plain(cfg.data), compose.plain(cfg.model)
    extractor = compose.build_extractor(cfg)
    transform = ImageTransform(data["image_size"], extractor.backbone.mean, extractor.backbone.std, data["resize"])
    shape = extractor.shape(transform.size)

    def make() -> Detector:
        detector = create_detector(model, trust=[str(model["_target_"]).partition(".")[0]])
        detector.build(shape)
        return detector

    if make().trainable:
        raise UserError("The audit's model must be fitted without gradients: pca, padim or patchcore.")
    if cfg.cache.mode == "disk":
        trim(folder / FEATURES, limit_bytes(cfg.cache.max_gb))
    store = compose.store_for(extractor, transform, cfg.cache.mode, folder, cfg.cache.dtype)
    keys, dataset = [item.content for item in normals], ImageDataset([item.sample for item in normals], transform)
    fill(store, keys, dataset.images, extractor, batch_size=BATCH, workers=data["workers"])
    rows, maps = torch.as_tensor(store.rows(keys)), torch.empty(len(keys), *store.shape[1:])
    for known, held_out in fold_indices(len(keys), min(cfg.folds, len(keys)), cfg.seed):
        detector = make()
        for chosen in known.split(BATCH):
            detector.observe(store.batch(rows[chosen]))
        detector.finish()
        for chosen in held_out.split(BATCH):
            maps[chosen] = detector.error_map(store.batch(rows[chosen])).float()
    _, scores = Scoring(**compose.plain(cfg.scoring))(maps, transform.size)
    return ranked([item.path for item in normals], scores, maps)


def ranked(paths: Sequence[Path], scores: Tensor, error_maps: Tensor) -> Oddities:
    """N paths by their scores (N,) float, with error maps (N, h, w) float."""
    z = np.asarray(robust_z(scores.double().clamp_min(1e-12).log().numpy(), LOG_FLOOR))
    order = scores.argsort(descending=True)
    rows = [{"path": str(paths[i]), "score": float(scores[i]), "z": float(z[i])} for i in order.tolist()]
    return Oddities(rows, error_maps[order])
