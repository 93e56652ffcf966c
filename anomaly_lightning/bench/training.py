"""What a training run costs, part by part, from a store of features and by the naive loop that has none."""

import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import pytorch_lightning as pl
from omegaconf import DictConfig, OmegaConf

from anomaly_lightning.data.datamodule import MVNetDataModule
from anomaly_lightning.features.datamodule import FeatureDataModule
from anomaly_lightning.features.extractor import FeatureExtractor
from anomaly_lightning.places import CONFIG_DIR
from anomaly_lightning.reports import run_files
from anomaly_lightning.reports.results import Results
from anomaly_lightning.training import compose, describe, finish
from anomaly_lightning.training.module import AnomalyModule


class Stopwatch(pl.Callback):
    """Notes when the parts of a fit begin.

    Attributes:
        marks: Seconds of the clock at the start of the fit, after the statistics, and at the start of every epoch.
    """

    def __init__(self) -> None:
        self.marks: dict[str, list[float]] = {"fit": [], "train": [], "epoch": []}

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The statistics pass follows."""
        self.marks["fit"].append(time.perf_counter())

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The statistics pass is over."""
        self.marks["train"].append(time.perf_counter())

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """One more epoch begins, and the one before is over with its validation and checkpoints."""
        self.marks["epoch"].append(time.perf_counter())

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The last epoch is over."""
        self.marks["epoch"].append(time.perf_counter())

    def statistics_s(self) -> float:
        """Seconds of the statistics pass."""
        return self.marks["train"][0] - self.marks["fit"][0]

    def epochs_s(self) -> list[float]:
        """Seconds of each epoch, all that belongs to it included."""
        starts = self.marks["epoch"]
        return [after - before for before, after in pairwise(starts)]


def variant(cfg: DictConfig, name: str, **changes: Any) -> DictConfig:
    """The config with a folder of its own below the run's, and some changes by dotted name (`__` for the dot)."""
    changed = cfg.copy()
    OmegaConf.update(changed, "run_dir", str(Path(cfg.run_dir) / name))
    for key, value in changes.items():
        OmegaConf.update(changed, key.replace("__", "."), value, merge=False, force_add=True)
    return changed


def no_localiser() -> DictConfig:
    """The config block of a model whose maps are its own."""
    return cast(DictConfig, OmegaConf.load(CONFIG_DIR / "localiser" / "none.yaml"))


def store_data(cfg: DictConfig, source: MVNetDataModule, extractor: FeatureExtractor) -> FeatureDataModule:
    """Datamodule over a store of this benchmark's own, so that it really is built."""
    folder = Path(cfg.run_dir) / "cache"
    store = compose.store_for(extractor, source.transform, "disk", folder, cfg.cache.dtype)
    return FeatureDataModule(source, extractor, store, workers=max(1, cfg.data.workers))


def run(
    cfg: DictConfig,
    built: compose.Built,
    extractor: FeatureExtractor,
    serving: Callable[[FeatureExtractor], pl.LightningDataModule],
    test: bool,
) -> tuple[dict[str, Any], AnomalyModule]:
    """Fit, calibrate and, on request, test, as the train command does; returns seconds by part, and the module.

    Args:
        cfg: The run's config.
        built: Images, and where they are from.
        extractor: Of the config.
        serving: Makes what the fit is fed with, for the extractor that the model asks for (a localiser's is another).
        test: Whether to test.
    """
    pl.seed_everything(cfg.seed, verbose=False)
    module = compose.build_module(cfg, describe.build_card(cfg, extractor, *built), extractor)
    trainer, source = compose.build_trainer(cfg, len(module.players)), built[0]
    data = serving(module.model.extractor)
    watch, clock = Stopwatch(), run_files.Clock()
    trainer.callbacks.insert(0, watch)  # type: ignore[attr-defined]
    with clock.stage("features_s"):
        data.trainer = trainer
        data.setup("fit")
    with clock.stage("fit_s"):
        finish.fit(trainer, module, data, None)
    with clock.stage("calibrate_s"):
        finish.finalise(trainer, module, data, Path(cfg.run_dir) / "checkpoints")
    if test and source.splits.test:
        with clock.stage("test_s"):
            trainer.test(module, datamodule=data, verbose=False)
            Results.of(module, source.splits.test).metrics(cfg.bootstrap, cfg.seed)
    module.to(trainer.strategy.root_device)  # a trainer that is done leaves it on the CPU
    epochs = watch.epochs_s()
    parts = {"statistics_s": watch.statistics_s(), "epoch_s": sum(epochs) / len(epochs), "epochs": len(epochs)}
    computed = getattr(data, "computed", 0)
    return {**clock.stages, "total_s": clock.total(), **parts, "images_computed": computed}, module


def comparison(own: dict[str, Any], baseline: dict[str, Any]) -> dict[str, float]:
    """What all stages take for two methods, and the ratios of the first to the second.

    What the train command does for people besides (verdict INVALID, images, report) is in none of them.

    Args:
        own: Parts of the run that built the store, from `run`.
        baseline: Parts of a run that was served from it, or had to compute other features.

    Returns:
        `own_s`: the feature pass, fit, calibration and test; `baseline_s`: the same, with the same feature pass, or
        its own where it needed one;
        `baseline_fit_and_test_s`: without it; `ratio` = own_s / baseline_s and
        `ratio_to_fit_and_test` = own_s / baseline_fit_and_test_s.
    """
    later = [sum(parts.get(stage, 0.0) for stage in ("fit_s", "calibrate_s", "test_s")) for parts in (own, baseline)]
    features = (own["features_s"], (baseline if baseline["images_computed"] else own)["features_s"])
    first, second = (pass_s + rest for pass_s, rest in zip(features, later, strict=True))
    whole = {"own_s": first, "baseline_s": second, "baseline_fit_and_test_s": later[1]}
    ratios = {"ratio": whole["own_s"] / whole["baseline_s"], "ratio_to_fit_and_test": whole["own_s"] / later[1]}
    return {**whole, **ratios}


def naive(cfg: DictConfig, extractor: FeatureExtractor, epochs: int, wanted: int) -> dict[str, Any]:
    """The loop without a store: images decoded and put through the backbone in every epoch.

    Args:
        cfg: The run's config.
        extractor: What computes the features.
        epochs: Epochs that are measured, at least 1.
        wanted: Epochs that the fit is extrapolated to.
    """
    changed = variant(cfg, "naive", cache__mode="off", trainer__max_epochs=epochs, localiser=no_localiser())
    built = compose.build_datamodule(changed, extractor.backbone)
    parts, _ = run(changed, built, extractor, lambda _: built[0], test=False)
    extrapolated = parts["fit_s"] + (wanted - epochs) * parts["epoch_s"]
    return {"epochs": epochs, "epoch_s": parts["epoch_s"], "extrapolated_to": wanted, "extrapolated_s": extrapolated}
