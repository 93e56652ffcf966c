"""The LightningModule: glue between extractor, detector and scoring, and the owner of the thresholds."""

from collections.abc import Callable, Iterable
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor
from torch.optim import Optimizer

from anomaly_lightning.detectors.base import Detector
from anomaly_lightning.errors import CheckpointError, NotCalibratedError
from anomaly_lightning.features.backbone import FeatureExtractor
from anomaly_lightning.features.datamodule import FeatureDataModule
from anomaly_lightning.features.precision import true_float32
from anomaly_lightning.features.store import DTYPES
from anomaly_lightning.runtime.decision import exceeds
from anomaly_lightning.scoring import Scoring

Batch = dict[str, Tensor]
FROZEN = "extractor."  # of the names in a state dict
OptimizerFactory = Callable[[Iterable[torch.nn.Parameter]], Optimizer]


class AnomalyModule(pl.LightningModule):
    """Frozen features, a detector on them, and the decision.

    A batch holds `images` (B, 3, H, W), or `features` (B, C, h, w) where a store served what the extractor would
    have computed of them, or, while fitting, `condensed` (B, ...), all that the loss looks at; `index` (B,) tells a
    image's place in its set.

    Args:
        extractor: From images to aligned features; never trained, always in evaluation mode.
        detector: The method; `build` has been called.
        scoring: From error maps to maps and scores.
        size: (H, W) of `images`.
        optimizer: From parameters to the optimizer, for trainable detectors.

    Attributes:
        threshold: () float buffer, same unit as the scores; NaN = not calibrated.
        pixel_threshold: () float buffer, same unit as the anomaly maps; NaN = not calibrated.
        calibration: What the threshold was made of, plain values (method, parameters, normals, mean, std, ...).
        outputs: What the last evaluation computed, by `index`: (score, error_map (h, w)).
        settings: Plain values that travel in every checkpoint, so that it needs nothing else to be loaded.
    """

    threshold: Tensor
    pixel_threshold: Tensor

    def __init__(
        self,
        extractor: FeatureExtractor,
        detector: Detector,
        scoring: Scoring,
        size: tuple[int, int],
        optimizer: OptimizerFactory | None = None,
    ) -> None:
        super().__init__()
        self.extractor, self.detector, self.scoring, self.size = extractor, detector, scoring, size
        self.optimizer = optimizer
        self.register_buffer("threshold", torch.tensor(float("nan")))
        self.register_buffer("pixel_threshold", torch.tensor(float("nan")))
        self.calibration: dict[str, Any] = {}
        self.outputs: dict[int, tuple[float, Tensor]] = {}
        self.settings: dict[str, Any] = {}

    def get_extra_state(self) -> dict[str, Any]:
        """The calibration's plain values travel in the state dict, beside the threshold buffers."""
        return {"calibration": self.calibration}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take the calibration's plain values from a state dict."""
        self.calibration = dict(state["calibration"])

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Put the settings into the checkpoint (read by `checkpoint.load_module`).

        While fitting, the frozen backbone is left out: most of the bytes, written anew after every epoch.
        """
        checkpoint["anomaly_lightning"] = self.settings
        if self.trainer.state.fn == TrainerFn.FITTING:
            state = checkpoint["state_dict"]
            checkpoint["state_dict"] = {name: value for name, value in state.items() if not name.startswith(FROZEN)}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Put this module's own backbone into a checkpoint that was written while fitting.

        Raises:
            CheckpointError: The checkpoint's features come from other weights.
        """
        there = checkpoint.get("anomaly_lightning", {}).get("weights_sha256")
        if there != (here := self.settings.get("weights_sha256")):
            raise CheckpointError(
                f"ckpt: the interrupted run had a backbone with the weights {there}, this one has {here}. Expected the "
                "same: state its backbone and backbone.weights (see its run.json)."
            )
        self.complete(checkpoint["state_dict"])

    def complete(self, state: dict[str, Any]) -> None:
        """Add this module's frozen backbone to a state dict that lacks it."""
        for name, value in self.state_dict().items():
            if name.startswith(FROZEN):
                state.setdefault(name, value)

    @property
    def feature_dtype(self) -> torch.dtype:
        """What the run's store keeps features in, as the settings say; float32 where they don't."""
        return DTYPES[self.settings.get("data", {}).get("cache_dtype", "float32")]

    def features(self, batch: Batch) -> Tensor:
        """Features (B, C, h, w) float of a batch: those a store served, else computed from its images."""
        if "features" in batch:
            return batch["features"]
        with torch.no_grad():
            return _as_stored(self.extractor(batch["images"]), self.feature_dtype)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Anomaly maps (B, H, W) and scores (B,), float, of images (B, 3, H, W) float32."""
        features = self.features({"images": images})
        with true_float32():
            return self.scoring(self.detector.error_map(features), self.size)

    def decide(self, scores: Tensor) -> Tensor:
        """Decisions (B,) bool for scores (B,) float.

        Raises:
            NotCalibratedError: No threshold has been fitted.
        """
        if torch.isnan(self.threshold):
            raise NotCalibratedError
        decisions: Tensor = exceeds(scores, self.threshold)
        return decisions

    def configure_optimizers(self) -> Optimizer | None:
        """Optimizer over the detector's parameters; None for methods without gradients."""
        if not self.detector.trainable:
            return None
        if self.optimizer is None:
            raise ValueError(f"{type(self.detector).__name__} is trained by gradients: it needs an optimizer")
        return self.optimizer(self.detector.parameters())

    def on_fit_start(self) -> None:
        """Statistics pass over the training features, before the first gradient step.

        Every process passes over all of the training set: the features come from a store, and so all of them hold
        the same statistics without exchanging any.
        """
        self.each_training_batch(self.detector.observe)
        self.detector.finish()
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if self.detector.condenses and isinstance(data, FeatureDataModule):
            with torch.no_grad():
                data.condense(lambda features: self.detector.condense(features.to(self.device)))

    def refine(self) -> None:
        """Second statistics pass, with the trained weights, for detectors that want one."""
        if self.detector.refines:
            self.each_training_batch(self.detector.refine)
            self._each(self.trainer.datamodule.held_out_dataloader(), self.detector.refine_held_out)  # type: ignore[attr-defined]
            self.detector.finish_refine()

    def each_training_batch(self, take: Callable[[Tensor], None]) -> None:
        """Hand the features of every training image, in a fixed order, to `take`."""
        self._each(self.trainer.datamodule.statistics_dataloader(), take)  # type: ignore[attr-defined]

    @torch.no_grad()
    def _each(self, batches: Iterable[Batch], take: Callable[[Tensor], None]) -> None:
        for batch in batches:
            take(self.features({key: value.to(self.device, non_blocking=True) for key, value in batch.items()}))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        """Loss of one batch, () float; None for methods without gradients."""
        if not self.detector.trainable:
            return None
        condensed = batch["condensed"] if "condensed" in batch else self.detector.condense(self.features(batch))
        loss = self.detector.loss(condensed)
        count = len(batch["index"])
        self.log("train/loss", loss, on_step=False, on_epoch=True, batch_size=count, sync_dist=True)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Loss of validation normals while fitting; their scores and maps when validating after it."""
        features = None if "condensed" in batch else self.features(batch)
        if self.detector.trainable:
            condensed = batch["condensed"] if features is None else self.detector.condense(features)
            loss, count = self.detector.loss(condensed), len(batch["index"])
            self.log("val/loss", loss, on_epoch=True, batch_size=count, sync_dist=True, prog_bar=True)
        if features is not None and self.trainer.state.fn != TrainerFn.FITTING:
            self._keep(batch, features)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Scores and maps of test images."""
        self._keep(batch, self.features(batch))

    def _keep(self, batch: Batch, features: Tensor) -> None:
        # Precision is for training; scores are what predict gives.
        with torch.autocast(self.device.type, enabled=False), true_float32():
            error_maps = self.detector.error_map(features)
            _, scores = self.scoring(error_maps, self.size)
        for index, score, error_map in zip(batch["index"].tolist(), scores.tolist(), error_maps.cpu(), strict=True):
            self.outputs[index] = (score, error_map)

    def on_validation_epoch_start(self) -> None:
        """Forget the last evaluation."""
        self.outputs = {}

    def on_test_epoch_start(self) -> None:
        """Forget the last evaluation."""
        self.outputs = {}

    def on_validation_epoch_end(self) -> None:
        """Bring the outputs of all processes together."""
        self._gather()

    def on_test_epoch_end(self) -> None:
        """Bring the outputs of all processes together."""
        self._gather()

    def _gather(self) -> None:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            parts: list[Any] = [None] * torch.distributed.get_world_size()
            torch.distributed.all_gather_object(parts, self.outputs)
            self.outputs = {index: output for part in parts for index, output in part.items()}

    def evaluated(self) -> tuple[Tensor, Tensor]:
        """Scores (N,) float and error maps (N, h, w) float of the last evaluation, in the order of the set."""
        ordered = [self.outputs[index] for index in sorted(self.outputs)]
        return torch.tensor([score for score, _ in ordered]), torch.stack([error_map for _, error_map in ordered])


def _as_stored(features: Tensor, dtype: torch.dtype) -> Tensor:
    """Features (B, C, h, w) float as a store of `dtype` gives them back.

    An image thus scores the same whether its features were stored or not; what does not fit the dtype stays.
    """
    stored = features.to(dtype).to(features.dtype)
    if features.device.type == "cpu" and bool(torch.isfinite(stored.sum())):
        return stored  # a sum is finite only where all values are, and much cheaper than to ask each
    return torch.where(torch.isfinite(stored), stored, features)
