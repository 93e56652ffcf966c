"""Fitting, calibration and the traps on the way: frozen statistics, late thresholds, methods without gradients."""

import math

import pytest
import pytorch_lightning as pl
import torch
from toy import BARE, composed

from anomaly_lightning.model import _as_stored
from anomaly_lightning.training import compose
from anomaly_lightning.training.callbacks import checkpoints
from anomaly_lightning.training.callbacks.calibration import CalibrationCallback
from anomaly_lightning.training.checkpoint import load_model
from anomaly_lightning.training.finish import finalise, fit
from anomaly_lightning.training.session import TrainingSession


@pytest.fixture
def session(widget, tmp_path):
    """Makes a session of the small category, not yet run."""
    made = []

    def make(*overrides):
        folder = tmp_path / f"run{len(made)}"
        config = composed(*widget, *BARE, f"run_dir={folder}", "reuse=false", "bootstrap=0", *overrides)
        made.append(TrainingSession(config))
        return made[-1]

    return make


def buffers(module):
    return {name: value.clone() for name, value in module.state_dict().items() if isinstance(value, torch.Tensor)}


def prepared(made):
    made.data.trainer = made.trainer
    made.data.setup("fit")
    return made.trainer, made.module, made.data


@pytest.mark.parametrize("mode", ["disk", "off"])
def test_the_backbone_is_the_same_after_a_fit_as_before(session, mode):
    """Trap 2: one module.train() would let its BatchNorm statistics drift, above all where images pass through it."""
    made = session(f"cache.mode={mode}")
    before = buffers(made.module.model.extractor)
    assert any("running_mean" in name for name in before)
    made.module.train()
    assert not any(part.training for part in made.module.model.extractor.modules())
    made.run()
    after = buffers(made.module.model.extractor)
    assert set(after) == set(before)
    assert all(torch.equal(value, before[name]) for name, value in after.items())
    assert not any(parameter.requires_grad for parameter in made.module.model.extractor.parameters())


def test_only_the_detector_is_trained(session):
    made = session()
    before = buffers(made.module.model.detector)
    made.run()
    after = buffers(made.module.model.detector)
    assert any(not torch.equal(value, before[name]) for name, value in after.items())
    (optimizer,) = made.trainer.optimizers
    optimized = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    assert optimized == {id(parameter) for parameter in made.module.model.detector.parameters()}


def test_nothing_is_calibrated_while_fitting_or_in_the_sanity_check(session):
    """Traps 3 and 4: the threshold belongs to the best weights, which are known after the last epoch only."""
    made = session("trainer.num_sanity_val_steps=2")
    seen = []

    class Watch(pl.Callback):
        def on_validation_end(self, trainer, pl_module):
            seen.append((trainer.sanity_checking, float(pl_module.model.threshold)))

    made.trainer.callbacks.append(Watch())
    trainer, module, data = prepared(made)
    fit(trainer, module, data, None)
    assert [sanity for sanity, _ in seen] == [True, False, False]
    assert all(math.isnan(threshold) for _, threshold in seen)
    assert module.card.thresholds is None
    best = made.folder / "checkpoints" / "best.ckpt"
    assert torch.isnan(torch.load(best, weights_only=True)["state_dict"]["model.threshold"])
    assert finalise(trainer, module, data, made.folder / "checkpoints") == best
    loaded, _ = load_model(best)
    assert math.isfinite(loaded.threshold)
    assert math.isfinite(loaded.pixel_threshold)
    assert loaded.threshold == module.model.threshold


def test_the_threshold_is_that_of_the_best_weights_on_the_validation_normals(session):
    rules = ("threshold=mean_std", "threshold.k=2.5", "threshold@pixel_threshold=mean_std")
    made = session(*rules, "optimizer.lr=0.2", "trainer.max_epochs=6")
    trainer, module, data = prepared(made)
    fit(trainer, module, data, None)
    watched = made.folder / "checkpoints" / "best.ckpt"
    best = torch.load(watched, weights_only=True)["state_dict"]
    path = finalise(trainer, module, data, made.folder / "checkpoints")
    loaded, card = load_model(path)
    trained = dict(loaded.detector.named_parameters(prefix="model.detector"))
    assert trained
    assert all(torch.equal(value, best[name]) for name, value in trained.items())
    images = torch.stack([data.images.dataset("validation")[i]["images"] for i in range(3)])
    with torch.no_grad():
        maps, scores = loaded(images)
    wanted = scores.double().mean() + 2.5 * scores.double().std()
    assert float(loaded.threshold) == pytest.approx(float(wanted), rel=1e-3)  # features are stored with half precision
    assert float(loaded.pixel_threshold) == pytest.approx(float(maps.mean() + 3 * maps.std()), rel=1e-3)
    assert card.transform.size == (64, 48)


