"""New normals taken into a fitted model: what fitting on all would give, a threshold certified anew, no half files."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import toy
from toy import BARE, SMALL, command, flat, save, texture
from toy_detectors import TwoPlayers

import anomaly_lightning
from anomaly_lightning.configs import composed
from anomaly_lightning.detectors.base import Spec
from anomaly_lightning.detectors.registry import create_detector
from anomaly_lightning.errors import DataError, UserError
from anomaly_lightning.runtime.bundle import read_bundle
from anomaly_lightning.runtime.inspector import Inspector
from anomaly_lightning.runtime.transform import ImageTransform
from anomaly_lightning.runtime.versions import resolve
from anomaly_lightning.training import compose
from anomaly_lightning.training.checkpoint import build_model, load_model
from anomaly_lightning.upkeep.absorbing import old_data, parted, refuse
from anomaly_lightning.upkeep.updating import next_checkpoint

NEW = 8


@pytest.fixture(scope="module")
def another_day(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("day") / "good", np.random.default_rng(9)
    for number in range(NEW):
        save((0.85 * texture(rng)).astype(np.uint8), folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def trained_models(root, tmp_path_factory):
    """best.ckpt by method."""
    place, found = tmp_path_factory.mktemp("models"), {}
    words = [word for word in SMALL if not word.startswith("model.")]
    for name in ("pca", "padim", "patchcore"):
        given = ("category=custom", "category.name=widget", f"data.root={root}", f"model={name}", "test=false")
        ran = command("train", *words, *BARE, *given, f"hydra.run.dir={name}", cwd=place)
        assert ran.code == 0, ran.out
        found[name] = place / name / "checkpoints" / "best.ckpt"
    return found


@pytest.fixture
def copied(checkpoint, tmp_path):
    """The session's model, in a folder of its own."""
    shutil.copyfile(checkpoint, tmp_path / "best.ckpt")
    return tmp_path / "best.ckpt"


def update(checkpoint, normals, *words, cwd):
    return command("update", f"checkpoint={checkpoint}", f"normals={normals}", *words, cwd=cwd)


def seen_by(model, paths, card):
    """What a detector sees of images, (N, ...)."""
    transform = ImageTransform.from_card(card.transform)
    return model.inputs(torch.stack([torch.from_numpy(transform(transform.read(path))) for path in paths]))


@pytest.mark.parametrize("name", ["pca", "padim", "patchcore"])
def test_updated_statistics_are_those_of_all_normals(name, trained_models, another_day, root, tmp_path):
    """Against a fresh detector that is prepared on old and new normals at once."""
    output = tmp_path / "new.ckpt"
    ran = update(trained_models[name], another_day, f"output={output}", cwd=tmp_path)
    assert ran.code == 0, ran.out
    before, card = load_model(trained_models[name])
    after, known = load_model(output)
    cfg = composed("update", [f"checkpoint={output}", f"normals={another_day}"])
    old = [sample.path for sample in old_data(cfg, card).splits.train]
    assert len(old) == 12
    new = parted(sorted(another_day.iterdir()), 0.5, 0)
    fresh = build_model(card)
    fresh.load_state_dict(before.state_dict())
    with torch.no_grad():
        fresh.detector.prepare([seen_by(before, [*old, *new.absorbed], card)])
        inputs = seen_by(before, new.held_out, card)
        ours, theirs = after.detector.error_map(inputs), fresh.detector.error_map(inputs)
        stale = before.detector.error_map(inputs)
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-6)
    assert not torch.allclose(ours, stale, rtol=1e-2)
    assert known.thresholds.promise["normals"] == len(new.held_out)
    assert (known.history[0].what, known.history[0].normals) == ("update", NEW)
    measured = known.drift.normals  # by the updated model: of the map held-out normals, of the looks all
    assert (len(measured[0]), len(measured[-1])) == (3 + len(new.held_out), 15 + NEW)
    assert set(measured[0][:3]).isdisjoint(card.drift.normals[0])


def test_the_default_keeps_its_network_and_renews_what_it_remembers(copied, another_day, tmp_path):
    ran = update(copied, another_day, "why=new lamps", cwd=tmp_path)
    assert ran.code == 0, ran.out
    before, after = (load_model(path)[0].state_dict() for path in (copied, tmp_path / "best@2.ckpt"))
    same = {
        name for name in before if before[name].shape == after[name].shape and torch.equal(before[name], after[name])
    }
    assert {name for name in before if ".network." in name} <= same
    assert "detector.moments.mean" in same
    assert {"detector.whitening.axes", "detector.fusion.memory.bank", "threshold"}.isdisjoint(same)
    card = load_model(tmp_path / "best@2.ckpt")[1]
    assert card.thresholds.promise["rests_on"][0].startswith("4 new normals from ")
    assert card.thresholds.score == pytest.approx(float(after["threshold"]))
    assert next_checkpoint(tmp_path / "best@2.ckpt") == tmp_path / "best@3.ckpt"


