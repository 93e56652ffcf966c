"""A search: trials proposed by Optuna, run by whatever launcher, and told their validation loss of normals.

The objective is what `train` returns, the best validation loss; no trial scores a test image.
"""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import optuna
from hydra.core.config_loader import ConfigLoader
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig, OmegaConf
from optuna.trial import Trial, TrialState

from anomaly_lightning.reports.run_folder import read_json
from anomaly_lightning.sweeps.errors import SweepError
from anomaly_lightning.sweeps.space import Space, assignments
from anomaly_lightning.sweeps.study import check_images, ended, enqueue_lost, open_study, shown
from anomaly_lightning.training.reuse import standing_for
from anomaly_lightning.words import command_line

logger = logging.getLogger(__name__)

RESULT = "optimization_results.yaml"  # as hydra-optuna-sweeper names it
PRUNING = "anomaly_lightning.training.callbacks.pruning.Pruning"


class Search:
    """One start of a search.

    Args:
        config: Of the sweep; its hydra.sweeper has the settings.
        loader: Of Hydra.
        launcher: Runs the trials.
    """

    def __init__(self, config: DictConfig, loader: ConfigLoader, launcher: Launcher) -> None:
        self.config, self.loader, self.launcher = config, loader, launcher
        self.settings: DictConfig = config.hydra.sweeper
        self.folder = Path(config.hydra.sweep.dir)

    def run(self, words: Sequence[str]) -> None:
        """Run the trials that are missing, and say which was best.

        Args:
            words: Overrides of the command line.

        Raises:
            SweepError: Something that a user can mend about the search as a whole.
        """
        settings = self.settings
        space = Space.of(settings.params or {}, [*words, *self._untested(words)], self.loader)
        name, storage = str(settings.study_name), settings.storage
        study = open_study(name, storage, settings.sampler, settings.pruner, space.content())
        before, again = len(ended(study)), enqueue_lost(study)
        logger.info("Search %s in %s: %d of %d trials done", name, shown(storage), before, settings.n_trials)
        if again:
            logger.info("%d trials that were cut off or failed are run again", again)
        self.folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self.config, self.folder / "multirun.yaml")
        for count in _batches(settings.n_trials - before, settings.n_jobs):
            self._trials(study, space, count)
        self._conclude(study, space)

    def _untested(self, words: Sequence[str]) -> list[str]:
        """What keeps the trials from the test images, where the user has not said so already."""
        if self.config.hydra.job.config_name != "train":
            raise SweepError(f"hydra/sweeper=optuna is for train, not for {self.config.hydra.job.config_name}.")
        if not self.config.test:
            return []
        if any(word.lstrip("+").partition("=")[0] == "test" for word in words):
            raise SweepError(
                "hydra/sweeper=optuna: test=true would show the metrics of the test images to whoever chooses among "
                "the trials. Leave it out, and train the best trial once more with testing."
            )
        return ["test=false"]

    def _trials(self, study: optuna.Study, space: Space, count: int) -> None:
        trials = [study.ask(dict(space.varied)) for _ in range(count)]
        words = [[*space.overrides(trial.params), *self._pruning(trial)] for trial in trials]
        returns = self.launcher.launch(words, initial_job_idx=trials[0].number)
        for trial, returned in zip(trials, returns, strict=True):
            self._tell(study, trial, returned)

    def _pruning(self, trial: Trial) -> list[str]:
        """Override by which the run of a trial tells the storage of its epochs."""
        if self.settings.storage is None or self.settings.pruner is None:
            return []
        return [f"callbacks.pruning={{_target_:{PRUNING},trial:{trial.number}}}"]

    def _tell(self, study: optuna.Study, trial: Trial, returned: JobReturn) -> None:
        loss, cfg = returned.return_value, returned.hydra_cfg  # which a lost job has not
        folder = self.folder / str(trial.number) if cfg is None else Path(cfg.hydra.runtime.output_dir)
        values = " ".join(assignments(trial.params))
        run = read_json(standing_for(folder) / "run.json")
        check_images(study, run.get("dataset_fingerprint"))
        if loss is not None:
            study.tell(trial, float(loss))
            logger.info("Trial %d: validation loss %.6g with %s", trial.number, loss, values)
        elif run.get("status") == "pruned":
            epochs = len(study.tell(trial, state=TrialState.PRUNED).intermediate_values)
            logger.info("Trial %d: pruned after %d epochs with %s", trial.number, epochs, values)
        else:
            study.tell(trial, state=TrialState.FAIL)
            logger.warning("Trial %d: no validation loss with %s; see %s", trial.number, values, folder)

    def _conclude(self, study: optuna.Study, space: Space) -> None:
        done = study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
        if not done:
            raise SweepError(
                f"No trial of the search {study.study_name} brought a validation loss. Methods without gradients and "
                "those of several players have none; of any other, error.json in the trials' folders tells why."
            )
        best = study.best_trial
        pruned = len(ended(study)) - len(done)
        logger.info(
            "Best of %d trials (%d more pruned): trial %d, validation loss %.6g with %s",
            len(done), pruned, best.number, best.value, " ".join(assignments(best.params)),
        )  # fmt: skip
        result: dict[str, Any] = {"name": "optuna", "best_params": best.params, "best_value": best.value}
        OmegaConf.save(OmegaConf.create(result), self.folder / RESULT)
        shared = [word for word in space.fixed if word != "test=false" and not word.startswith("+sweep=")]
        logger.info("With testing: %s", command_line("train", [*shared, *assignments(best.params)]))


def _batches(trials: int, at_once: int) -> Iterator[int]:
    while trials > 0:
        yield min(at_once, trials)
        trials -= at_once