@pytest.mark.parametrize("model", ["padim", "pca", "patchcore"])
def test_methods_without_gradients_leave_both_checkpoints(session, widget, model):
    """Trap 4: no optimizer, no loss, and yet steps, checkpoints and a threshold."""
    overrides = [item for item in widget if not item.startswith("model.")]
    folder = session().folder.parent / model
    config = composed(*overrides, *BARE, f"model={model}", f"run_dir={folder}", "reuse=false", "bootstrap=0")
    made = TrainingSession(config)
    assert made.run() is None
    assert made.trainer.max_epochs == 1
    assert not any(optimizer.param_groups for optimizer in made.trainer.optimizers)
    loaded, card = load_model(folder / "checkpoints" / "best.ckpt")
    assert math.isfinite(loaded.threshold)
    assert card.detector.name == model
    assert (folder / "checkpoints" / "last.ckpt").is_file()
    assert (folder / "metrics.json").is_file()


def test_a_seed_is_a_seed_zero_included(session):
    """Trap 10."""
    states = []
    for seed in (0, 0, 1):
        made = session(f"seed={seed}")
        loss = made.run()
        states.append((loss, float(made.module.model.threshold), buffers(made.module.model.detector)))
    first, again, other = states
    assert first[:2] == again[:2]
    assert all(torch.equal(value, again[2][name]) for name, value in first[2].items())
    assert first[0] != other[0]
    assert first[1] != other[1]


