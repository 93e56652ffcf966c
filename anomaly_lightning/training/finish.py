"""What follows the gradient steps: the best weights, the second pass, the localiser, the calibration, best.ckpt."""

from collections.abc import Callable
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint

from anomaly_lightning.training.localising import fit_localiser
from anomaly_lightning.training.module import AnomalyModule


def fit(trainer: pl.Trainer, module: AnomalyModule, datamodule: pl.LightningDataModule, ckpt: Path | None) -> None:
    """Train, or pass once over the features for methods without gradients.

    Args:
        trainer: Built for this module.
        module: Fresh.
        datamodule: Images or features.
        ckpt: last.ckpt of an interrupted run, to go on with it.
    """
    trainer.fit(module, datamodule=datamodule, ckpt_path=ckpt, weights_only=True)


def finalise(
    trainer: pl.Trainer,
    module: AnomalyModule,
    datamodule: pl.LightningDataModule,
    checkpoints: Path,
    calibrated: Callable[[], None] | None = None,
) -> Path:
    """Make the fitted module a finished one and write it to best.ckpt.

    The threshold can't be fitted in a training hook: it belongs to the best weights, known only after the last epoch.
    Without a callback that watches a loss, the last epoch's weights are the ones that are kept.

    Args:
        trainer: That has fitted it.
        module: Fitted.
        datamodule: With the validation normals.
        checkpoints: Folder of best.ckpt.
        calibrated: Called between calibration and writing, for what needs a model that can inspect; None = nothing.

    Returns:
        The written best.ckpt, whose thresholds are calibrated.
    """
    best = next((c for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint) and c.monitor), None)
    stopped = any(isinstance(callback, EarlyStopping) for callback in trainer.callbacks)  # type: ignore[attr-defined]
    module.chosen = ["the epoch"] if best is not None or stopped else []
    if best is not None and best.best_model_path:
        state = torch.load(best.best_model_path, map_location=module.device, weights_only=True)["state_dict"]
        module.complete(state)
        module.load_state_dict(state)
    module.to(trainer.strategy.root_device)
    module.conclude()
    fit_localiser(trainer, module, datamodule)
    trainer.validate(module, datamodule=datamodule, verbose=False)
    if calibrated is not None:
        calibrated()
    path = checkpoints / "best.ckpt"
    trainer.save_checkpoint(path)
    return path