@pytest.mark.slow
def test_with_a_bundle_its_next_version_says_what_the_new_checkpoint_says(copied, exported, another_day, tmp_path):
    shutil.copytree(exported, tmp_path / "line")
    ran = update(copied, another_day, f"bundle={tmp_path / 'line'}", cwd=tmp_path)
    assert ran.code == 0, ran.out
    made = resolve(tmp_path / "line@latest")
    assert made.name == "line@2"
    image = next(iter(another_day.iterdir()))
    ours, theirs = (Inspector.load(path, "cpu")(image) for path in (tmp_path / "best@2.ckpt", made))
    assert ours.score == pytest.approx(theirs.score, rel=1e-4)
    assert ours.threshold == theirs.threshold
    assert (made / "parity.json").is_file()
    read_bundle(made)
    ran = command("versions", f"bundle={tmp_path / 'line'}", cwd=tmp_path)
    assert "update" in ran.out
    assert "version 1" in ran.out


def test_defects_among_the_new_normals_are_refused_by_the_misses_they_cause(copied, another_day, root, tmp_path):
    mixed = tmp_path / "mixed"
    shutil.copytree(another_day, mixed)
    for kind in ("scratch", "spot"):
        for path in (root / "widget" / "test" / kind).iterdir():
            shutil.copyfile(path, mixed / f"{kind}{path.name}")
    before = copied.read_bytes()
    ran = update(copied, mixed, f"defects={root / 'widget' / 'test'}", cwd=tmp_path)
    assert ran.code == 1, ran.out
    assert "by more than max_miss_increase" in flat(ran.out)
    assert copied.read_bytes() == before
    assert [path.name for path in tmp_path.glob("*.ckpt")] == ["best.ckpt"]


def test_images_of_the_run_itself_are_left_out(copied, root, tmp_path):
    ran = update(copied, root / "widget" / "train" / "good", cwd=tmp_path)
    assert ran.code == 1
    assert "no image is left to take in" in flat(ran.out)
    assert not (tmp_path / "best@2.ckpt").exists()


def test_the_old_normals_have_to_be_there(copied, another_day, tmp_path):
    ran = update(copied, another_day, "data.root=/nowhere", cwd=tmp_path)
    assert ran.code == 1
    assert "without them train again" in flat(ran.out)


def test_a_detector_that_knows_normals_by_its_weights_alone_is_refused_by_its_name():
    with pytest.raises(UserError, match=r"TwoPlayers .* Train again"):
        refuse(SimpleNamespace(detector=TwoPlayers()))
    bare = {"whitening": None, "memory": None, "fusion": None}
    for changed, known in (({}, True), (bare, False)):
        block = compose.plain(toy.composed("model=autoencoder").model)
        detector = create_detector({**block, **changed})
        detector.build(Spec((20, 4, 4), (16, 16)))
        assert detector.absorbs is known
        if not known:
            with pytest.raises(UserError, match="Autoencoder"):
                refuse(SimpleNamespace(detector=detector))


def test_parts_are_disjoint_and_whole():
    paths = [Path(f"{number}.png") for number in range(9)]
    found = parted(paths, 0.5, 3)
    assert sorted(found.absorbed + found.held_out) == sorted(paths)
    assert len(found.held_out) == 4
    with pytest.raises(DataError, match="at least 2"):
        parted(paths[:1], 0.5, 0)


KILLED = """
import os, sys, time
from pathlib import Path
real = os.fsync
def wait(descriptor):
    real(descriptor)
    Path("reached").touch()
    time.sleep(300)
import anomaly_lightning.upkeep.updating
os.fsync = wait
from anomaly_lightning.update import main
main()
"""


def test_killed_while_it_writes_the_checkpoint_nothing_is_half(trained_models, another_day, tmp_path):
    best = tmp_path / "best.ckpt"
    shutil.copyfile(trained_models["pca"], best)
    before = best.read_bytes()
    environment = {**os.environ, "PYTHONPATH": str(Path(anomaly_lightning.__file__).parents[1])}
    words = [f"checkpoint={best}", f"normals={another_day}"]
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, *words], cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL
    )
    end = time.monotonic() + 300
    while not (tmp_path / "reached").exists() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert (tmp_path / "reached").exists()
    assert [path.name for path in tmp_path.glob("*.ckpt")] == ["best.ckpt"]
    assert best.read_bytes() == before
    assert update(best, another_day, cwd=tmp_path).code == 0
    load_model(tmp_path / "best@2.ckpt")
