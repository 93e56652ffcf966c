"""Two processes, a second run on the same images, and memory that is bounded."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pytorch_lightning.trainer.states import TrainerFn
from toy import BARE, COUNTS, composed, save

from anomaly_lightning.features.backbone import Backbone
from anomaly_lightning.model import AnomalyModel
from anomaly_lightning.places import PACKAGE
from anomaly_lightning.reports import peak_memory
from anomaly_lightning.runtime import allocator
from anomaly_lightning.runtime.transform import ImageTransform
from anomaly_lightning.scoring import Scoring
from anomaly_lightning.training import compose
from anomaly_lightning.training.callbacks.calibration import normal_pixels
from anomaly_lightning.training.module import AnomalyModule
from anomaly_lightning.training.session import TrainingSession

SIZE = (12, 10)


def run_json(folder):
    return json.loads((folder / "run.json").read_text())


def scores(folder):
    with (folder / "predictions.csv").open(newline="") as stream:
        return {row["path"]: float(row["score"]) for row in csv.DictReader(stream)}


def train(place, *overrides):
    """A run of the train command in a process of its own, for it starts others."""
    command = [sys.executable, "-m", "anomaly_lightning.train", *overrides]
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent), "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout + ran.stderr


def optimiser_steps(folder):
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=False)["global_step"]


@pytest.mark.slow
def test_two_processes_give_what_one_gives(widget, tmp_path):
    options = (*widget, *BARE, "trainer.max_epochs=4", "data.batch_size=4")
    for name, extra in {"one": (), "two": ("trainer.devices=2", "trainer.strategy=ddp")}.items():
        out = train(tmp_path, *options, *extra, f"hydra.run.dir={tmp_path / name}")
        assert out.count("outputs") == 1, "one process speaks"
    one, two = scores(tmp_path / "one"), scores(tmp_path / "two")
    assert list(one) == list(two)
    # batch statistics are those of half a batch each: the same but for noise
    np.testing.assert_allclose(list(two.values()), list(one.values()), rtol=0.1)
    assert np.corrcoef(list(one.values()), list(two.values()))[0, 1] > 0.98
    assert run_json(tmp_path / "two")["counts"] == COUNTS
    assert optimiser_steps(tmp_path / "two") == optimiser_steps(tmp_path / "one") == 4 * 3, "4 epochs of 12 images"


def test_a_session_leaves_the_model_as_every_process_has_it(widget, tmp_path):
    """Processes exchange buffers one after the other: the first must have the same ones after its drift monitor."""
    session = TrainingSession(composed(*widget, *BARE, "drift=true", "bootstrap=0", f"run_dir={tmp_path}"))
    before = [name for name, _ in session.module.model.extractor.named_buffers()]
    assert before
    session.run()
    assert session.module.card.drift is not None
    assert [name for name, _ in session.module.model.extractor.named_buffers()] == before


@pytest.mark.slow
def test_a_method_without_gradients_says_that_it_takes_one_process(widget, tmp_path):
    several = ("trainer.devices=2", "trainer.strategy=ddp", "model=padim", f"hydra.run.dir={tmp_path}")
    chosen = [option for option in widget if not option.startswith("model.")]
    out = train(tmp_path, *chosen, *BARE, *several)
    assert "one process does it" in out
    assert len(scores(tmp_path)) == COUNTS["test_good"] + COUNTS["test_defect"]


@pytest.mark.parametrize(("devices", "strategy"), [(1, "auto"), (2, "ddp"), ([0], "auto"), ("auto", "auto")], ids=str)
def test_one_process_for_methods_without_gradients(devices, strategy, tmp_path):
    config = composed("trainer.accelerator=cpu", f"trainer.strategy={strategy}", f"run_dir={tmp_path}", *BARE)
    config.trainer.devices = devices if devices != [0] else [1]
    changes = compose._one_process(config.trainer)
    assert changes == (
        {} if strategy == "auto" and devices != "auto" else {"devices": 1, "num_nodes": 1, "strategy": "auto"}
    )


def test_a_second_run_on_the_same_images_computes_nothing(widget, tmp_path, monkeypatch):
    seen = []
    forward = Backbone.forward

    def counted(self, images):
        seen.append(len(images))
        return forward(self, images)

    monkeypatch.setattr(Backbone, "forward", counted)
    cache = f"cache.dir={tmp_path / 'cache'}"
    changes = {
        "first": (),
        "latent": ("model.network.latent=3",),
        "threshold": ("threshold=quantile",),
        "model": ("model=pca",),
    }
    for name, change in changes.items():
        chosen = [option for option in widget if name != "model" or not option.startswith("model.")]
        config = composed(*chosen, *BARE, *change, cache, "test=false", "reuse=false", f"run_dir={tmp_path / name}")
        session = TrainingSession(config)
        seen.clear()
        session.data.trainer = session.trainer
        session.data.setup("fit")
        session._write_run("training")
        wanted = sum(COUNTS.values()) if name == "first" else 0
        assert sum(seen) == run_json(tmp_path / name)["images_computed"] == wanted, name


@pytest.fixture(scope="module")
def peak_mb(tmp_path_factory):
    """Peak memory of a whole train command on so many images of noise, a twentieth more of each kind to test on."""

    def measure(images, *overrides):
        place, generator = tmp_path_factory.mktemp("noise"), np.random.default_rng(0)
        for folder, count in {"train/good": images, "test/good": images // 20, "test/bad": images // 20}.items():
            for number in range(count):
                values = generator.integers(0, 256, (64, 64, 3), dtype=np.uint8)
                save(values, place / "noise" / folder / f"{number}.png")
        data = ("category=custom", "category.name=noise", f"data.root={place}", "data.image_size=64")
        small = (
            "backbone=tiny",
            "localiser=none",
            "model.memory.size=200",
            "trainer.max_epochs=1",
            "bootstrap=0",
            "trainer.accelerator=cpu",
        )
        kept = ("features.grid=32", "cache.dtype=float32", f"cache.dir={place / 'cache'}")
        train(place, *data, *small, *BARE, *kept, *overrides, f"hydra.run.dir={place / 'run'}")
        return json.loads((place / "run" / "metrics.json").read_text())["peak_memory_mb"]

    return measure


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere a child's peak is its own anyway")
def test_peak_memory_is_the_process_own_and_not_that_of_whoever_started_it():
    script = "from anomaly_lightning.reports.peak_memory import peak_memory_mb; print(peak_memory_mb())"
    block = np.ones(2**25)  # 256 MiB; the child takes some 15
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}
    ran = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert 5 < float(ran.stdout) < 64 < block.nbytes / 2**20


def test_the_memory_of_a_gpu_is_told_where_one_was_used(monkeypatch):
    if not torch.cuda.is_initialized():
        assert peak_memory.peak_gpu_memory_mb() is None
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda: 3 * 2**20)
    assert peak_memory.peak_gpu_memory_mb() == 3


def test_memory_that_the_system_does_not_tell_is_unknown(monkeypatch):
    monkeypatch.setattr(peak_memory, "resource", None)
    monkeypatch.setattr(Path, "is_file", lambda _: False)
    assert peak_memory.peak_memory_mb() is None


@pytest.mark.slow
def test_peak_memory_does_not_grow_with_the_images_unless_they_are_to_be_kept_in_memory(peak_mb):
    few, many, kept = peak_mb(200), peak_mb(2000), peak_mb(2000, "cache.mode=memory")
    assert many < 1.3 * few
    assert kept > 1.3 * few, "229 MB of features are seen where they are"


def test_pixels_of_normals_are_all_of_them_or_evenly_spaced_ones():
    scoring = Scoring(sigma=0.0, grid=SIZE, size=SIZE)
    error_maps = torch.rand(40, *SIZE, generator=torch.Generator().manual_seed(0))
    everything = normal_pixels(scoring, error_maps)
    np.testing.assert_array_equal(everything, error_maps.flatten().double().numpy())
    some = normal_pixels(scoring, error_maps, limit=500)
    assert 250 < len(some) <= 500
    assert set(some) <= set(everything)
    columns = normal_pixels(scoring, torch.arange(10.0).expand(40, *SIZE).contiguous(), limit=500)
    assert set(columns) == set(range(10)), "every column is seen"


def test_scores_do_not_depend_on_the_precision_of_the_training(widget, tmp_path):
    config = composed(*widget, *BARE, "trainer.precision=bf16-mixed", "test=false", f"run_dir={tmp_path}")
    session = TrainingSession(config)
    session.run()
    module = session.module.eval()
    kept, _ = module.evaluated()
    validation = session.data.val_dataloader()
    with torch.no_grad():
        wanted = [module.model.outputs(batch["features"]).scores for batch in validation]
    torch.testing.assert_close(kept, torch.cat(wanted))


def test_latency_is_that_of_the_trainers_device_though_trainers_leave_modules_on_the_cpu(widget, tmp_path, monkeypatch):
    """No GPU is needed to see where the module was sent last before the first image."""
    session = TrainingSession(composed(*widget, *BARE, "bootstrap=0", f"run_dir={tmp_path}"))
    events, read, move, leave = [], ImageTransform.read, AnomalyModel.to, AnomalyModule.cpu
    monkeypatch.setattr(AnomalyModel, "to", lambda self, *a, **k: events.append(a[0]) or move(self, *a, **k))
    monkeypatch.setattr(AnomalyModule, "cpu", lambda self: events.append("left") or leave(self))
    monkeypatch.setattr(ImageTransform, "read", lambda self, path: events.append("image") or read(self, path))
    session.run()
    before = events[: events.index("image")]
    assert "left" in before
    assert before[-1] == session.trainer.strategy.root_device


@pytest.mark.parametrize("mode", ["disk", "off"])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_batches_for_a_gpu_come_from_pinned_memory(widget, tmp_path, device, mode):
    session = TrainingSession(composed(*widget, *BARE, f"cache.mode={mode}", f"run_dir={tmp_path}"))
    session.data.trainer = session.trainer
    session.data.setup("fit")
    session.data.trainer = SimpleNamespace(
        strategy=SimpleNamespace(root_device=torch.device(device)),
        current_epoch=0,
        state=SimpleNamespace(fn=TrainerFn.FITTING),
    )
    for name in ("train", "val", "test", "statistics", "held_out"):
        assert getattr(session.data, f"{name}_dataloader")().pin_memory == (device == "cuda"), name


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
def test_freed_memory_is_used_again():
    script = (
        "import resource, sys, numpy\n"
        "from anomaly_lightning.runtime.allocator import keep_freed_memory\n"
        "taken = keep_freed_memory() if sys.argv[1] == 'keep' else True\n"
        "for _ in range(3): numpy.ones(2**24)\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "for _ in range(5): numpy.ones(2**24)\n"
        "print(taken, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}
    said = {}
    for mode in ("keep", "plain"):
        command = [sys.executable, "-c", script, mode]
        said[mode] = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.split()
    if said["keep"][0] == "False":
        pytest.skip("this C library does not take the setting")
    assert int(said["keep"][1]) * 10 < int(said["plain"][1])


def test_other_systems_are_left_alone(monkeypatch):
    monkeypatch.setattr(allocator.sys, "platform", "darwin")
    assert allocator.keep_freed_memory() is False
