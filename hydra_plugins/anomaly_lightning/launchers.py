"""Launchers that outlive a lost job: hydra/launcher=slurm and hydra/launcher=processes."""

from collections.abc import Sequence
from typing import Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class _QueueLauncher(Launcher):
    queue = ""

    def __init__(self, **params: Any) -> None:
        self.params = params

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Make what submits jobs."""
        from anomaly_lightning.sweeps.submitted import SubmittedJobs

        self.jobs = SubmittedJobs(
            self.queue, self.params, hydra_context=hydra_context, task_function=task_function, config=config
        )

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run jobs; each one's return."""
        return self.jobs.launch(job_overrides, initial_job_idx)


class SlurmLauncher(_QueueLauncher):
    """Each job one of a Slurm array."""

    queue = "slurm"


class ProcessLauncher(_QueueLauncher):
    """Each job a process of its own on this machine, all at once."""

    queue = "local"
