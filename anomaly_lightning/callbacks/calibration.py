"""Fits the thresholds on validation normals, after training, and writes them into the module's buffers."""

import dataclasses
import logging
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.trainer.states import TrainerFn

from anomaly_lightning.calibration import Calibration, Rule
from anomaly_lightning.module import AnomalyModule

logger = logging.getLogger(__name__)


class CalibrationCallback(pl.Callback):
    """Calibrates whenever the validation normals are scored outside of training.

    While fitting, validation only watches the loss: the weights still change, and the sanity check's are untrained.

    Args:
        rule: From scores of normals to the threshold.
        pixel_rule: From the values of all pixels of the normals' maps to the pixel threshold.
    """

    def __init__(self, rule: Rule, pixel_rule: Rule) -> None:
        self.rule, self.pixel_rule = rule, pixel_rule

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Fit both thresholds on what the validation normals scored."""
        assert isinstance(pl_module, AnomalyModule)
        if trainer.state.fn == TrainerFn.FITTING:
            return
        scores, error_maps = pl_module.evaluated()
        calibration = self.rule.fit(scores)
        maps, _ = pl_module.scoring(error_maps, pl_module.size)
        pl_module.threshold.fill_(calibration.threshold)
        pl_module.pixel_threshold.fill_(self.pixel_rule.place(maps.flatten().double().numpy()))
        names = [sample.path for sample in trainer.datamodule.splits.validation]  # type: ignore[attr-defined]
        pl_module.calibration = plain(calibration, pl_module.threshold, names)
        for warning in pl_module.calibration["warnings"]:
            logger.warning(warning)


def plain(calibration: Calibration, threshold: torch.Tensor, names: list[Path]) -> dict[str, Any]:
    """A calibration as plain values, with the threshold as the buffer holds it and the influential normal by name."""
    values: dict[str, Any] = dataclasses.asdict(calibration)
    values["threshold"] = float(threshold)
    influence = calibration.influence_warning([str(name) for name in names])
    values["warnings"] = [*calibration.warnings, *([influence] if influence else [])]
    values["false_alarms_per_thousand"] = list(calibration.per_thousand)
    return values
