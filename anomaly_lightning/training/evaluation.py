"""The evaluate command: the test pass of training, over again, from nothing but a checkpoint or bundle, and images."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from omegaconf import DictConfig

from anomaly_lightning.data import sources
from anomaly_lightning.data.datamodule import MVNetDataModule
from anomaly_lightning.data.splits import enough_normals, only_tested
from anomaly_lightning.errors import DataError
from anomaly_lightning.features.datamodule import FeatureDataModule
from anomaly_lightning.model import AnomalyModel
from anomaly_lightning.reports import console, run_files
from anomaly_lightning.reports.results import Results
from anomaly_lightning.runtime.card import ModelCard
from anomaly_lightning.runtime.region import Region
from anomaly_lightning.runtime.tiles import Tiling
from anomaly_lightning.runtime.transform import ImageTransform
from anomaly_lightning.training.callbacks.heatmaps import Heatmaps
from anomaly_lightning.training.compose import check_numbers, cut_into_tiles, hashes_for, store_for
from anomaly_lightning.training.describe import check_region
from anomaly_lightning.training.exported import load_any
from anomaly_lightning.training.intake import Intake
from anomaly_lightning.training.module import AnomalyModule
from anomaly_lightning.training.outcome import gather_metrics, write_outcome
from anomaly_lightning.training.quiet import quieten
from anomaly_lightning.training.tested_data import TestedData, what_to_test, words

logger = logging.getLogger(__name__)

EVALUATION_FILE = "evaluation.json"


def evaluate(cfg: DictConfig) -> dict[str, Any]:
    """Do what the config says; returns what metrics.json holds."""
    quieten()
    check_numbers(cfg)
    clock, folder = run_files.Clock(), Path(cfg.run_dir)
    model, card = load_any(Path(cfg.checkpoint), list(cfg.trust))
    tested = what_to_test(cfg, card)
    datamodule, resolved = made_again(cfg, card, tested)
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
    differs = words(tested, datamodule.fingerprint, card)
    where = f"{resolved.where} ({resolved.why if tested.elsewhere else 'as the run had it'})"
    used = {"checkpoint": cfg.checkpoint, "category": tested.name, "data": where, "outputs": str(folder)}
    console.banner(used | {"note": differs or "the data of the run, by its fingerprint"})
    intake = Intake(resolved, datamodule, trained=datamodule.fingerprint == card.data.fingerprint)
    intake.warn()
    with clock.stage("test_s"):
        trainer.test(module, datamodule=_served(cfg, card, model, datamodule), verbose=False)
    results = Results.of(module, datamodule.splits.test)
    metrics = gather_metrics(module, datamodule, results, clock, intake, bootstrap=cfg.bootstrap, seed=cfg.seed)
    metrics["notes"] |= {"data": differs} if differs else {}
    skipped = {str(path): reason for path, reason in datamodule.skipped.items()}
    run = {"resolved": used, "skipped": skipped, **intake.content(), **run_files.environment()}
    write_outcome(folder, results, metrics, run)
    run_files.write_json(folder / EVALUATION_FILE, run | _content(tested, resolved, datamodule.fingerprint, card))
    console.summary(metrics, folder, Path(cfg.checkpoint))
    return metrics


def _content(tested: TestedData, resolved: sources.Resolved, fingerprint: str, card: ModelCard) -> dict[str, Any]:
    """What evaluation.json tells of the data."""
    return {
        "category": tested.name,
        "changes": tested.changes,
        "places": resolved.settings,
        "dataset_fingerprint": fingerprint,
        "run": {"category": card.category, "places": card.data.places, "dataset_fingerprint": card.data.fingerprint},
        "data_of_the_run": fingerprint == card.data.fingerprint,
    }


def made_again(
    cfg: DictConfig, card: ModelCard, tested: TestedData, masks: bool = True
) -> tuple[MVNetDataModule, sources.Resolved]:
    """Splits of what is tested, made as the run made them.

    Args:
        cfg: With data.on_corrupt and cache.dir.
        card: Of the run.
        tested: The category and its places.
        masks: Whether the masks are needed: they are read then, and images are cut where the run cut them. Without,
            images stay whole.
    """
    data = card.data
    resolved = sources.resolve(tested.settings, tested.name, Path(cfg.cache.dir))
    category, splits = resolved.category, None
    if tested.good_alone:
        category = replace(category, train=(), test=(*category.train, *category.test))
        splits, resolved = only_tested(category), replace(resolved, why="data.normal_test, as set")
    elif tested.changes and not enough_normals(category, data.split, data.seed):
        splits = only_tested(category, data.split, data.seed)  # nothing is trained or calibrated on these
    datamodule = MVNetDataModule(
        category,
        ImageTransform.from_card(card.transform),
        split=data.split,
        validation_share=data.validation_share,
        selection_share=data.selection_share if not tested.elsewhere else 0.0,  # other normals may be fewer
        seed=data.seed,
        on_corrupt=cfg.data.on_corrupt,
        shots=None if tested.elsewhere else data.shots,
        content_hash=hashes_for(cfg.cache),
        splits=splits,
    )
    if masks:
        datamodule.check_masks()
    if card.tiling is not None and masks:
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