def test_the_epochs_are_shuffled_each_its_own_way(session):
    trainer, module, data = prepared(session("data.batch_size=4", "trainer.max_epochs=3"))
    orders = []

    class Watch(pl.Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            orders.append([])

        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            orders[-1] += batch["index"].tolist()

    trainer.callbacks.append(Watch())
    fit(trainer, module, data, None)
    assert [sorted(order) for order in orders] == [list(range(12))] * 3
    assert len({tuple(order) for order in orders}) == 3


def test_no_attribute_of_a_callback_is_taken_by_the_trainer(session):
    """Trap 9: an attribute called `log` would be replaced by the Trainer's logging function."""
    made = session()
    names = {callback: set(vars(callback)) for callback in made.trainer.callbacks}
    for callback, own in names.items():
        if type(callback).__module__.startswith("anomaly_lightning."):
            assert not own & {"log", "log_dict", "trainer", "state", "name"}, callback


def test_calibration_only_writes_the_modules_state(session):
    made = session()
    made.run()
    callback = next(c for c in made.trainer.callbacks if isinstance(c, CalibrationCallback))
    assert set(vars(callback)) - {"log", "log_dict"} == {
        "rule",
        "pixel_rule",
        "defects",
        "folds",
    }  # those two are the Trainer's doing
    alone, _ = load_model(made.folder / "checkpoints" / "best.ckpt")
    assert torch.isfinite(alone.threshold)


def test_an_unbounded_score_is_never_squeezed(session):
    made = session("test=false")
    made.run()
    module = made.module
    with torch.no_grad():
        _, scores = module(50 * torch.randn(2, 3, 64, 48))
    assert (scores > 10).all()
    assert module.decide(scores).all()


def test_build_states_what_cache_modes_there_are(widget, tmp_path):
    config = composed(*widget, *BARE, f"run_dir={tmp_path}", "cache.mode=ram")
    with pytest.raises(compose.UserError, match=r"cache\.mode=ram: expected one of disk, memory, off"):
        TrainingSession(config)


@pytest.mark.parametrize("mode", ["memory", "off"])
def test_where_features_are_kept_does_not_change_what_is_learned(session, mode):
    settings = ("cache.dtype=float32", "data.batch_size=32")
    one, two = session(*settings), session(*settings, f"cache.mode={mode}")
    one.run()
    two.run()
    assert float(two.module.model.threshold) == pytest.approx(float(one.module.model.threshold), rel=1e-3)


@pytest.mark.parametrize(("seconds", "expected"), [(0, [0, 1, 2, 3, 4]), (2.5, [0, 3, 4]), (1e9, [0, 4])])
def test_checkpoints_to_go_on_from_come_after_a_while_and_after_the_last_epoch(session, monkeypatch, seconds, expected):
    """By a clock that every epoch takes one second of."""
    made = session("trainer.max_epochs=5", f"callbacks.last.at_least_s={seconds}")
    monkeypatch.setattr(checkpoints.time, "monotonic", lambda: float(made.trainer.current_epoch))
    written, save = [], made.trainer.save_checkpoint

    def noted(path, weights_only=None, storage_options=None):
        save(path, weights_only, storage_options)
        if path.endswith("last.ckpt"):
            written.append(torch.load(path, weights_only=True)["epoch"])

    monkeypatch.setattr(made.trainer, "save_checkpoint", noted)
    trainer, module, data = prepared(made)
    fit(trainer, module, data, None)
    assert written == expected


def losses(made, values):
    """Let the epochs of a fit have these validation losses, as far as callbacks see."""

    class Stated(pl.Callback):
        def on_validation_end(self, trainer, pl_module):
            trainer.callback_metrics["val/loss"] = torch.tensor(values[trainer.current_epoch])

    made.trainer.callbacks.insert(0, Stated())


def test_an_interrupted_run_that_goes_on_elsewhere_keeps_its_best_epoch(session):
    values, weights, last = [3.0, 1.0, 4.0, 2.0, 1.5], [], None
    for epochs in (3, 5):
        made = session(f"trainer.max_epochs={epochs}", "callbacks.stopping=null")
        losses(made, values)
        trainer, module, data = prepared(made)
        fit(trainer, module, data, last)
        last = str(made.folder / "checkpoints" / "last.ckpt")
        best = torch.load(made.folder / "checkpoints" / "best.ckpt", weights_only=True)
        assert best["epoch"] == 1
        weights.append(best["state_dict"]["model.detector.network.layers.0.weight"])
        assert made._best_loss() == 1.0
    assert torch.equal(*weights)


def test_best_weights_that_are_gone_are_missed_aloud(session):
    made = session("trainer.max_epochs=3", "callbacks.stopping=null")
    losses(made, [1.0, 2.0, 3.0])
    fit(*prepared(made), None)
    (made.folder / "checkpoints" / "best.ckpt").unlink()
    later = session("trainer.max_epochs=5", "callbacks.stopping=null")
    losses(later, [1.0, 2.0, 3.0, 9.0, 8.0])
    with pytest.warns(UserWarning, match="best weights of the interrupted run"):
        fit(*prepared(later), str(made.folder / "checkpoints" / "last.ckpt"))
    assert torch.load(later.folder / "checkpoints" / "best.ckpt", weights_only=True)["epoch"] == 4


def test_the_epoch_that_stops_a_fit_leaves_a_checkpoint(session):
    made = session("trainer.max_epochs=9", "callbacks.last.at_least_s=1e9")

    class Stop(pl.Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            trainer.should_stop = trainer.current_epoch == 3

    made.trainer.callbacks.insert(0, Stop())
    trainer, module, data = prepared(made)
    fit(trainer, module, data, None)
    assert torch.load(made.folder / "checkpoints" / "last.ckpt", weights_only=True)["epoch"] == 3


def test_a_fit_reads_what_the_loss_looks_at_and_learns_as_from_whole_features(session, monkeypatch):
    """Condensed once, or anew from the features of every batch: the same weights, and no more features are read."""
    seen = []
    for condenses in (True, False):
        made = session("trainer.max_epochs=3")
        made.module.model.detector.condenses = condenses
        trainer, module, data = prepared(made)
        names = []
        step = module.training_step

        def noted(batch, at, step=step, names=names):
            names.append(set(batch))
            return step(batch, at)

        monkeypatch.setattr(module, "training_step", noted)
        fit(trainer, module, data, None)
        kept = {"condensed" if condenses else "features", "label", "index"}
        assert names
        assert all(name == kept for name in names)
        assert not data._condensed, "given back after the fit"
        seen.append([value.clone() for value in module.model.detector.network.state_dict().values()])
    for one, other in zip(*seen, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_features_are_rounded_as_a_store_rounds_them_and_stay_finite(dtype):
    fitting = torch.randn(2, 3, 4, 5)
    assert torch.equal(_as_stored(fitting, dtype), fitting.to(dtype).float())
    large = fitting.clone()
    large[1, 2, 3, 4] = 1e5  # beyond float16
    expected = large.to(dtype).float().clamp(max=torch.finfo(dtype).max)
    assert torch.equal(_as_stored(large, dtype), expected)
