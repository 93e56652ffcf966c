"""A sweep by a real Slurm of two nodes: a failed run, a cancelled job, the same command once more, Ctrl-C."""

import csv
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from slurm_cluster import cluster, missing
from toy import BARE, SMALL, make_category

from anomaly_lightning.places import PACKAGE

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(missing()), reason=f"Slurm is not here: {', '.join(missing())}"),
    pytest.mark.skipif(importlib.util.find_spec("submitit") is None, reason="the extra `submitit` is not installed"),
]
LAUNCHER = (
    "hydra/launcher=slurm",
    "hydra.launcher.gpus_per_node=null",
    "hydra.launcher.cpus_per_task=1",
    "hydra.launcher.mem_gb=2",
)
CATEGORIES = ("bottle", "grid", "tile")  # grid has no training images
WAIT_S = 900  # on a machine with much else to do


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    with cluster(tmp_path_factory.mktemp("slurm")) as environment:
        yield environment


@pytest.fixture(scope="module")
def sweep(slurm, tmp_path_factory):
    """Starts the command of the sweep; its second start is word for word the first."""
    place = tmp_path_factory.mktemp("sweep")
    for seed, name in enumerate(("bottle", "tile")):
        make_category(place / "images", name, seed=seed)
    long_enough = ("trainer.max_epochs=150", "callbacks.stopping=null", "callbacks.learning=null", "bootstrap=0")
    options = (*SMALL, *BARE, *long_enough, f"data.root={place}/images", f"category={','.join(CATEGORIES)}")
    environment = {**os.environ, **slurm, "PYTHONPATH": str(PACKAGE.parent), "OMP_NUM_THREADS": "1"}

    def start(*more):
        command = [sys.executable, "-m", "anomaly_lightning.train", "--multirun", *LAUNCHER, *options, *more]
        with (place / "log.txt").open("w") as log:
            return subprocess.Popen(command, cwd=place, env=environment, stdout=log, stderr=log)

    start.place, start.environment = place, environment
    return start


def ask(sweep, *command):
    return subprocess.run(command, env=sweep.environment, capture_output=True, text=True, check=True).stdout


def wait_for(process, sweep, condition):
    end = time.monotonic() + WAIT_S
    while not (found := condition()):
        assert process.poll() is None, (sweep.place / "log.txt").read_text()
        assert time.monotonic() < end, (sweep.place / "log.txt").read_text()
        time.sleep(0.1)
    return found


def folders(sweep):
    return sorted((sweep.place / "outputs" / "multirun").glob("*"))


def status(job):
    file = job / "run.json"
    return json.loads(file.read_text())["status"] if file.is_file() else None


def rows(folder):
    with (folder / "leaderboard.csv").open(newline="") as stream:
        return {row["category"]: row for row in csv.DictReader(stream) if row["kind"] == "run"}


@pytest.fixture(scope="module")
def cancelled(sweep):
    """The sweep whose third job was cancelled while it trained: its status, folder and words."""
    process = sweep()
    wait_for(process, sweep, lambda: (found := folders(sweep)) and status(found[0] / "2") == "training")
    (array,) = {line.partition("_")[0] for line in ask(sweep, "squeue", "--noheader", "--array", "--format=%i").split()}
    ask(sweep, "scancel", f"{array}_2")
    code = process.wait(timeout=WAIT_S)
    return code, folders(sweep)[0], (sweep.place / "log.txt").read_text()


def test_a_cancelled_job_is_a_failed_row_beside_the_others(cancelled):
    code, folder, said = cancelled
    assert code == 1
    board = rows(folder)
    assert set(board) == set(CATEGORIES)
    assert 0 <= float(board["bottle"]["auroc"]) <= 1
    assert "DataError" in board["grid"]["error"]
    assert "LostJobError" in board["tile"]["error"]
    assert "CANCELLED" in board["tile"]["error"]
    assert Path(board["tile"]["error"].partition("Its log: ")[2].partition(". ")[0]).is_file()
    assert "Traceback" not in said


def test_the_same_command_runs_what_is_missing(cancelled, sweep):
    before = folders(sweep)
    process = sweep()
    assert process.wait(timeout=WAIT_S) == 1, "grid still has no images"
    (folder,) = set(folders(sweep)) - set(before)
    assert json.loads((folder / "0" / "reused.json").read_text())["run"].startswith(f"../../{before[0].name}")
    assert status(folder / "2") == "finished"
    board, first = rows(folder), rows(before[0])
    assert board["bottle"]["auroc"] == first["bottle"]["auroc"]
    assert [name for name in CATEGORIES if board[name]["error"]] == ["grid"]


def test_an_interrupted_sweep_takes_its_jobs_out_of_the_queue(sweep):
    process = sweep("+hydra.launcher.additional_parameters={hold: true}")
    wait_for(process, sweep, lambda: "pending (JobHeldUser)" in (sweep.place / "log.txt").read_text())
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=WAIT_S) == 130
    assert ask(sweep, "squeue", "--noheader") == ""


def test_what_the_queue_refuses_is_told_in_a_paragraph(sweep):
    assert sweep("hydra.launcher.gpus_per_node=1").wait(timeout=WAIT_S) == 1
    said = (sweep.place / "log.txt").read_text()
    assert "Invalid generic resource" in said
    assert "gpus_per_node=... (null = none)" in said
    assert "Traceback" not in said
