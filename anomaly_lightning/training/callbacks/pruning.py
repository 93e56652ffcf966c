"""A trial of a search tells its study how it goes, and ends where the study's pruner has seen enough."""

from typing import Any

import pytorch_lightning as pl
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from pytorch_lightning.trainer.states import TrainerFn


class Pruning(pl.Callback):
    """Reports the lowest loss so far after every epoch; storage, study and pruner are those of hydra.sweeper.

    Args:
        trial: Number of this run in its study.
        monitor: What is to be small.

    Attributes:
        pruned: Whether it ended the run.
    """

    def __init__(self, trial: int, monitor: str = "val/loss") -> None:
        import optuna

        settings = HydraConfig.get().sweeper
        study = optuna.load_study(
            study_name=str(settings.study_name),
            storage=settings.storage,
            sampler=optuna.samplers.RandomSampler(),  # proposes nothing here
            pruner=instantiate(settings.pruner),
        )
        kept = next(one for one in study.get_trials(deepcopy=False) if one.number == trial)
        self.trial: Any = optuna.trial.Trial(study, kept._trial_id)
        self.monitor, self.pruned, self._lowest = monitor, False, float("inf")

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Report and ask, in one process for all of them."""
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking:
            return
        self._lowest = min(self._lowest, float(trainer.callback_metrics[self.monitor]))
        enough = trainer.is_global_zero and self._seen_enough(trainer.current_epoch)
        if trainer.strategy.broadcast(enough):
            self.pruned = trainer.should_stop = True

    def _seen_enough(self, epoch: int) -> bool:
        from optuna.exceptions import UpdateFinishedTrialError

        try:
            self.trial.report(self._lowest, epoch)
            return bool(self.trial.should_prune())
        except UpdateFinishedTrialError:  # the search was cut off, and a later start has given the trial up
            return True
