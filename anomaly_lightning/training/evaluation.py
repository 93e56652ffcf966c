"""The evaluate command: the test pass of training, over again, from nothing but a checkpoint and images."""

import logging
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from omegaconf import DictConfig

from anomaly_lightning.bench.latency import single_image_ms
from anomaly_lightning.data import sources
from anomaly_lightning.data.datamodule import MVNetDataModule
from anomaly_lightning.errors import DataError
from anomaly_lightning.features.datamodule import FeatureDataModule
from anomaly_lightning.reports import console, run_files
from anomaly_lightning.reports.page import write_report
from anomaly_lightning.reports.results import Results, threshold_block
from anomaly_lightning.training.callbacks.heatmaps import Heatmaps
from anomaly_lightning.training.checkpoint import load_module
from anomaly_lightning.training.compose import check_region, cut_into_tiles, plain, store_for
from anomaly_lightning.training.session import quieten

logger = logging.getLogger(__name__)


def evaluate(cfg: DictConfig) -> dict[str, Any]:
    """Do what the config says; returns what metrics.json holds."""
    quieten()
    clock, folder = run_files.Clock(), Path(cfg.run_dir)
    module, transform, settings = load_module(Path(cfg.checkpoint), list(cfg.trust))
    module.decide(module.threshold.new_zeros(1))
    data = settings["data"]
    places = data if cfg.data.root is None else {**data, "layout": _root_layout(data), "root": cfg.data.root}
    resolved = sources.resolve(places, str(cfg.category or settings["category"]), Path(cfg.cache.dir))
    images = MVNetDataModule(
        resolved.category,
        transform,
        split=data["split"],
        validation_share=data["validation_share"],
        seed=settings["seed"],
        on_corrupt=cfg.data.on_corrupt,
    )
    cut_into_tiles(images, data.get("tile"), data.get("tile_overlap", 0), Path(cfg.cache.dir))
    check_region(module, images.splits.test)
    if not images.splits.test:
        raise DataError(
            f"{resolved.where} holds no test images of {images.category.name}: there is nothing to evaluate."
        )
    store = store_for(module.extractor, transform, cfg.cache.mode, Path(cfg.cache.dir), data["cache_dtype"])
    features = FeatureDataModule(images, module.extractor, store, workers=cfg.data.workers, roles=("test",))
    trainer = pl.Trainer(
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        devices=1,
        callbacks=[Heatmaps(str(folder / "heatmaps"))] if cfg.heatmaps else [],
        default_root_dir=folder,
    )
    used = {"checkpoint": cfg.checkpoint, "data": f"{resolved.where} ({resolved.why})", "outputs": str(folder)}
    console.banner(used)
    with clock.stage("test_s"):
        trainer.test(module, datamodule=features, verbose=False)
    results = Results.of(module, images.splits.test, transform)
    metrics = _metrics(cfg, settings, images, results)
    latency = single_image_ms(module, transform, images.splits.test, trainer.strategy.root_device)
    metrics["timing"] = {**clock.stages, "total_s": clock.total(), **latency}
    metrics["peak_memory_mb"] = run_files.peak_memory_mb()
    metrics["peak_gpu_memory_mb"] = run_files.peak_gpu_memory_mb()
    metrics["threshold"] = threshold_block(module, results)
    run_files.write_predictions(folder / "predictions.csv", results)
    run_files.write_error_maps(folder / "error_maps.npy", results)
    run_files.write_json(folder / "metrics.json", metrics)
    content = {"resolved": used, "skipped": images.skipped, **run_files.environment()}
    write_report(folder, results, metrics, content)
    console.summary(metrics, folder, Path(cfg.checkpoint))
    return metrics


def _root_layout(data: dict[str, Any]) -> str:
    """Layout for a given root: the run's own where that has roots, else MVNet's."""
    return str(data["layout"]) if data["root"] is not None else "mvnet"


def _metrics(cfg: DictConfig, settings: dict[str, Any], images: MVNetDataModule, results: Results) -> dict[str, Any]:
    return {
        "category": images.category.name,
        "model": str(settings["model"]["_target_"]).split(".")[-2],
        "backbone": settings["backbone"]["name"],
        "split": images.split,
        "seed": settings["seed"],
        "counts": images.splits.counts(),
        **results.metrics(plain(cfg.bootstrap), plain(cfg.seed)),
    }
