"""The localiser's own fit, after the detector's: a second, short training on the same features."""

import copy

import pytorch_lightning as pl
import torch

from anomaly_lightning.detectors.base import TrainedDetector
from anomaly_lightning.errors import UserError
from anomaly_lightning.features.datamodule import FeatureDataModule
from anomaly_lightning.model import AnomalyModel
from anomaly_lightning.training.module import AnomalyModule, Localising

ACCELERATORS = {"cuda": "gpu"}  # torch's word for a device -> Lightning's


def check_localising(trainer: pl.Trainer, module: AnomalyModule, data: pl.LightningDataModule) -> None:
    """Refuse before the fit what the localiser's own fit can't do.

    Raises:
        UserError: Features are not stored, or several processes train.
    """
    if module.model.localiser is None:
        return
    if not isinstance(data, FeatureDataModule):
        raise UserError(
            "A localiser is fitted on stored features. Expected cache.mode=disk or cache.mode=memory, or "
            "localiser=none."
        )
    if module.localising is not None and trainer.world_size > 1:
        raise UserError(
            f"A localiser that is trained by gradients is fitted in one process; {trainer.world_size} train here. "
            "Expected trainer.devices=1, or localiser=none or localiser=gaussian."
        )


def fit_localiser(trainer: pl.Trainer, module: AnomalyModule, data: pl.LightningDataModule) -> None:
    """Fit the localiser of a module whose detector is fitted; without one, nothing is done.

    Args:
        trainer: Has fitted the module; its loggers and callbacks are left alone.
        module: Its localiser is changed.
        data: Serves packed features.
    """
    localiser = module.model.localiser
    if localiser is None:
        return
    assert isinstance(data, FeatureDataModule), "check_localising has seen to it"
    if not isinstance(localiser.detector, TrainedDetector):
        with torch.no_grad():
            localiser.detector.prepare(module.walked(data.statistics_dataloader, lambda packed: packed))
        return
    assert module.localising is not None, "compose gives one to methods with gradients"
    own, device = _beside(module, localiser.detector, module.localising), module.device
    own_trainer = _trainer(module.localising, device, str(trainer.default_root_dir))
    own_trainer.fit(own, datamodule=_with_batches_of(data, module.localising.batch_size))
    own_trainer.datamodule.teardown("fit")  # type: ignore[attr-defined]
    module.to(device)  # Lightning has moved what both share


def _beside(module: AnomalyModule, detector: TrainedDetector, how: Localising) -> AnomalyModule:
    """A module that trains the localiser's detector on the same features."""
    model = AnomalyModel(module.model.extractor, detector, module.model.mapping, module.model.dtype)
    own = AnomalyModule(model, module.card, how.optimizer)
    own.labelled = module.labelled
    return own


def _with_batches_of(data: FeatureDataModule, size: int) -> FeatureDataModule:
    """The same features in other batches."""
    images = copy.copy(data.images)
    images.batch_size = size
    return FeatureDataModule(images, data.extractor, data.store, workers=data.workers, roles=data.roles)


def _trainer(how: Localising, device: torch.device, folder: str) -> pl.Trainer:
    return pl.Trainer(
        max_steps=how.steps,
        max_epochs=-1,
        accelerator=ACCELERATORS.get(device.type, device.type),
        devices=1 if device.index is None else [device.index],
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
