"""Old and new normals as one set of splits, and a model whose statistics rest on all of them.

The old normals come from where the run had them, their features out of the store: statistics of old and new together
are then exactly those that fitting on both would give, for every method and without anything more in the checkpoint.
What a checkpoint could carry in their place would be sums for PCA and PaDiM; of a memory the bank alone is left, and a
coreset of a coreset is another one.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
from omegaconf import DictConfig

from anomaly_lightning.calibration import Quantile
from anomaly_lightning.data.datamodule import MVNetDataModule
from anomaly_lightning.data.samples import Sample
from anomaly_lightning.data.splits import Splits
from anomaly_lightning.errors import CalibrationError, DataError, UserError
from anomaly_lightning.features.datamodule import FeatureDataModule
from anomaly_lightning.model import AnomalyModel
from anomaly_lightning.runtime.card import DriftCard, ModelCard, ValidityCard
from anomaly_lightning.runtime.drift_fit import fit_drift
from anomaly_lightning.runtime.inspector import Inspector
from anomaly_lightning.runtime.tiles import Tiling
from anomaly_lightning.runtime.validity import fit_validity
from anomaly_lightning.training.callbacks.calibration import CalibrationCallback
from anomaly_lightning.training.checkpoint import TorchEngine
from anomaly_lightning.training.compose import cut_into_tiles, store_for
from anomaly_lightning.training.evaluation import made_again
from anomaly_lightning.training.module import AnomalyModule
from anomaly_lightning.training.tested_data import what_to_test
from anomaly_lightning.upkeep import threshold

logger = logging.getLogger(__name__)

CALIBRATE_ON = ("new", "all")


@dataclass(frozen=True)
class NewNormals:
    """New good parts, parted by chance.

    Attributes:
        absorbed: Those that go into the statistics.
        held_out: Those that give the threshold, and see how the detector does.
    """

    absorbed: tuple[Path, ...]
    held_out: tuple[Path, ...]


def refuse(model: AnomalyModel) -> None:
    """Raise `UserError`, which names it, where a detector can't take new normals in."""
    if not model.detector.absorbs:
        raise UserError(
            f"{type(model.detector).__name__} as it was set up keeps all that it knows of normals in weights that are "
            "trained by gradients: it can't take new ones in. Train again with the new images among the normals."
        )


def parted(paths: Sequence[Path], share: float, seed: int) -> NewNormals:
    """Part new normals by chance.

    Args:
        paths: All of them.
        share: Of them that gives the threshold, in (0, 1).
        seed: Of the permutation.

    Raises:
        DataError: A share without a meaning, or too few images for both parts.
    """
    if not 0 < share < 1:
        raise DataError(f"held_out={share}: expected a share above 0 and below 1.")
    count = max(1, round(share * len(paths)))
    if len(paths) - count < 1:
        raise DataError(f"{len(paths)} new normals came: at least 2 are needed, to take in and to try the result on.")
    drawn = set(np.random.default_rng(seed).permutation(len(paths))[:count].tolist())
    absorbed = tuple(path for index, path in enumerate(paths) if index not in drawn)
    return NewNormals(absorbed, tuple(path for index, path in enumerate(paths) if index in drawn))


def old_data(cfg: DictConfig, card: ModelCard) -> MVNetDataModule:
    """The run's own normals, whole images, as it split them; no test image.

    Raises:
        DataError: They are not where they were.
    """
    try:
        datamodule, _ = made_again(cfg, card, what_to_test(cfg, card), masks=False)
    except DataError as error:
        raise DataError(
            f"The statistics are made of the run's own normals and the new ones, but {error} Set data.root (or "
            "data.normal) to where they are; without them train again."
        ) from error
    datamodule.splits = replace(datamodule.splits, test=())
    return datamodule


def without_known(datamodule: MVNetDataModule, paths: Sequence[Path]) -> list[Path]:
    """Those of new normals whose content the run did not have: one it learned from would try nothing."""
    known = {datamodule.content_hash(sample.path) for sample in datamodule.splits.normals}
    new = [path for path in paths if datamodule.content_hash(path) not in known]
    if len(new) < len(paths):
        logger.warning("%d of %d normals are images of the run itself: left out", len(paths) - len(new), len(paths))
    return new


