"""The LightningModule: what Lightning needs to train an `AnomalyModel`: optimizers, losses, evaluation outputs."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.optim import Optimizer

from anomaly_lightning.data.samples import Sample
from anomaly_lightning.detectors.base import TrainedDetector
from anomaly_lightning.errors import NotCalibratedError
from anomaly_lightning.features.batches import Repeated
from anomaly_lightning.features.condensed import OrderedRows
from anomaly_lightning.features.datamodule import FeatureDataModule
from anomaly_lightning.model import AnomalyModel
from anomaly_lightning.runtime.card import ModelCard
from anomaly_lightning.runtime.decision import exceeds
from anomaly_lightning.runtime.tiles import Tiling
from anomaly_lightning.training.examples import serve_examples
from anomaly_lightning.training.lone_values import told_of_lone_values
from anomaly_lightning.training.schedule import WarmCosine, planned
from anomaly_lightning.training.scored import Scored

Batch = dict[str, Tensor]
FROZEN = "model.extractor."  # of the names in a state dict
CARD = "card"  # key of the model card in a checkpoint
SETTINGS = "settings"  # key of what decides the gradient steps
OptimizerFactory = Callable[[Iterable[torch.nn.Parameter]], Optimizer]


@dataclass(frozen=True)
class Localising:
    """How a localiser with gradients is trained.

    Attributes:
        optimizer: As the module's.
        steps: Gradient steps.
        batch_size: Of each.
    """

    optimizer: OptimizerFactory
    steps: int
    batch_size: int


class AnomalyModule(pl.LightningModule):
    """Trains an `AnomalyModel`.

    A batch holds `images` (B, 3, H, W), or `features` (B, C, h, w) where a store served what the extractor would
    have computed of them, or, while fitting, `condensed` (B, ...), all that the losses look at; `index` (B,) is an
    image's place in its set.

    Args:
        model: What is trained; its detector has been built.
        card: What the model is; thresholds are added when they are calibrated.
        optimizer: From parameters to an optimizer, one for each of the detector's players; a `WarmCosine` clips
            gradients and changes the learning rate from step to step as well. None without gradients.
        settings: What decides the gradient steps and stands in no card: plain values by the names of the options.
        localising: How the localiser is trained; None = there is none, or none with gradients.

    Attributes:
        players: Names of the detector's players; [] for methods without gradients.
        labelled: Known defects to learn from, none of them a test image; for detectors with `examples`.
        chosen: In words, what was chosen on held-out normals; what the thresholds promise depends on it.
        scored: What the last evaluation computed; None before the first.
    """

    def __init__(
        self,
        model: AnomalyModel,
        card: ModelCard,
        optimizer: OptimizerFactory | None = None,
        settings: Mapping[str, Any] | None = None,
        localising: Localising | None = None,
    ) -> None:
        super().__init__()
        self.model, self.card, self.optimizer, self.settings = model, card, optimizer, dict(settings or {})
        self.localising = localising
        self.chosen: list[str] = []
        self.labelled: tuple[Sample, ...] = ()
        self.scored: Scored | None = None
        self.players = list(self.trained.players()) if self.trained is not None else []
        self.automatic_optimization = len(self.players) <= 1

    @property
    def learners(self) -> list[TrainedDetector]:
        """Detector and localiser, as far as they are trained by gradients."""
        second = None if self.model.localiser is None else self.model.localiser.detector
        return [one for one in (self.model.detector, second) if isinstance(one, TrainedDetector)]

    @property
    def trained(self) -> TrainedDetector | None:
        """The detector, where it is trained by gradients."""
        return self.model.detector if isinstance(self.model.detector, TrainedDetector) else None

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Put the card into the checkpoint (read by `checkpoint.load_model`).

        While fitting, the frozen backbone is left out: most of the bytes, written anew after every epoch.
        """
        checkpoint[CARD] = self.card.to_dict()
        checkpoint[SETTINGS] = self.settings
        if self.trainer.state.fn == TrainerFn.FITTING:
            state = checkpoint["state_dict"]
            checkpoint["state_dict"] = {name: value for name, value in state.items() if not name.startswith(FROZEN)}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Put this module's own backbone into a checkpoint that was written while fitting; see `training.resume`."""
        self.complete(checkpoint["state_dict"])
        if self.trainer.max_steps != -1 and "loops" in checkpoint:
            _finish_epoch_again(checkpoint["loops"]["fit_loop"]["epoch_progress"])

    def complete(self, state: dict[str, Any]) -> None:
        """Add this module's frozen backbone to a state dict that lacks it."""
        for name, value in self.state_dict().items():
            if name.startswith(FROZEN):
                state.setdefault(name, value)

    def inputs(self, batch: Batch) -> Tensor:
        """What the model works on of a batch: features that a store served, else what its images give."""
        return batch["features"] if "features" in batch else self.model.inputs(batch["images"])

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Anomaly maps (B, H, W) and scores (B,), float, of images (B, 3, H, W) float32."""
        maps, scores = self.model(images)
        return maps, scores

    def decide(self, scores: Tensor) -> Tensor:
        """Decisions (B,) bool for scores (B,) float.

        Raises:
            NotCalibratedError: No threshold has been fitted.
        """
        if torch.isnan(self.model.threshold):
            raise NotCalibratedError
        decisions: Tensor = exceeds(scores, self.model.threshold)
        return decisions

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """An optimizer for each of the detector's players, and a schedule; None for methods without gradients."""
        if self.trained is None:
            return None
        if self.optimizer is None:
            raise ValueError(f"{type(self.trained).__name__} is trained by gradients: it needs an optimizer")
        made = [self.optimizer(parameters) for parameters in self.trained.players().values()]
        if not isinstance(self.optimizer, WarmCosine):
            return made
        most = (
            self.trainer.max_steps // len(made) if self.trainer.max_steps >= 0 else math.inf
        )  # each step counts there
        steps = planned(min(self.trainer.estimated_stepping_batches, most))
        schedules = [self.optimizer.schedule(optimizer, steps) for optimizer in made]
        plans: Any = [{"scheduler": schedule, "interval": "step"} for schedule in schedules]
        return made, plans

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Clip the gradients of one player, where that was asked for."""
        if isinstance(self.optimizer, WarmCosine):
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            torch.nn.utils.clip_grad_norm_(parameters, self.optimizer.clip)

    def on_fit_start(self) -> None:
        """Let the detector compute statistics of the training normals, before the first gradient step.

        Every process passes over all of the training set: the features come from a store, and so all of them hold
        the same statistics without exchanging any.
        """
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        with torch.no_grad():
            self.model.detector.prepare(self.walked(data.statistics_dataloader))
            if self.trained is not None and self.trained.condenses and isinstance(data, FeatureDataModule):
                trained = self.trained
                data.condense(lambda kept: trained.condense(self.model.seen(kept.to(self.device))))
            if self.trained is not None and (self.trained.examples or (self.trained.known and self.labelled)):
                tiling = None if self.card.tiling is None else Tiling.from_card(self.card.tiling)
                serve_examples(data, self.model, self.trained, self.labelled, tiling)

    def conclude(self) -> None:
        """Let the detector compute what needs the trained weights."""
        if self.trained is None:
            return
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        normals, held_out = self.walked(data.statistics_dataloader), self.walked(data.held_out_dataloader)
        with torch.no_grad():
            self.trained.conclude(normals, held_out)
        if held_out.walked:
            self.chosen.append("the weights of the error's parts")

    def walked(self, loader: Callable[[], Iterable[Batch]], see: Callable[[Tensor], Tensor] | None = None) -> Repeated:
        """A set of normals, batch by batch and in a fixed order, on the device.

        Args:
            loader: Makes its batches.
            see: What is made of their inputs; None = what the detector sees of them.
        """

        def walk() -> Iterator[Tensor]:
            for batch in loader():
                on_device = {key: value.to(self.device, non_blocking=True) for key, value in batch.items()}
                yield (see or self.model.seen)(self.inputs(on_device))

        return Repeated(walk)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        """Loss of one batch, () float; None for methods without gradients, and where several players take turns."""
        if self.trained is None:
            return None
        condensed = self._condensed(batch, self.trained)
        if self.automatic_optimization:
            return self._loss(condensed, self.trained, self.players[0], "train")
        optimizers: Any = self.optimizers()
        for player, optimizer in zip(self.players, optimizers, strict=True):
            self.toggle_optimizer(optimizer)
            loss = self._loss(condensed, self.trained, player, "train")
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
            self.untoggle_optimizer(optimizer)
        for schedule in _several(self.lr_schedulers()):
            schedule.step()
        return None

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Loss of validation normals while fitting; their scores and maps when validating after it."""
        if self.trained is not None:
            condensed = self._condensed(batch, self.trained)
            for player in self.players:
                self._loss(condensed, self.trained, player, "val")
        if "condensed" not in batch and self.trainer.state.fn != TrainerFn.FITTING:
            self._keep(batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Scores and maps of test images."""
        self._keep(batch)

    def _condensed(self, batch: Batch, trained: TrainedDetector) -> Tensor:
        return batch["condensed"] if "condensed" in batch else trained.condense(self.model.seen(self.inputs(batch)))

    def _loss(self, condensed: Tensor, trained: TrainedDetector, player: str, stage: str) -> Tensor:
        """One player's total, () float; it and its parts are logged, as <stage>/loss where there is one player."""
        with told_of_lone_values():
            losses = trained.losses(condensed, player)
        for name, value in losses.items():
            known = "loss" if name == "total" else name
            tag = f"{stage}/{known}" if len(self.players) == 1 else f"{stage}/{player}/{known}"
            self.log(tag, value, on_step=False, on_epoch=True, batch_size=len(condensed), sync_dist=True)
        return losses["total"]

    def _keep(self, batch: Batch) -> None:
        assert self.scored is not None, "an epoch has begun"
        self.scored.add(batch["index"], *self.model.scored(self.inputs(batch)))

    def on_validation_epoch_start(self) -> None:
        """Begin anew with what an evaluation computes."""
        self.scored = Scored(Path(self.trainer.default_root_dir))

    def on_test_epoch_start(self) -> None:
        """Begin anew with what an evaluation computes."""
        self.scored = Scored(Path(self.trainer.default_root_dir))

    def on_validation_epoch_end(self) -> None:
        """Bring together what all processes computed."""
        self.scored = None if self.scored is None else self.scored.gathered()

    def on_test_epoch_end(self) -> None:
        """Bring together what all processes computed."""
        self.scored = None if self.scored is None else self.scored.gathered()

    def evaluated(self) -> tuple[Tensor, OrderedRows]:
        """Scores (N,) float32 and error maps (N, h, w) of the last evaluation, in the order of the set."""
        assert self.scored is not None, "an evaluation comes first"
        return self.scored.ordered()


def _several(found: Any) -> list[Any]:
    """What Lightning gives as nothing, one or several, as a list."""
    return [] if found is None else found if isinstance(found, list) else [found]


def _finish_epoch_again(progress: dict[str, dict[str, int]]) -> None:
    """Correct the epochs of a checkpoint from the end of one, for a run with a limit of steps.

    Lightning 2.6 enters that epoch again to finish it, without a step, and would count it twice: where
    trainer.max_epochs ends the run, an epoch would be missing.
    """
    for counts in progress.values():
        if counts["processed"] == counts["started"] == counts["completed"] + 1:
            counts["processed"] -= 1
