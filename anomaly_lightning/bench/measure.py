"""One benchmark from a composed config: trains, measures predictions, compares with the naive loop and a baseline."""

import os
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from omegaconf import DictConfig, OmegaConf

from anomaly_lightning.bench import inference, training
from anomaly_lightning.data.datamodule import MVNetDataModule
from anomaly_lightning.errors import UserError
from anomaly_lightning.features.extractor import FeatureExtractor
from anomaly_lightning.places import CONFIG_DIR
from anomaly_lightning.reports import run_files
from anomaly_lightning.reports.peak_memory import peak_gpu_memory_mb, peak_memory_mb
from anomaly_lightning.training import compose
from anomaly_lightning.training.module import AnomalyModule
from anomaly_lightning.training.quiet import quieten


def measure(cfg: DictConfig) -> dict[str, Any]:
    """Do what the config says; returns what benchmark.json holds, and writes it."""
    quieten()
    baseline = _baseline(cfg)
    Path(cfg.run_dir).mkdir(parents=True, exist_ok=True)
    pl.seed_everything(cfg.seed, verbose=False)
    extractor = compose.build_extractor(cfg)
    images, resolved = built = compose.build_datamodule(cfg, extractor.backbone)
    serving = partial(training.store_data, cfg, images)
    memory, comparison = {"start": peak_memory_mb()}, None
    try:
        own, module = training.run(training.variant(cfg, "own"), built, extractor, serving, cfg.test)
        methods = {_name(module): own}
        memory["training"] = peak_memory_mb()
        predictions = _predictions(cfg, module, images)
        memory["predictions"] = peak_memory_mb()
        if baseline is not None:
            other, fitted = training.run(baseline, built, extractor, serving, baseline.test)
            methods[f"{_name(fitted)} (baseline)"] = other
            comparison = training.comparison(own, other)
    finally:
        shutil.rmtree(Path(cfg.run_dir) / "cache", ignore_errors=True)
    measured = {
        "machine": {**run_files.environment(), "load_average": _load()},
        "resolved": {"data": resolved.where, "why": resolved.why, **_what(cfg, module, images)},
        "inference": predictions,
        "training": methods,
        "comparison": comparison,
        "naive": _naive(cfg, module, extractor, own),
        "peak_memory_mb": {**memory, "gpu": peak_gpu_memory_mb()},
    }
    run_files.write_json(Path(cfg.run_dir) / "benchmark.json", measured)
    return measured


def _baseline(cfg: DictConfig) -> DictConfig | None:
    """Config of the baseline's run.

    Raises:
        UserError: There is no such method.
    """
    if cfg.bench.baseline is None:
        return None
    file = CONFIG_DIR / "model" / f"{cfg.bench.baseline}.yaml"
    if not file.is_file():
        there = ", ".join(sorted(path.stem for path in file.parent.glob("*.yaml")))
        raise UserError(f"bench.baseline={cfg.bench.baseline}: no such method. Expected null or one of {there}.")
    changed = cfg.copy()
    OmegaConf.set_struct(changed, False)
    return training.variant(changed, "baseline", model=OmegaConf.load(file), localiser=training.no_localiser())


def _predictions(cfg: DictConfig, module: AnomalyModule, images: MVNetDataModule) -> dict[str, Any]:
    """Stages for one image and for a batch."""
    rounds, warmup, samples = cfg.bench.rounds, cfg.bench.warmup, images.splits.test or images.splits.train
    sizes = {"single": 1, "batch": cfg.bench.batch_size}
    measured = {}
    for name, size in sizes.items():
        times = inference.stages(module.model, images.transform, samples, size, max(3, rounds // size), warmup)
        measured[name] = {"images": size, "stages": times}
    return measured


def _naive(
    cfg: DictConfig, module: AnomalyModule, extractor: FeatureExtractor, own: dict[str, Any]
) -> dict[str, Any] | None:
    """The naive loop and how many times faster the store is, its build included; None where that makes no sense."""
    if cfg.bench.naive_epochs == 0 or module.trained is None:
        return None
    loop = training.naive(cfg, extractor, cfg.bench.naive_epochs, own["epochs"])
    with_store = own["features_s"] + own["fit_s"]
    return {**loop, "with_store_s": with_store, "speedup": loop["extrapolated_s"] / with_store}


def _what(cfg: DictConfig, module: AnomalyModule, images: MVNetDataModule) -> dict[str, Any]:
    return {
        "category": str(cfg.category.name),
        "backbone": module.model.extractor.backbone.name,
        "model": module.card.detector.name,
        "features": list(module.card.features.shape),
        "image_size": list(images.transform.size),
        "precision": {"features": module.model.extractor.precision.name, "training": str(cfg.trainer.precision)},
        "counts": images.splits.counts(),
    }


def _name(module: AnomalyModule) -> str:
    return module.card.detector.name


def _load() -> list[float] | None:
    """Processes that wanted a CPU in the last 1, 5 and 15 minutes; with more than there are CPUs, times mean little."""
    return [round(value, 2) for value in os.getloadavg()] if hasattr(os, "getloadavg") else None
