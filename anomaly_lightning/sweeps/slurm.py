"""What Slurm says of its jobs, asked of squeue: every cluster answers it, while sacct needs a database.

Without one, submitit's own way leaves a job that was killed for one that runs on, and waits for it forever.
"""

import logging
import subprocess
import time
from collections.abc import Mapping, Sequence

from submitit.slurm.slurm import SlurmInfoWatcher

logger = logging.getLogger(__name__)

GONE = "GONE"  # no state of Slurm's, and none of those that submitit waits for
SECONDS = 30  # between two questions at most
FORMAT = "%i|%T|%r"  # job (of an array, number_element), state, why it waits


class QueueWatcher(SlurmInfoWatcher):
    """State and reason of every job that was submitted; one that Slurm has forgotten is GONE."""

    def __init__(self) -> None:
        super().__init__(delay_s=SECONDS)
        self._silent = False

    def update(self) -> None:
        """Ask once for all jobs that are not done; without an answer everything stays as it was known."""
        waiting = sorted(self._registered - self._finished)
        found = ask([job.partition("_")[0] for job in waiting]) if waiting else {}
        self._last_status_check = time.time()  # the clock that the base class compares it with
        if found is None:
            if not self._silent:
                logger.warning("squeue does not answer; the jobs are waited for as they are.")
            self._silent = True
            return
        self._silent = False
        for job in waiting:
            self._info_dict[job] = found.get(job, {"State": GONE, "Reason": ""})
            if self.is_done(job, mode="cache"):
                self._finished.add(job)


def ask(jobs: Sequence[str]) -> Mapping[str, dict[str, str]] | None:
    """State and reason of jobs and their arrays' elements, as far as Slurm remembers them; None without an answer."""
    command = ["squeue", "--array", "--noheader", "--states=all", f"--jobs={','.join(dict.fromkeys(jobs))}"]
    try:
        ran = subprocess.run([*command, f"--format={FORMAT}"], capture_output=True, text=True, check=False, timeout=60)
    except subprocess.TimeoutExpired:
        return None
    if ran.returncode and "Invalid job id" not in ran.stderr:  # which is how it says that all are forgotten
        return None
    lines = [line.split("|", 2) for line in ran.stdout.splitlines() if line.count("|") >= 2]
    return {job: {"State": state, "Reason": reason} for job, state, reason in lines}
