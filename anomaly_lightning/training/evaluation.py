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
from anomaly_lightning.model import AnomalyModel
from anomaly_lightning.reports import console, run_files
from anomaly_lightning.reports.page import write_report
from anomaly_lightning.reports.results import Results, threshold_block
from anomaly_lightning.runtime.card import DataCard, ModelCard
from anomaly_lightning.runtime.region import Region
from anomaly_lightning.runtime.tiles import Tiling
from anomaly_lightning.runtime.transform import ImageTransform
from anomaly_lightning.training.callbacks.heatmaps import Heatmaps
from anomaly_lightning.training.checkpoint import load_model
from anomaly_lightning.training.compose import check_region, cut_into_tiles, plain, store_for
from anomaly_lightning.training.intake import warn_of_intake, with_mask_note
from anomaly_lightning.training.module import AnomalyModule
from anomaly_lightning.training.session import quieten

logger = logging.getLogger(__name__)


def evaluate(cfg: DictConfig) -> dict[str, Any]:
    """Do what the config says; returns what metrics.json holds."""
    quieten()
    clock, folder = run_files.Clock(), Path(cfg.run_dir)
    model, card = load_model(Path(cfg.checkpoint), list(cfg.trust))
    datamodule, resolved = _datamodule(cfg, card)
    if card.region is not None:
        check_region(Region.from_card(card.region), datamodule.splits.test)
    if not datamodule.splits.test:
        raise DataError(
            f"{resolved.where} holds no test images of {datamodule.category.name}: there is nothing to evaluate."
        )
    transform = datamodule.transform
    module = AnomalyModule(model, card)
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
    warn_of_intake(resolved, datamodule)
    with clock.stage("test_s"):
        trainer.test(module, datamodule=_served(cfg, card, model, datamodule), verbose=False)
    results = Results.of(module, datamodule.splits.test)
    metrics = _metrics(cfg, card, datamodule, results)
    latency = single_image_ms(model, transform, datamodule.splits.test, trainer.strategy.root_device)
    metrics["timing"] = {**clock.stages, "total_s": clock.total(), **latency}
    metrics["peak_memory_mb"] = run_files.peak_memory_mb()
    metrics["peak_gpu_memory_mb"] = run_files.peak_gpu_memory_mb()
    metrics["threshold"] = threshold_block(card, results)
    run_files.write_predictions(folder / "predictions.csv", results)
    run_files.write_error_maps(folder / "error_maps.npy", results)
    run_files.write_json(folder / "metrics.json", metrics)
    beside = [group.plain() for group in resolved.left_out]
    content = {"resolved": used, "skipped": datamodule.skipped, "left_out": beside, **run_files.environment()}
    write_report(folder, results, metrics, content)
    console.summary(metrics, folder, Path(cfg.checkpoint))
    return metrics


def _datamodule(cfg: DictConfig, card: ModelCard) -> tuple[MVNetDataModule, sources.Resolved]:
    """Splits of the run's category, or of another folder, made as the run made them."""
    data = card.data
    places = data.places if cfg.data.root is None else {**data.places, "layout": _layout(data), "root": cfg.data.root}
    resolved = sources.resolve(places, str(cfg.category or card.category), Path(cfg.cache.dir))
    datamodule = MVNetDataModule(
        resolved.category,
        ImageTransform.from_card(card.transform),
        split=data.split,
        validation_share=data.validation_share,
        selection_share=data.selection_share,
        seed=data.seed,
        on_corrupt=cfg.data.on_corrupt,
    )
    datamodule.check_masks()
    if card.tiling is not None:
        cut_into_tiles(datamodule, Tiling.from_card(card.tiling), Path(cfg.cache.dir))
    return datamodule, resolved


def _served(
    cfg: DictConfig, card: ModelCard, model: AnomalyModel, datamodule: MVNetDataModule
) -> MVNetDataModule | FeatureDataModule:
    """What the detector sees of the test images: features out of a store, or the images."""
    if model.detector.inputs == "images":
        return datamodule
    store = store_for(model.extractor, datamodule.transform, cfg.cache.mode, Path(cfg.cache.dir), card.features.dtype)
    return FeatureDataModule(datamodule, model.extractor, store, workers=cfg.data.workers, roles=("test",))


def _layout(data: DataCard) -> str:
    """Layout for a given root: the run's own where that has roots, else MVNet's."""
    return str(data.places["layout"]) if data.places["root"] is not None else "mvnet"


def _metrics(cfg: DictConfig, card: ModelCard, datamodule: MVNetDataModule, results: Results) -> dict[str, Any]:
    return {
        "category": datamodule.category.name,
        "model": card.detector.name,
        "backbone": card.backbone.name,
        "split": datamodule.split,
        "seed": card.seed,
        "counts": datamodule.splits.counts(),
        **with_mask_note(results.metrics(plain(cfg.bootstrap), plain(cfg.seed)), datamodule),
    }
