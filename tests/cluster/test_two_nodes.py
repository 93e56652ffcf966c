"""Data-parallel training over two nodes: the metrics of one process, and a node that dies in the middle of an epoch."""

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from toy import BARE, COUNTS
from two_nodes import Node, missing, two_nodes

from anomaly_lightning.places import PACKAGE

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(missing()), reason=f"no network namespaces: {missing()}")]
# No batch statistics, no dropout and no mining: each step's gradient is the mean of what the images say one by one, so
# it can't matter which process saw them. 12 images in batches of 4: three steps an epoch, two images a process in each.
# The last step's weights are kept, so that a step too few shows.
EXACT = ("model=transformer", "model.dropout=0", "model.mined=0", "model.width=8", "model.depth=2", "model.heads=2")
RUN = ("data.batch_size=4", "trainer.max_steps=18", "trainer.max_epochs=-1", "callbacks.last.at_least_s=0")
WAIT_S = 900  # on a machine with much else to do
PLACES = f"{PACKAGE.parent}:{Path(__file__).parent}"
ENVIRONMENT = {
    "PYTHONPATH": PLACES,
    "OMP_NUM_THREADS": "1",
    "PYTHONUNBUFFERED": "1",
}
NODES = ("trainer.num_nodes=2", "trainer.devices=1", "trainer.strategy=ddp")


@pytest.fixture(scope="module")
def options(widget):
    return (*(word for word in widget if not word.startswith("model.")), *BARE, *RUN, *EXACT)


@pytest.fixture(scope="module")
def one(options, tmp_path_factory):
    """Folder of the run in one process."""
    folder = tmp_path_factory.mktemp("one") / "run"
    command = [sys.executable, "-m", "anomaly_lightning.train", *options, f"hydra.run.dir={folder}"]
    subprocess.run(command, env={**os.environ, **ENVIRONMENT}, check=True, capture_output=True, cwd=folder.parent)
    return folder


@pytest.fixture
def nodes(options, tmp_path):
    """Starts the same run on both nodes."""

    started = []

    def start(*more):
        words = (*options, *NODES, *more)
        both = [Node(node, words, tmp_path / f"node{node}.txt", ENVIRONMENT) for node in (0, 1)]
        started.extend(both)
        return both

    with two_nodes():
        yield start
        for node in started:
            node.kill()


def content(folder, name):
    return json.loads((folder / name).read_text())


def scores(folder):
    with (folder / "predictions.csv").open(newline="") as stream:
        return {row["path"]: float(row["score"]) for row in csv.DictReader(stream)}


def assert_same(found, wanted):
    """Every score, the threshold and the metrics of two runs to 1e-5, and as many steps of the optimizer."""
    assert list(scores(found)) == list(scores(wanted))
    np.testing.assert_allclose(list(scores(found).values()), list(scores(wanted).values()), rtol=1e-5)
    here, there = content(found, "metrics.json"), content(wanted, "metrics.json")
    assert here["threshold"]["value"] == pytest.approx(there["threshold"]["value"], rel=1e-5)
    for part in ("image", "pixel"):
        numbers = {name: value for name, value in there[part].items() if isinstance(value, float)}
        assert len(numbers) > 3
        assert {name: here[part][name] for name in numbers} == pytest.approx(numbers, rel=1e-5, abs=1e-5)
    assert here["counts"] == there["counts"] == COUNTS
    assert steps(found) == steps(wanted) == 6 * 3


def steps(folder):
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=False)["global_step"]


def test_two_nodes_give_the_metrics_of_one_process(nodes, one, tmp_path):
    both = nodes(f"hydra.run.dir={tmp_path / 'run'}")
    for node in both:
        assert node.wait(WAIT_S) == 0, node.log.read_text()
    said = [node.log.read_text() for node in both]
    assert [text.count("outputs  ") for text in said] == [1, 0], "one process speaks"
    assert_same(tmp_path / "run", one)


def test_a_dead_node_ends_the_run_and_last_ckpt_goes_on_from_it(nodes, one, tmp_path):
    run, last = f"hydra.run.dir={tmp_path / 'run'}", tmp_path / "run" / "checkpoints" / "last.ckpt"
    first, second = nodes(run, "+callbacks.dying={_target_: dying.Dying, rank: 1, epoch: 3}")
    assert second.wait(WAIT_S) == -signal.SIGKILL
    assert first.wait(WAIT_S) not in (0, -signal.SIGKILL)
    assert torch.load(last, weights_only=False)["epoch"] == 2, "the last whole epoch"
    assert not (tmp_path / "run" / "metrics.json").exists()

    again = nodes(run, f"ckpt={last}")
    for node in again:
        assert node.wait(WAIT_S) == 0, node.log.read_text()
    assert content(tmp_path / "run", "run.json")["ckpt_epochs"] == 3
    assert_same(tmp_path / "run", one)
