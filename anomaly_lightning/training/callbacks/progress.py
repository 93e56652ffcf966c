"""One live line for the whole fit: an epoch of a small network on stored features is over before a bar is drawn."""

import math

import pytorch_lightning as pl
from pytorch_lightning.utilities import rank_zero_only
from rich.progress import Progress

from anomaly_lightning.reports.console import progress_bar


class EpochProgress(pl.Callback):
    """Shows the epochs of the fit with the last losses."""

    def __init__(self) -> None:
        self._bar: Progress | None = None

    @rank_zero_only
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin the line."""
        self._bar = progress_bar()
        self._bar.start()
        self._task = self._bar.add_task("training", total=_epochs(trainer), completed=trainer.current_epoch, note="")

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Move the line on."""
        metrics = trainer.callback_metrics  # read by every process: they reduce it together, and wait for each other
        if self._bar is not None:
            losses = {name: float(value) for name, value in metrics.items() if name.endswith("loss")}
            note = "  ".join(f"{name} {value:.4f}" for name, value in sorted(losses.items()))
            self._bar.update(self._task, completed=trainer.current_epoch + 1, note=note)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the line away."""
        self._stop()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Leave the terminal as it was."""
        self._stop()

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def _epochs(trainer: pl.Trainer) -> int:
    """Epochs of the whole fit, whichever of epochs and steps ends it."""
    epochs, steps = trainer.max_epochs or -1, trainer.max_steps
    by_steps = math.ceil(steps / max(trainer.num_training_batches, 1)) if steps >= 0 else -1
    return min((limit for limit in (epochs, by_steps) if limit >= 0), default=0)
