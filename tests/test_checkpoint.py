"""A checkpoint needs nothing else, runs no code, and makes nothing but detectors that are trusted."""

import copy
import pickle
import sys
import types

import pytest
import torch

from anomaly_lightning.detectors.autoencoder import Autoencoder
from anomaly_lightning.detectors.base import Detector
from anomaly_lightning.detectors.parts.networks import Pointwise
from anomaly_lightning.detectors.registry import TRUSTED, create_detector
from anomaly_lightning.errors import CheckpointError, NotCalibratedError
from anomaly_lightning.runtime.card import SCHEMA, ModelCard
from anomaly_lightning.runtime.inspector import Inspector
from anomaly_lightning.training.checkpoint import (
    TorchEngine,
    load_model,
    read_content,
)
from anomaly_lightning.training.module import CARD, AnomalyModule


@pytest.fixture(scope="module")
def content(checkpoint):
    return torch.load(checkpoint, weights_only=True)


@pytest.fixture
def changed(content, tmp_path):
    """Writes the run's checkpoint with blocks of its card changed; gives the file."""

    def write(**settings):
        other = {**content, CARD: {**copy.deepcopy(content[CARD]), **settings}}
        torch.save(other, tmp_path / "changed.ckpt")
        return tmp_path / "changed.ckpt"

    return write


def test_it_holds_plain_values_only(content):
    def walk(value):
        assert isinstance(value, dict | list | str | int | float | bool | type(None)), type(value)
        for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            walk(part)

    walk(content[CARD])
    assert ModelCard.from_dict(content[CARD]).to_dict() == content[CARD]
    assert content[CARD]["schema"] == SCHEMA


def test_the_thresholds_are_in_best_and_not_yet_in_last(content, run_folder):
    last = torch.load(run_folder / "checkpoints" / "last.ckpt", weights_only=True)
    for name in ("model.threshold", "model.pixel_threshold"):
        assert torch.isfinite(content["state_dict"][name])
        assert torch.isnan(last["state_dict"][name])


def test_what_was_trained_is_what_is_loaded(checkpoint, content):
    model, card = load_model(checkpoint)
    assert not model.training
    assert card.transform.size == (64, 48)
    assert card.thresholds.promise["normals"] == 3
    assert (card.thresholds.score, card.thresholds.pixel) == (float(model.threshold), float(model.pixel_threshold))
    loaded = {f"model.{name}": value for name, value in model.state_dict().items()}
    for name, value in content["state_dict"].items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(loaded[name], value), name
    assert model.extractor.backbone.weights_sha256 == card.backbone.weights_sha256


def test_a_checkpoint_from_within_the_fit_lacks_the_frozen_backbone_and_is_refused_by_name(run_folder, checkpoint):
    last = run_folder / "checkpoints" / "last.ckpt"
    names = torch.load(last, weights_only=True)["state_dict"]
    assert any(name.startswith("model.detector.") for name in names)
    assert not any(name.startswith("model.extractor.") for name in names)
    assert any(name.startswith("model.extractor.") for name in torch.load(checkpoint, weights_only=True)["state_dict"])
    with pytest.raises(NotCalibratedError, match=r"best\.ckpt of a finished run"):
        load_model(last)


def test_an_uncalibrated_model_refuses_to_decide_by_name(checkpoint):
    model, card = load_model(checkpoint)
    uncalibrated = card.replace(thresholds=None)
    with pytest.raises(NotCalibratedError, match=r"best\.ckpt of a finished run"):
        Inspector(uncalibrated, TorchEngine(model, "cpu"))
    model.threshold.fill_(torch.nan)
    with pytest.raises(NotCalibratedError, match="no threshold yet"):
        AnomalyModule(model, uncalibrated).decide(torch.zeros(2))


class Marker:
    """Pickled, it would make a file when it is loaded."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (open, (self.path, "w"))


@pytest.mark.parametrize("where", ["state", "settings", "top", "bare pickle"])
def test_a_file_that_would_run_code_is_refused_and_does_not(where, content, tmp_path):
    marker, file = tmp_path / "marker", tmp_path / "evil.ckpt"
    evil = copy.deepcopy(content)
    if where == "state":
        evil["state_dict"]["model.threshold"] = Marker(marker)
    elif where == "settings":
        evil[CARD]["category"] = Marker(marker)
    else:
        evil["callbacks"] = Marker(marker)
    if where == "bare pickle":
        file.write_bytes(pickle.dumps(Marker(marker)))
    else:
        torch.save(evil, file)
    with pytest.raises(CheckpointError, match="would need to run code"):
        load_model(file)
    assert not marker.exists()
    with file.open("rb") as stream:  # the file does what it is feared for, where somebody lets it
        pickle.load(stream) if where == "bare pickle" else torch.load(stream, weights_only=False)
    assert marker.exists()


@pytest.fixture
def foreign(tmp_path, monkeypatch):
    """A package of somebody else's with a detector, which notes that it was imported."""
    folder = tmp_path / "foreign_methods"
    folder.mkdir()
    (folder / "__init__.py").write_text("import pathlib\npathlib.Path(__file__).with_name('imported').touch()\n")
    (folder / "shallow.py").write_text(
        "from anomaly_lightning.detectors.autoencoder import Autoencoder\nclass Shallow(Autoencoder):\n    pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield folder
    for name in [name for name in sys.modules if name.startswith("foreign_methods")]:
        del sys.modules[name]


def test_a_detector_of_an_untrusted_package_is_not_even_imported(changed, content, foreign):
    file = changed(detector={**content[CARD]["detector"], "target": "foreign_methods.shallow.Shallow"})
    with pytest.raises(CheckpointError, match=r"no trusted package .*trust=\[foreign_methods\]"):
        load_model(file)
    assert not (foreign / "imported").exists()
    model, _ = load_model(file, trust=["foreign_methods"])
    assert type(model.detector).__name__ == "Shallow"


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "builtins.eval",
        "subprocess.Popen",
        "anomaly_lightning.features.weights.fetch",
        "anomaly_lightning.models_of_mine.Evil",
        "torch.nn.Linear",
        "system",
    ],
)
def test_only_modules_of_methods_are_reached(changed, content, target):
    with pytest.raises(CheckpointError, match="in no trusted package"):
        load_model(changed(detector={**content[CARD]["detector"], "target": target}))


