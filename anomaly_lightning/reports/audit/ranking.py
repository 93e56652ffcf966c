"""Ranks the training normals of an audit, as its config says."""

from collections.abc import Sequence
from pathlib import Path

import torch
from omegaconf import DictConfig

from anomaly_lightning.data.dataset import ImageDataset
from anomaly_lightning.detectors.base import Detector, Spec
from anomaly_lightning.detectors.registry import create_detector
from anomaly_lightning.features.extract import fill
from anomaly_lightning.features.housekeeping import limit_bytes, trim
from anomaly_lightning.places import FEATURES
from anomaly_lightning.reports.audit.facts import Facts
from anomaly_lightning.reports.audit.findings import Finding
from anomaly_lightning.reports.audit.oddity import Oddities, out_of_fold
from anomaly_lightning.runtime.transform import ImageTransform
from anomaly_lightning.scoring import Scoring
from anomaly_lightning.training import compose


def rank(cfg: DictConfig, normals: Sequence[Facts], white: int | None) -> Oddities:
    """Out-of-fold scores of normals that can be read, each content once.

    Args:
        cfg: Composed from conf/audit.yaml.
        normals: Those that are ranked.
        white: Grey level that counts as white in images of 16 bits; None = 65535.
    """
    folder, data, model = Path(cfg.cache.dir), compose.plain(cfg.data), compose.plain(cfg.model)
    extractor = compose.build_extractor(cfg)
    backbone = extractor.backbone
    transform = ImageTransform(data["image_size"], backbone.mean, backbone.std, data["resize"], white)
    if cfg.cache.mode == "disk":
        trim(folder / FEATURES, limit_bytes(cfg.cache.max_gb))
    store = compose.store_for(extractor, transform, cfg.cache.mode, folder, cfg.cache.dtype)
    keys, dataset = [item.content for item in normals], ImageDataset([item.sample for item in normals], transform)
    fill(store, keys, dataset.images, extractor, batch_size=16, workers=data["workers"])
    spec = Spec(extractor.shape(transform.size), transform.size)

    def make() -> Detector:
        detector = create_detector(model, trust=[str(model["_target_"]).partition(".")[0]])
        detector.build(spec)
        return detector

    paths = [item.path for item in normals]
    scoring = Scoring(**compose.plain(cfg.scoring), grid=make().grid(spec), size=transform.size)
    with torch.inference_mode():
        return out_of_fold(store, keys, paths, make, scoring, cfg.folds, cfg.seed)


def odd(oddities: Oddities, limit: float) -> list[Finding]:
    """Findings about the normals whose z is above a limit."""
    words = "out-of-fold error {score:.3g}, {z:.1f} robust standard deviations above the median"
    return [
        Finding("looks_anomalous", (Path(row["path"]),), words.format(**row), (Path(row["path"]),))
        for row in oddities.rows()
        if row["z"] > limit
    ]
