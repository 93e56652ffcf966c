"""Cross-fitting: scores of training normals by detectors whose statistics have not seen them."""

import copy
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

import torch
from torch import Tensor

from anomaly_lightning.calibration import fold_indices, on_final_scale
from anomaly_lightning.detectors.base import TrainedDetector
from anomaly_lightning.errors import CalibrationError
from anomaly_lightning.features.batches import Repeated
from anomaly_lightning.training.module import AnomalyModule, Batch


class Normals(Protocol):
    """Where the normals of a fit come from: a datamodule of images or of features."""

    def statistics_dataloader(self) -> Iterable[Batch]:
        """Batches of all training normals in a fixed order."""

    def held_out_dataloader(self) -> Iterable[Batch]:
        """Batches of the held-out normals that settings are chosen on."""


@torch.no_grad()
def cross_fitted(module: AnomalyModule, data: Normals, count: int, folds: int, seed: int) -> Tensor:
    """Scores (N,) float of the training normals, on the scale of the module's own detector.

    Args:
        module: Fitted, on the device.
        data: Datamodule of the fit.
        count: Training normals N.
        folds: How many times the statistics are refitted, at least 2.
        seed: Of the division into folds.

    Raises:
        CalibrationError: A detector that can't be refitted, or folds that the normals can't be divided into.
    """
    final, moved = score(module, data.held_out_dataloader()), torch.empty(count)
    for left_out in refits(module, data, count, folds, seed):
        own = score(module, chosen(data.statistics_dataloader(), left_out))
        others = score(module, data.held_out_dataloader())
        if torch.equal(others, final):
            raise CalibrationError(
                f"calibration_folds={folds}: the refitted {type(module.model.detector).__name__} is the same as before "
                "and knows the training normals. It needs statistics (model.whitening, model.memory, model.fusion); "
                "or set 0 folds."
            )
        moved[left_out] = torch.from_numpy(on_final_scale(own, others, final)).float()
    return moved


def refits(module: AnomalyModule, data: Normals, count: int, folds: int, seed: int) -> Iterator[Tensor]:
    """Places (n,) int64 of each fold's training normals, while the module has a detector without their statistics.

    Detectors without gradients are refitted whole. A trained network stays as it is, and has seen all training
    normals; what `conclude` computes is refitted. Afterwards the module has its own detector again.

    Args:
        module: Fitted, on the device.
        data: Datamodule of the fit.
        count: Training normals.
        folds: At least 2.
        seed: Of the division into folds.

    Raises:
        CalibrationError: A detector that can't be refitted, or folds that the normals can't be divided into.
    """
    whole = module.model.detector
    refuse(whole)
    try:
        for kept, left_out in fold_indices(count, folds, seed):
            module.model.detector = copy.deepcopy(whole)
            _refit(module, data, kept)
            yield left_out
    finally:
        module.model.detector = whole


def refuse(detector: torch.nn.Module) -> None:
    """Raise where there are no statistics that could be refitted, so that all normals would count as known."""
    if isinstance(detector, TrainedDetector) and type(detector).conclude is TrainedDetector.conclude:
        raise CalibrationError(
            "calibration_folds needs a method with statistics that can be refitted (autoencoder, pca, padim, "
            f"patchcore); {type(detector).__name__} learns by gradients alone. Leave it at 0."
        )


def score(module: AnomalyModule, batches: Iterable[Batch]) -> Tensor:
    """Scores (N,) float on the CPU of the N images of some batches."""
    return torch.cat([module.model.scored(module.inputs(_moved(batch, module)))[0].cpu() for batch in batches])


def chosen(batches: Iterable[Batch], places: Tensor) -> Iterator[Batch]:
    """The images at some places (n,) int64 of their set, in the order of the batches."""
    for batch in batches:
        rows = torch.isin(batch["index"], places)
        if rows.any():
            yield {name: values[rows] for name, values in batch.items()}


def _refit(module: AnomalyModule, data: Normals, kept: Tensor) -> None:
    """Let the module's detector compute its statistics of the training normals at some places (n,) int64 alone."""
    detector = module.model.detector
    normals = _inputs(module, lambda: chosen(data.statistics_dataloader(), kept))
    if isinstance(detector, TrainedDetector):
        detector.conclude(normals, _inputs(module, data.held_out_dataloader))
    else:
        detector.prepare(normals)


def _inputs(module: AnomalyModule, batches: Callable[[], Iterable[Batch]]) -> Repeated:
    return Repeated(lambda: (module.inputs(_moved(batch, module)) for batch in batches()))


def _moved(batch: Batch, module: AnomalyModule) -> Batch:
    return {name: values.to(module.device) for name, values in batch.items()}