@pytest.mark.parametrize(
    "name", ["base.nn", "base.Tensor", "autoencoder.torch", "autoencoder._encoder", "x.Y", "base.nn.Linear"]
)
def test_what_is_no_detector_is_refused(name):
    with pytest.raises(CheckpointError, match=r"is not a Detector|There is no detector"):
        create_detector({"_target_": f"anomaly_lightning.detectors.{name}"})


def test_a_trusted_name_is_a_package_not_a_prefix(monkeypatch):
    lookalike = types.ModuleType("mineral")
    lookalike.Rock = type("Rock", (Detector,), {})
    monkeypatch.setitem(sys.modules, "mineral", lookalike)
    with pytest.raises(CheckpointError, match="in no trusted package"):
        create_detector({"_target_": "mineral.Rock"}, trust=["mine"])
    assert isinstance(create_detector({"_target_": "mineral.Rock"}, trust=["mineral"]), Detector)
    assert TRUSTED == ("anomaly_lightning.detectors",)


def test_settings_and_arguments_reach_the_detector():
    network = {"_target_": "anomaly_lightning.detectors.parts.networks.Pointwise", "latent": 3}
    made = create_detector({"_target_": f"{Autoencoder.__module__}.Autoencoder", "network": network, "pool": 4})
    assert isinstance(made, Autoencoder)
    assert isinstance(made.network, Pointwise)
    assert (made.pool, made.network.latent) == (4, 3)


def test_a_part_of_an_untrusted_package_is_refused():
    evil = {"_target_": f"{Autoencoder.__module__}.Autoencoder", "network": {"_target_": "os.system", "command": "ls"}}
    with pytest.raises(CheckpointError, match=r"os\.system is in no trusted package"):
        create_detector(evil)


def test_a_missing_file_names_those_beside_it(run_folder, tmp_path):
    with pytest.raises(CheckpointError, match=r"There is no checkpoint .*bets\.ckpt\. There: best\.ckpt, last\.ckpt"):
        read_content(run_folder / "checkpoints" / "bets.ckpt")
    with pytest.raises(CheckpointError, match="A run leaves it in"):
        read_content(tmp_path / "nowhere" / "best.ckpt")


@pytest.mark.parametrize("damage", ["empty", "text", "cut", "flipped"])
def test_a_damaged_file_is_named(damage, checkpoint, tmp_path):
    whole = checkpoint.read_bytes()
    middle = len(whole) // 2
    flipped = whole[:middle] + bytes(255 - byte for byte in whole[middle:])
    content = {"empty": b"", "text": b"not a checkpoint", "cut": whole[:middle], "flipped": flipped}[damage]
    (tmp_path / "odd.ckpt").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"odd\.ckpt is damaged"):
        load_model(tmp_path / "odd.ckpt")


@pytest.mark.parametrize(
    "content", [{"state_dict": {}}, [1, 2], {CARD: 3}, {CARD: {}, "state_dict": {}}, {"anomaly_lightning": 1}], ids=str
)
def test_somebody_elses_file_is_told_apart(content, tmp_path):
    torch.save(content, tmp_path / "theirs.ckpt")
    with pytest.raises(CheckpointError, match=r"theirs\.ckpt"):
        load_model(tmp_path / "theirs.ckpt")


def test_another_format_is_named(changed):
    with pytest.raises(CheckpointError, match=rf"expected a model card of schema {SCHEMA}, got {SCHEMA + 1}"):
        load_model(changed(schema=SCHEMA + 1))


@pytest.mark.parametrize(
    "settings",
    [{"transform": {"size": [3]}}, {"detector": {}}, {"features": {"grind": 3}}, {"seed": "x"}, {"surprise": 1}],
    ids=str,
)
def test_cards_that_do_not_fit_are_reported_without_a_traceback(changed, settings):
    with pytest.raises(CheckpointError, match=r"changed\.ckpt: the model card is damaged"):
        load_model(changed(**settings))
