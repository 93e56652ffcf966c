"""Jobs of a sweep that a queue runs, by submitit: a lost one is a failed run, and the others go on."""

import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import submitit
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, filter_overrides
from hydra.types import HydraContext, TaskFunction
from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf
from hydra_plugins.hydra_submitit_launcher.submitit_launcher import LocalLauncher, SlurmLauncher
from omegaconf import DictConfig, open_dict
from submitit.core.utils import FailedJobError, FailedSubmissionError, UncompletedJobError

from anomaly_lightning.configs import known_to_hydra, run_names
from anomaly_lightning.reports.run_folder import read_json, write_failure
from anomaly_lightning.sweeps.errors import SweepError
from anomaly_lightning.sweeps.slurm import QueueWatcher

logger = logging.getLogger(__name__)

Job = submitit.Job[JobReturn]
RUNNERS = {"slurm": SlurmLauncher, "local": LocalLauncher}
# Options that every queue has; of the others the queue's own name tells submitit whose they are.
SHARED = tuple(BaseQueueConf.__dataclass_fields__)


class SubmittedJobs:
    """Submits the jobs of a sweep, waits for all of them and tells what became of each.

    The function that the queue runs is that of hydra-submitit-launcher. Its own way of gathering stops at the first
    job that the queue lost, before there is a leaderboard, and leaves the others running.

    Args:
        queue: slurm, or local for processes on this machine.
        params: Options of the launcher.
        hydra_context: Of the sweep.
        task_function: What each job calls.
        config: Of the sweep.
    """

    def __init__(
        self,
        queue: str,
        params: Mapping[str, Any],
        *,
        hydra_context: HydraContext,
        task_function: TaskFunction,
        config: DictConfig,
    ) -> None:
        self.queue, self.config, self.loader = queue, config, hydra_context.config_loader
        self.runner = RUNNERS[queue](**params)
        self.runner.setup(hydra_context=hydra_context, task_function=task_function, config=config)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        """Run jobs; each one's return, None where it failed.

        Args:
            job_overrides: Of each job.
            initial_job_idx: Number of the first one.

        Raises:
            SweepError: The queue refuses them.
        """
        numbers = range(initial_job_idx, initial_job_idx + len(job_overrides))
        jobs = self._submit(job_overrides, numbers)
        try:
            self._wait(jobs)
            return [self._outcome(*one) for one in zip(jobs, job_overrides, numbers, strict=True)]
        except BaseException:
            for job in jobs:
                job.cancel(check=False)
            raise

    def _submit(self, job_overrides: Sequence[Sequence[str]], numbers: Sequence[int]) -> list[Job]:
        for number, overrides in zip(numbers, job_overrides, strict=True):
            logger.info("job %d: %s", number, " ".join(filter_overrides(overrides)))
        keys = [f"job_id_for_{number}" for number in numbers]
        state = [Singleton.get_state()] * len(numbers)
        try:
            return self._executor().map_array(
                self.runner,
                [list(one) for one in job_overrides],
                ["hydra.sweep.dir"] * len(numbers),
                numbers,
                keys,
                state,
            )
        except (FailedJobError, FailedSubmissionError) as error:
            raise SweepError(
                f"hydra/launcher={self.queue}: the queue refused the jobs: {error}. Set hydra.launcher.* as it wants "
                "them: partition=..., timeout_min=..., cpus_per_task=..., mem_gb=..., gpus_per_node=... (null = none)."
            ) from error

    def _executor(self) -> submitit.AutoExecutor:
        given = dict(self.runner.params)
        folder = Path(given.pop("submitit_folder"))
        retries = {f"{self.queue}_max_num_timeout": given.pop(name) for name in ("max_num_timeout",) if name in given}
        if self.queue == "slurm":
            submitit.SlurmJob.watcher = QueueWatcher()
        try:
            executor = submitit.AutoExecutor(folder, cluster=self.queue, **retries)
        except RuntimeError as error:
            raise SweepError(
                "hydra/launcher=slurm needs Slurm's commands, and there is no srun here. Start it on a login node of "
                "the cluster, or choose hydra/launcher=processes or cores for this machine."
            ) from error
        executor.update_parameters(
            **{name if name in SHARED else f"{self.queue}_{name}": value for name, value in given.items()}
        )
        return executor

    def _wait(self, jobs: Sequence[Job]) -> None:
        """Wait for all, with a line whenever something has changed."""
        said = ""
        while True:
            done = [job.done() for job in jobs]
            text = self._progress(jobs, done)
            if text != said:
                logger.info(text)
                said = text
            if all(done):
                return
            time.sleep(1)

    def _progress(self, jobs: Sequence[Job], done: Sequence[bool]) -> str:
        words = Counter("done" if over else _state(job) for job, over in zip(jobs, done, strict=True))
        return f"{len(jobs)} jobs: {', '.join(f'{count} {word}' for word, count in sorted(words.items()))}"

    def _outcome(self, job: Job, overrides: Sequence[str], number: int) -> JobReturn:
        try:
            return job.results()[0]
        except (UncompletedJobError, FailedJobError) as error:
            return self._lost(job, overrides, number, error)

    def _lost(self, job: Job, overrides: Sequence[str], number: int, error: Exception) -> JobReturn:
        """The return of a job that brought none: that of its run, where that was done, else a note of its failure."""
        cfg = self.loader.load_sweep_config(self.config, list(overrides))
        with open_dict(cfg):
            cfg.hydra.job.num, cfg.hydra.job.id = number, job.job_id
        with known_to_hydra(cfg):
            folder = Path(cfg.hydra.sweep.dir) / str(cfg.hydra.sweep.subdir)
            names = run_names(cfg, cfg.hydra.runtime.choices)
        run = read_json(folder / "run.json")
        if run.get("status") == "finished":
            return _returned(run.get("validation_loss"), overrides)
        state = str(job.state)
        why = "it ended itself with an error" if isinstance(error, FailedJobError) else f"its state is {state}"
        reason = (
            f"LostJobError: {self.queue}'s job {job.job_id} left no result: {why}. Its log: {job.paths.stderr}. "
            "The same command runs it again."
        )
        logger.error("Job %d: %s", number, reason)
        write_failure(folder, names, reason)
        return _returned(None, overrides)


def _returned(value: float | None, overrides: Sequence[str]) -> JobReturn:
    done = JobReturn(overrides=list(overrides), status=JobStatus.COMPLETED)
    done.return_value = value
    return done


def _state(job: Job) -> str:
    """State of a job in lower case; what it waits for, where it waits."""
    state, reason = job.state.lower(), job.get_info(mode="cache").get("Reason", "")
    return f"{state} ({reason})" if state == "pending" and reason not in ("", "None") else state
