"""The evaluate command: the test pass of training, over again, from nothing but a checkpoint or bundle, and images."""

import logging
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from omegaconf import DictConfig

from anomaly_lightning.data import sources
from anomaly_lightning.data.datamodule import MVNetDataModule
from anomaly_lightning.errors import DataError
from anomaly_lightning.features.datamodule import FeatureDataModule
from anomaly_lightning.model import AnomalyModel
from anomaly_lightning.reports import console, run_files
from anomaly_lightning.reports.results import Results
from anomaly_lightning.runtime.card import DataCard, ModelCard
from anomaly_lightning.runtime.region import Region
from anomaly_lightning.runtime.tiles import Tiling
from anomaly_lightning.runtime.transform import ImageTransform
from anomaly_lightning.training.callbacks.heatmaps import Heatmaps
from anomaly_lightning.training.compose import cut_into_tiles, store_for
from anomaly_lightning.training.describe import check_region
from anomaly_lightning.training.exported import load_any
from anomaly_lightning.training.module import AnomalyModule
from anomaly_lightning.training.outcome import gather_metrics, write_outcome
from anomaly_lightning.training.quiet import quieten

logger = logging.getLogger(__name__)


def evaluate(cfg: DictConfig) -> dict[str, Any]:
    """Do what the config says; returns what metrics.json holds."""
    quieten()
    clock, folder = run_files.Clock(), Path(cfg.run_dir)
    model, card = load_any(Path(cfg.checkpoint), list(cfg.trust))
    datamodule, resolved = made_again(cfg, card)
    if card.region is not None:
        check_region(Region.from_card(card.region), datamodule.splits.test)
    if not datamodule.splits.test:
        raise DataError(
            f"{resolved.where} holds no test images of {datamodule.category.name}: there is nothing to evaluate."
        )
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
    with clock.stage("test_s"):
        trainer.test(module, datamodule=_served(cfg, card, model, datamodule), verbose=False)
    results = Results.of(module, datamodule.splits.test)
    metrics = gather_metrics(module, datamodule, results, clock, bootstrap=cfg.bootstrap, seed=cfg.seed)
    run = {"resolved": used, "skipped": datamodule.skipped, **run_files.environment()}
    write_outcome(folder, results, metrics, run)
    console.summary(metrics, folder, Path(cfg.checkpoint))
    return metrics


def made_again(cfg: DictConfig, card: ModelCard, tiles: bool = True) -> tuple[MVNetDataModule, sources.Resolved]:
    """Splits of the run's category, or of another folder, made as the run made them.

    Args:
        cfg: With category, data.root, data.on_corrupt and cache.dir.
        card: Of the run.
        tiles: Whether images are cut where the run cut them; without, they stay whole.
    """
    data = card.data
    places = data.places if cfg.data.root is None else {**data.places, "layout": _layout(data), "root": cfg.data.root}
    resolved = sources.resolve(places, str(cfg.category or card.category), Path(cfg.cache.dir))
    datamodule = MVNetDataModule(
        resolved.category,
        ImageTransform.from_card(card.transform),
        split=data.split,
        validation_share=data.validation_share,
        selection_share=data.selection_share if cfg.data.root is None else 0.0,  # other normals may be fewer
        seed=data.seed,
        on_corrupt=cfg.data.on_corrupt,
        shots=data.shots if cfg.data.root is None else None,
    )
    if card.tiling is not None and tiles:
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
