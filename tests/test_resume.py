"""A run that is killed in mid-fit goes on from last.ckpt and ends where the uninterrupted one does."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from toy import command, make_category

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


def refused(ckpt, widget, tmp_path, *more):
    """The one line that a run with this ckpt ends with."""
    ran = command("train", *widget, *QUIET, f"hydra.run.dir={tmp_path}/run", f"ckpt={ckpt}", *more, cwd=tmp_path)
    assert ran.code == 1, ran.out
    assert "Traceback" not in ran.out
    assert not (tmp_path / "run" / "checkpoints").exists(), "nothing was trained"
    (line,) = [line for line in ran.out.splitlines() if line.startswith("CheckpointError: ")]
    return line


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("seed=1", "seed (0 there, 1 here)"),
        ("data.image_size=[64,64]", "data.image_size ([64, 48] there, [64, 64] here)"),
        ("data.split=pooled_80_20", "data.split (official there, pooled_80_20 here)"),
        ("data.validation_share=0.3", "data.validation_share (0.2 there, 0.3 here)"),
        ("data.resize=letterbox", "data.resize (stretch there, letterbox here)"),
        ("features.neighbourhood=5", "features.neighbourhood ("),
        ("model.noise=0.5", "model.noise (0.25 there, 0.5 here)"),
        ("model.network.width=16", "model.network.width (8 there, 16 here)"),
        ("scoring.sigma=2.5", "scoring.sigma ("),
        ("optimizer.lr=0.5", "optimizer.lr (0.001 there, 0.5 here)"),
        ("data.batch_size=4", "data.batch_size (32 there, 4 here)"),
        ("cache.dtype=float32", "cache.dtype (float16 there, float32 here)"),
        ("data.roi=[[0,0],[1,0],[1,0.5],[0,0.5]]", "data.roi"),
    ],
)
def test_a_checkpoint_of_a_run_that_did_something_else_is_refused(killed, widget, tmp_path, change, said):
    given = [word for word in widget if word.partition("=")[0] != change.partition("=")[0]]
    line = refused(killed / "checkpoints" / "last.ckpt", given, tmp_path, change)
    assert said in line
    assert "last.ckpt belongs to another run: " in line


def test_a_checkpoint_of_other_images_is_refused(killed, widget, tmp_path):
    make_category(tmp_path / "images", seed=5)
    line = refused(killed / "checkpoints" / "last.ckpt", widget, tmp_path, f"data.root={tmp_path}/images")
    assert "the fingerprint of the images (" in line


def test_the_same_images_elsewhere_are_the_same(killed, widget, root, tmp_path):
    """Where they lie, how long it is to go on and what is written of it are the user's to change."""
    shutil.copytree(root, tmp_path / "moved")
    shutil.copytree(killed, tmp_path / "killed")
    last = tmp_path / "killed" / "checkpoints" / "last.ckpt"
    done = torch.load(last, weights_only=True)["epoch"] + 1
    more = (f"data.root={tmp_path}/moved", f"trainer.max_epochs={done + 1}", "logger.history=null")
    ran = command("train", *widget, *QUIET, f"hydra.run.dir={tmp_path}/run", f"ckpt={last}", *more, cwd=tmp_path)
    assert ran.code == 0, ran.out
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (run["ckpt"], run["ckpt_epochs"]) == (str(last), done)


@pytest.mark.parametrize(
    ("change", "said"), [("backbone", "the sha256 of backbone.weights (000000000000... there"), ("model", "model (")]
)
def test_going_on_with_another_network_or_method_is_refused(killed, widget, tmp_path, change, said):
    content = torch.load(killed / "checkpoints" / "last.ckpt", weights_only=True)
    if change == "backbone":
        content["card"]["backbone"]["weights_sha256"] = "0" * 64
    else:
        content["card"]["detector"]["target"] = "anomaly_lightning.detectors.other.Other"
    torch.save(content, tmp_path / "other.ckpt")
    assert said in refused(tmp_path / "other.ckpt", widget, tmp_path)


def test_fewer_epochs_than_are_done_are_refused(killed, widget, tmp_path):
    line = refused(killed / "checkpoints" / "last.ckpt", widget, tmp_path, "trainer.max_epochs=0")
    assert "epochs behind it, more than trainer.max_epochs=0: expected" in line


@pytest.mark.parametrize(
    "kind", ["missing", "folder", "text", "state", "best of a finished run", "best of a killed run"]
)
def test_what_is_no_interrupted_run_is_named_in_one_line(killed, run_folder, widget, tmp_path, kind):
    places = {
        "missing": (tmp_path / "nowhere.ckpt", "There is no checkpoint"),
        "folder": (tmp_path, "is a folder. Expected a checkpoint"),
        "text": (tmp_path / "a.ckpt", "is damaged"),
        "state": (tmp_path / "b.ckpt", "was not written by anomaly_lightning"),
        "best of a finished run": (run_folder / "checkpoints" / "best.ckpt", "expected the last.ckpt"),
        "best of a killed run": (killed / "checkpoints" / "best.ckpt", "expected the last.ckpt"),
    }
    (tmp_path / "a.ckpt").write_text("this is no checkpoint")
    torch.save({"state_dict": {}}, tmp_path / "b.ckpt")
    place, said = places[kind]
    line = refused(place, widget, tmp_path)
    assert said in line
    assert str(place) in line


def test_best_weights_come_along_when_the_whole_run_was_moved(killed, widget, tmp_path):
    moved = Path(shutil.copytree(killed, tmp_path / "moved"))
    aside = killed.rename(tmp_path / "aside")  # so that nothing is where the checkpoint says
    try:
        last = moved / "checkpoints" / "last.ckpt"
        done = torch.load(last, weights_only=True)["epoch"] + 1
        given = (f"run_dir={tmp_path}/new", f"ckpt={last}", f"trainer.max_epochs={done}")
        ran = command("train", *widget, *QUIET, *given, cwd=tmp_path)
        assert ran.code == 0, ran.out
        assert "are not there" not in ran.out
        one, other = checkpoint(moved, "best"), checkpoint(tmp_path / "new", "best")
        names = [name for name in one["state_dict"] if name.startswith("model.detector.network")]
        assert names
        assert all(torch.equal(one["state_dict"][name], other["state_dict"][name]) for name in names)
    finally:
        aside.rename(killed)


def test_a_recipe_of_fixed_steps_does_all_epochs_that_are_asked_for(widget, tmp_path):
    """Its limit of steps is not reached here, and Lightning would take the epoch it goes on from for one more."""
    given = (
        *(word for word in widget if not word.startswith("model.")),
        *QUIET,
        "model=transformer",
        "model.width=8",
        "model.depth=1",
    )
    for epochs, ckpt in ((2, ()), (4, (f"ckpt={tmp_path}/2/checkpoints/last.ckpt",))):
        there = (
            f"trainer.max_epochs={epochs}",
            f"run_dir={tmp_path}/{epochs}",
            "validity=false",
            "logger.tensorboard=null",
        )
        ran = command("train", *given, *there, *ckpt, cwd=tmp_path)
        assert ran.code == 0, ran.out
        last = checkpoint(tmp_path / str(epochs), "last")
        assert (last["epoch"], last["global_step"]) == (epochs - 1, epochs * 2), "12 images in batches of 8"
