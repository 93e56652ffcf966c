"""A run that is killed in mid-fit goes on from last.ckpt and ends where the uninterrupted one does."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from toy import command

import anomaly_lightning

EPOCHS = 40
QUIET = (
    "callbacks.panels=null",
    "callbacks.heatmaps=null",
    "bootstrap=0",
    "test=false",
    f"trainer.max_epochs={EPOCHS}",
)


def checkpoint(folder, name):
    return torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)


def threshold(folder):
    return float(checkpoint(folder, "best")["state_dict"]["model.threshold"])


@pytest.fixture(scope="module")
def killed(widget, tmp_path_factory):
    """Folder of a run that SIGKILL ended after its first epochs."""
    folder = tmp_path_factory.mktemp("killed")
    environment = {**os.environ, "PYTHONPATH": str(Path(anomaly_lightning.__file__).parents[1])}
    arguments = [sys.executable, "-m", "anomaly_lightning.train", *widget, *QUIET, f"run_dir={folder}"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(arguments, cwd=folder, env=environment, stdout=log, stderr=log)
        while not (folder / "checkpoints" / "last.ckpt").is_file() and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert process.returncode == -signal.SIGKILL, (folder / "log").read_text()
    return folder


@pytest.fixture(scope="module")
def uninterrupted(widget, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    assert command("train", *widget, *QUIET, f"run_dir={folder}", cwd=folder).code == 0
    return folder


def test_a_killed_run_is_not_mistaken_for_a_finished_one(killed, root, tmp_path):
    assert checkpoint(killed, "last")["epoch"] < EPOCHS - 1
    assert not (killed / "metrics.json").exists()
    given = (f"checkpoint={killed}/checkpoints/best.ckpt", f"input={root}", f"output={tmp_path}")
    ran = command("predict", *given, cwd=tmp_path)
    assert ran.code == 1
    assert "NotCalibratedError" in ran.out


def test_it_goes_on_in_a_new_folder_and_ends_as_the_uninterrupted_run(killed, uninterrupted, widget, tmp_path):
    done = checkpoint(killed, "last")["epoch"]
    last = killed / "checkpoints" / "last.ckpt"
    ran = command("train", *widget, *QUIET, f"run_dir={tmp_path}", f"ckpt={last}", cwd=tmp_path)
    assert ran.code == 0, ran.out
    whole, resumed = checkpoint(uninterrupted, "last"), checkpoint(tmp_path, "last")
    assert (resumed["epoch"], resumed["global_step"]) == (whole["epoch"], whole["global_step"])
    assert resumed["epoch"] == EPOCHS - 1
    with (tmp_path / "history" / "metrics.csv").open(newline="") as stream:
        epochs = {int(row["epoch"]) for row in csv.DictReader(stream) if row.get("val/loss")}
    assert min(epochs) == done + 1, "it did not start anew"
    assert threshold(tmp_path) == threshold(uninterrupted)
    weights = {name: value for name, value in whole["state_dict"].items() if name.startswith("model.detector.network")}
    assert weights
    assert all(torch.equal(value, resumed["state_dict"][name]) for name, value in weights.items())


def test_a_checkpoint_to_go_on_from_that_is_not_there_is_named(widget, tmp_path):
    ran = command("train", *widget, *QUIET, f"ckpt={tmp_path}/nowhere.ckpt", cwd=tmp_path)
    assert ran.code == 1
    assert "nowhere.ckpt" in ran.out


def test_going_on_with_other_weights_is_refused(killed, widget, tmp_path):
    last = killed / "checkpoints" / "last.ckpt"
    content = torch.load(last, weights_only=True)
    content["card"]["backbone"]["weights_sha256"] = "0" * 64
    torch.save(content, tmp_path / "other.ckpt")
    ran = command("train", *widget, *QUIET, f"run_dir={tmp_path}/run", f"ckpt={tmp_path}/other.ckpt", cwd=tmp_path)
    assert ran.code == 1
    assert f"weights {'0' * 64}" in ran.out
    assert "Traceback" not in ran.out
