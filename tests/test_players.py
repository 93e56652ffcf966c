"""Detectors with several players, and detectors that see images, through training, checkpoint and evaluation."""

import copy
import csv
import json
import math

import pytest
import pytorch_lightning as pl
import torch
from omegaconf import OmegaConf
from toy import BARE, command, composed
from toy_detectors import TwoPlayers

from anomaly_lightning.errors import CheckpointError
from anomaly_lightning.runtime.inspector import Inspector
from anomaly_lightning.training.checkpoint import load_model
from anomaly_lightning.training.schedule import WarmCosine
from anomaly_lightning.training.session import TrainingSession

TRUST = ("toy_detectors",)


@pytest.fixture
def session(widget, tmp_path):
    """Makes a session of the small category with a detector of `toy_detectors`, not yet run."""

    def make(name, *overrides):
        given = [item for item in widget if not item.startswith("model.")]
        folder = tmp_path / f"{name}{len(list(tmp_path.iterdir()))}"
        bare = [item for item in BARE if "history" not in item]
        config = composed(*given, *bare, f"run_dir={folder}", "reuse=false", "bootstrap=0", "model=pca", *overrides)
        OmegaConf.set_struct(config, False)
        config.model = {"_target_": f"toy_detectors.{name}"}
        return TrainingSession(config)

    return make


class Watch(pl.Callback):
    """Keeps a copy of every batch that is trained on."""

    def __init__(self, batches):
        self.batches = batches

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.batches.append(batch["features"].clone())


def test_players_take_turns_each_with_its_own_optimizer_as_in_a_loop_by_hand(session):
    made = session("TwoPlayers", "optimizer.lr=0.01", "trainer.max_epochs=3", "data.batch_size=5", "test=false")
    by_hand, batches = copy.deepcopy(made.module.model.detector), []
    made.trainer.callbacks.append(Watch(batches))
    made.run()
    assert [len(batch) for batch in batches] == [5, 5, 2] * 3

    optimizers = {name: torch.optim.Adam(own, lr=0.01) for name, own in by_hand.players().items()}
    for batch in batches:
        for name, optimizer in optimizers.items():
            optimizer.zero_grad()
            by_hand.losses(batch, name)["total"].backward()
            optimizer.step()
    trained = made.module.model.detector.state_dict()
    assert len(made.trainer.optimizers) == 2
    for name, value in by_hand.state_dict().items():
        torch.testing.assert_close(trained[name], value, rtol=1e-5, atol=1e-6)


def test_one_players_turn_leaves_the_other_alone(session):
    made = session("TwoPlayers", "trainer.max_epochs=1", "data.batch_size=12")
    rates = iter((0.1, 0.0))
    made.module.optimizer = lambda parameters: torch.optim.SGD(parameters, lr=next(rates))
    before = copy.deepcopy(made.module.model.detector.state_dict())
    made.run()
    after = made.module.model.detector.state_dict()
    moved = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert moved == {"critic.weight", "critic.bias"}


@pytest.mark.parametrize("limits", [("trainer.max_epochs=2",), ("trainer.max_epochs=-1", "trainer.max_steps=12")])
def test_a_schedule_and_clipping_hold_for_every_player_as_in_a_loop_by_hand(session, limits):
    """12 images in batches of 5 are 3 steps an epoch; Lightning counts one for each player."""
    made = session("TwoPlayers", *limits, "data.batch_size=5", "test=false")
    recipe = WarmCosine(lr=0.1, final_lr=0.01, warmup=2, weight_decay=0.1, amsgrad=False, clip=0.05)
    made.module.optimizer = recipe
    by_hand, batches = copy.deepcopy(made.module.model.detector), []
    made.trainer.callbacks.append(Watch(batches))
    made.run()
    assert len(batches) == 6
    optimizers = {name: torch.optim.AdamW(own, lr=0.1, weight_decay=0.1) for name, own in by_hand.players().items()}
    for step, batch in enumerate(batches):
        for name, optimizer in optimizers.items():
            optimizer.param_groups[0]["lr"] = recipe.rate(step, 6)
            optimizer.zero_grad()
            by_hand.losses(batch, name)["total"].backward()
            torch.nn.utils.clip_grad_norm_(by_hand.players()[name], 0.05)
            optimizer.step()
    trained = made.module.model.detector.state_dict()
    for name, value in by_hand.state_dict().items():
        torch.testing.assert_close(trained[name], value, rtol=1e-5, atol=1e-6)


def test_losses_of_every_player_are_logged_by_name_and_the_last_epoch_is_kept(session):
    made = session("TwoPlayers", "trainer.max_epochs=2")
    assert made.run() is None, "no loss of one player says which epoch is best"
    with (made.folder / "history" / "metrics.csv").open(newline="") as stream:
        columns = set(next(csv.reader(stream)))
    totals = {f"{stage}/{player}/loss" for stage in ("train", "val") for player in ("critic", "generator")}
    assert totals | {"train/critic/real", "train/generator/content"} <= columns
    best, last = (
        torch.load(made.folder / "checkpoints" / f"{name}.ckpt", weights_only=True)["state_dict"]
        for name in ("best", "last")
    )
    names = [name for name in last if name.startswith("model.detector.")]
    assert names
    assert all(torch.equal(best[name], last[name]) for name in names)
    assert made.module.card.thresholds.promise["rests_on"][1] == "They were used for nothing else."


def test_a_detector_of_another_package_is_created_on_trust_alone(session):
    made = session("TwoPlayers", "test=false")
    made.run()
    path = made.folder / "checkpoints" / "best.ckpt"
    with pytest.raises(CheckpointError, match=r"trust=\[toy_detectors\]"):
        load_model(path)
    model, _ = load_model(path, TRUST)
    assert isinstance(model.detector, TwoPlayers)


@pytest.mark.parametrize("mode", ["memory", "off"])
def test_a_detector_that_sees_images_gets_images_in_training_evaluation_and_inspection(session, tmp_path, mode):
    made = session("Brightness", f"cache.mode={mode}")
    assert made.run() is None
    model, card = load_model(made.folder / "checkpoints" / "best.ckpt", TRUST)
    normals = torch.stack([made.source.dataset("train")[i]["images"] for i in range(12)])
    torch.testing.assert_close(model.detector.mean, normals.mean(0), rtol=1e-5, atol=1e-5)
    assert card.thresholds is not None

    with (made.folder / "predictions.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    inspector = Inspector.load(made.folder / "checkpoints" / "best.ckpt", "cpu", TRUST)
    for row in rows:
        assert math.isclose(inspector(row["path"]).score, float(row["score"]), rel_tol=1e-4)
    ran = command(
        "evaluate", f"checkpoint={made.folder}/checkpoints/best.ckpt", "trust=[toy_detectors]", "bootstrap=0",
        "heatmaps=false", "hydra.run.dir=again", cwd=tmp_path,
    )  # fmt: skip
    assert ran.code == 0, ran.out
    first, again = (json.loads((folder / "metrics.json").read_text()) for folder in (made.folder, tmp_path / "again"))
    for name in ("auroc", "f1", "false_alarm_rate", "oracle_threshold"):
        assert again["image"][name] == pytest.approx(first["image"][name], rel=1e-4)
