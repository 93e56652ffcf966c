"""Fits the thresholds on validation normals, after training, and writes them into the module's buffers."""

import dataclasses
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor

from anomaly_lightning.calibration import F1, Calibration, Rule
from anomaly_lightning.data.images import content_hash, read_picture
from anomaly_lightning.data.samples import pictures_in
from anomaly_lightning.errors import CalibrationError
from anomaly_lightning.module import AnomalyModule


class CalibrationCallback(pl.Callback):
    """Calibrates whenever the validation normals are scored outside of training.

    While fitting, validation only watches the loss: the weights still change, and the sanity check's are untrained.

    Args:
        rule: From scores of normals to the threshold.
        pixel_rule: From the values of all pixels of the normals' maps to the pixel threshold.
        defects: Folder of labelled defects, for rules that need some (threshold=f1), and for those alone.
    """

    def __init__(self, rule: Rule, pixel_rule: Rule, defects: str | None = None) -> None:
        if rule.labelled and defects is None:
            raise CalibrationError(
                f"threshold={rule.method} needs labelled defects: labelled_defects=<folder of pictures of defects>, "
                "which must not be test pictures."
            )
        if defects is not None and not rule.labelled:
            raise CalibrationError(f"labelled_defects={defects} goes with threshold=f1 only, not with {rule.method}.")
        self.rule, self.pixel_rule, self.defects = rule, pixel_rule, defects

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Fit both thresholds on what the validation normals scored."""
        assert isinstance(pl_module, AnomalyModule)
        if trainer.state.fn == TrainerFn.FITTING:
            return
        scores, error_maps = pl_module.evaluated()
        calibration = self._fit(scores, trainer, pl_module)
        maps, _ = pl_module.scoring(error_maps, pl_module.size)
        pl_module.threshold.fill_(calibration.threshold)
        pl_module.pixel_threshold.fill_(
            self.pixel_rule.place(pl_module.scoring.pixels(maps).flatten().double().numpy())
        )
        names = [sample.path for sample in trainer.datamodule.splits.validation]  # type: ignore[attr-defined]
        pl_module.calibration = plain(calibration, pl_module.threshold, names)
        pl_module.calibration["scores"] = scores.tolist()

    def _fit(self, scores: Tensor, trainer: pl.Trainer, module: AnomalyModule) -> Calibration:
        if not isinstance(self.rule, F1):
            return self.rule.fit(scores)
        return self.rule.fit(scores, self._scores_of_defects(trainer.datamodule, module))  # type: ignore[attr-defined]

    @torch.no_grad()
    def _scores_of_defects(self, datamodule: Any, module: AnomalyModule) -> Tensor:
        """Scores (m,) float of the labelled defects; a test picture among them is refused by its content."""
        pictures = pictures_in(Path(str(self.defects)), recursive=True)
        if not pictures:
            raise CalibrationError(f"labelled_defects={self.defects}: the folder is missing or holds no picture.")
        tested = {content_hash(sample.path): sample.path for sample in datamodule.splits.test}
        shared = [path for path in pictures if content_hash(path) in tested]
        if shared:
            raise CalibrationError(f"labelled_defects: {shared[0]} is a test picture, too ({len(shared)} are).")
        scores = [module(datamodule.transform(read_picture(path))[None].to(module.device))[1] for path in pictures]
        return torch.cat(scores).cpu()


def plain(calibration: Calibration, threshold: torch.Tensor, names: list[Path]) -> dict[str, Any]:
    """A calibration as plain values, with the threshold as the buffer holds it and the influential normal by name."""
    values: dict[str, Any] = dataclasses.asdict(calibration)
    values["threshold"] = float(threshold)
    influence = calibration.influence_warning([str(name) for name in names])
    values["warnings"] = [*calibration.warnings, *([influence] if influence else [])]
    values["false_alarms_per_thousand"] = list(calibration.per_thousand)
    return values