def joined(
    datamodule: MVNetDataModule, new: NewNormals, card: ModelCard, cache: Path, calibrate_on: str = "new"
) -> None:
    """Put new normals beside the old ones: what is absorbed to the training's, the others to those held out.

    Args:
        datamodule: Its splits are replaced.
        new: The new normals.
        card: Of the model.
        cache: Folder for tiles.
        calibrate_on: "new": the new ones alone give the threshold, and the run's own held-out ones weigh the error's
            parts; "all": both do both, as far as the run had none apart for the weights.

    Raises:
        UserError: `calibrate_on` is neither.
    """
    if calibrate_on not in CALIBRATE_ON:
        raise UserError(f"calibrate_on={calibrate_on}: expected one of {', '.join(CALIBRATE_ON)}.")
    old, held_out = datamodule.splits, tuple(map(Sample, new.held_out))
    apart = calibrate_on == "new"
    datamodule.splits = replace(
        old,
        train=(*old.train, *map(Sample, new.absorbed)),
        validation=held_out if apart else (*old.validation, *held_out),
        selection=(*old.selection, *old.validation) if apart else old.selection,
    )
    if card.tiling is not None:
        cut_into_tiles(datamodule, Tiling.from_card(card.tiling), cache)


def absorb(cfg: DictConfig, model: AnomalyModel, card: ModelCard, datamodule: MVNetDataModule) -> ModelCard:
    """Let a model take in all normals of the splits and calibrate it anew; returns the card that then holds.

    Args:
        cfg: With cache, data, defects and pixel_quantile.
        model: Changed in place.
        card: Of the model.
        datamodule: Old and new normals.

    Raises:
        CalibrationError: Too few held-out normals for the promise that it makes.
    """
    known = threshold.thresholds_of(card)
    rule = threshold.rule_of(known)
    held_out, least = len(datamodule.splits.validation), threshold.needed(rule, known)
    if held_out < least:
        raise CalibrationError(
            f"{held_out} held-out normals give the threshold, at least {least} are needed for the promise that this "
            f"model makes: {least - held_out} more to go. Add images, raise held_out, or let the run's own held-out "
            "normals count, too (calibrate_on=all): then the promise is one about a mixture of both times."
        )
    module = AnomalyModule(model, card)
    data = _served(cfg, model, card, datamodule)
    calibrate = CalibrationCallback(rule, Quantile(q=cfg.pixel_quantile), cfg.defects if rule.labelled else None)
    trainer = pl.Trainer(
        logger=False, enable_progress_bar=False, enable_model_summary=False, devices=1, callbacks=[calibrate]
    )
    data.trainer = trainer
    data.setup("fit")
    module.to(trainer.strategy.root_device)
    normals = module.walked(data.statistics_dataloader)
    held = module.walked(data.held_out_dataloader)
    with torch.no_grad():
        model.detector.absorb(normals, held)
    module.chosen = ["the weights of the error's parts"] if held.walked else []
    trainer.validate(module, datamodule=data, verbose=False)
    model.to("cpu")
    return module.card


def _served(
    cfg: DictConfig, model: AnomalyModel, card: ModelCard, datamodule: MVNetDataModule
) -> MVNetDataModule | FeatureDataModule:
    """What the detector sees of old and new normals; only what the store lacks is computed."""
    if model.detector.inputs == "images":
        datamodule.workers = cfg.data.workers
        return datamodule
    store = store_for(model.extractor, datamodule.transform, cfg.cache.mode, Path(cfg.cache.dir), card.features.dtype)
    return FeatureDataModule(datamodule, model.extractor, store, workers=max(1, cfg.data.workers))


def validity(card: ModelCard, images: Sequence[Path]) -> ValidityCard | None:
    """What images of this kind look like, by old and new normals; None where the model does not check."""
    if card.validity is None:
        return None
    fitted = fit_validity(images, card.seed, card.transform.white)
    return None if fitted is None else fitted.card()


def drift(model: AnomalyModel, card: ModelCard, old: Splits, new: NewNormals) -> DriftCard | None:
    """What old and new normals measure with the updated model; None where the model before was not watched.

    Args:
        model: Updated.
        card: Of it, with its thresholds.
        old: Whole images of the run.
        new: That were taken in, and held out.
    """
    if card.drift is None:
        return None
    held_out = [*(sample.path for sample in old.validation), *new.held_out]
    trained = [*(sample.path for sample in old.train), *new.absorbed]
    return fit_drift(Inspector(card, TorchEngine(model, "cpu")), held_out, trained)
