"""One training run from a composed config: the seven steps, the files they leave, the words they print."""

import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from omegaconf import DictConfig
from pytorch_lightning.callbacks import ModelCheckpoint

from anomaly_lightning.bench.latency import single_image_ms
from anomaly_lightning.reports import console, run_files
from anomaly_lightning.reports.page import write_report
from anomaly_lightning.reports.results import Results, threshold_block
from anomaly_lightning.runtime.validity import fit_validity
from anomaly_lightning.training import compose, reuse
from anomaly_lightning.training.finish import finalise, fit
from anomaly_lightning.training.intake import warn_of_intake, warn_of_leaks, with_mask_note

logger = logging.getLogger(__name__)


class TrainingSession:
    """Builds everything at once, so that a mistake in any part shows before the first image is read.

    Args:
        cfg: Composed from conf/train.yaml.
    """

    def __init__(self, cfg: DictConfig) -> None:
        quieten()
        self.cfg, self.folder, self.clock = cfg, Path(cfg.run_dir), run_files.Clock()
        self.folder.mkdir(parents=True, exist_ok=True)
        pl.seed_everything(cfg.seed, workers=True, verbose=False)
        extractor = compose.build_extractor(cfg)
        self.source, self.resolved = compose.build_datamodule(cfg, extractor.backbone)
        card = compose.build_card(cfg, extractor, self.source, self.resolved)
        self.module = compose.build_module(cfg, card, extractor)
        self.data = compose.build_data(cfg, self.source, self.module.model, self._show_features)
        self.trainer = compose.build_trainer(cfg, len(self.module.players))
        self._bar = console.progress_bar()
        self.validation_loss: float | None = None
        self.identity = self._identity()

    def run(self) -> float | None:
        """Fit, calibrate, test, write; returns the best validation loss (None for methods without gradients)."""
        leads = self.trainer.is_global_zero  # of several processes, one speaks and writes
        if leads:
            console.banner(self._resolved())
        finished = self._finished_before()
        if finished is not None:
            logger.info("This run is done already, in %s; reuse=false runs it again.", finished)
            return reuse.take_over(finished, self.folder)
        if leads:
            reuse.forget(self.folder)
            warn_of_intake(self.resolved, self.source)
            warn_of_leaks(self.source, self.cfg.test)
        with self.clock.stage("features_s"), self._bar:
            self.data.trainer = self.trainer
            self.data.setup("fit")
        self._fit_validity()
        self._write_run("training")
        with self.clock.stage("fit_s"):
            fit(self.trainer, self.module, self.data, self.cfg.ckpt)
            self.validation_loss = self._best_loss()
            checkpoint = finalise(self.trainer, self.module, self.data, self.folder / "checkpoints")
        results = self._test()
        if leads:
            metrics = self._metrics(results)
            self._write(metrics, results)
            self._write_run("finished")
            console.summary(metrics, self.folder, checkpoint)
        return self.validation_loss

    def _identity(self) -> str:
        backbone, card = self.module.model.extractor.backbone, self.module.card
        config = compose.plain(self.cfg)
        return reuse.identity(
            config, backbone.arguments, card.data.fingerprint, card.backbone.weights_sha256, card.versions
        )

    def _finished_before(self) -> Path | None:
        """A finished run of the same content among the sweeps; a run of its own is always run."""
        sweep = self.folder.parent.parent
        return reuse.find_finished(sweep, self.identity) if self.cfg.reuse else None

    def _fit_validity(self) -> None:
        """Learn what an image of this kind looks like, for the verdict INVALID at prediction; it sees no test file."""
        if not self.cfg.validity:
            return
        with self.clock.stage("validity_s"):
            splits = self.source.splits
            # Whole images come at prediction, so with tiles it is whole images that are learnt from.
            known = splits.normals if self.cfg.data.tile is None else self.resolved.category.train
            normals = [sample.path for sample in known if sample.path not in self.source.skipped]
            known_looks = getattr(self.data, "appearances", None)
            fitted = fit_validity(normals, self.cfg.seed, self.source.transform.white, known_looks)
        self.module.card = self.module.card.replace(validity=None if fitted is None else fitted.card())

    def _test(self) -> Results | None:
        """Score the test images; None where there are none to score."""
        with self.clock.stage("test_s"):
            if not (self.cfg.test and self.source.splits.test):
                return None
            self.trainer.test(self.module, datamodule=self.data, verbose=False)
            return Results.of(self.module, self.source.splits.test)

    def _write(self, metrics: dict[str, Any], results: Results | None) -> None:
        """Write what follows from the test images."""
        if results is not None:
            run_files.write_predictions(self.folder / "predictions.csv", results)
            run_files.write_error_maps(self.folder / "error_maps.npy", results)
        run_files.write_json(self.folder / "metrics.json", metrics)
        self._log_metrics(metrics)
        write_report(self.folder, results, metrics, self._run_content("finished"))

    def _metrics(self, results: Results | None) -> dict[str, Any]:
        """metrics.json: what was run, the threshold, the figures, the costs."""
        if results is None:
            reason = "test=false" if not self.cfg.test else "there are no test images"
            found: dict[str, Any] = {"image": None, "pixel": None, "by_defect": {}}
            found["notes"] = {"image": reason, "pixel": reason}
        else:
            found = with_mask_note(results.metrics(self.cfg.bootstrap, self.cfg.seed), self.source)
        device = self.trainer.strategy.root_device
        latency = single_image_ms(self.module.model, self.source.transform, self.source.samples(), device)
        return {
            "category": str(self.cfg.category.name),
            "model": self.module.card.detector.name,
            "backbone": self.module.card.backbone.name,
            "split": self.source.split,
            "seed": self.cfg.seed,
            "counts": self.source.splits.counts(),
            "threshold": threshold_block(self.module.card, results),
            **found,
            "timing": {**self.clock.stages, "total_s": self.clock.total(), **latency},
            "peak_memory_mb": run_files.peak_memory_mb(),
            "peak_gpu_memory_mb": run_files.peak_gpu_memory_mb(),
        }

    def _log_metrics(self, metrics: dict[str, Any]) -> None:
        """Final metrics with the settings that led to them, for TensorBoard's table of runs."""
        blocks = {name: metrics[name] or {} for name in ("image", "pixel")}
        final = {
            f"{block}/{name}": value
            for block, values in blocks.items()
            for name, value in values.items()
            if isinstance(value, float)
        }
        settings = {"category": metrics["category"], "seed": self.cfg.seed, "backbone": metrics["backbone"]}
        settings |= _flat(self.module.card.detector.arguments, "model")
        for board in self.trainer.loggers:
            if isinstance(board, pl.loggers.TensorBoardLogger):
                board.log_hyperparams(settings, final)
                board.save()

    def _best_loss(self) -> float | None:
        for callback in self.trainer.checkpoint_callbacks:
            if isinstance(callback, ModelCheckpoint) and callback.best_model_score is not None:
                return float(callback.best_model_score)
        return None

    def _resolved(self) -> dict[str, Any]:
        extractor = self.module.model.extractor
        backbone = extractor.backbone
        given = "as set" if self.cfg.backbone.name != "auto" else "not given: the best one that is at hand here"
        white = self.source.transform.white
        found = "detected from the training images" if self.cfg.data.white == "auto" else "as set"
        deep = {} if white is None else {"white": f"level {white} in images of 16 bits ({found})"}
        return {
            "category": str(self.cfg.category.name),
            "data": f"{self.resolved.where} ({self.resolved.why})",
            **deep,
            "backbone": f"{backbone.name} ({given}; weights {backbone.weights_source})",
            "weights_sha256": backbone.weights_sha256,
            "precision": f"features {extractor.precision.name}, training {self.cfg.trainer.precision}",
            "model": self.module.card.detector.name,
            "split": f"{self.source.split}: {self.source.splits.counts()}",
            "outputs": str(self.folder),
        }

    def _write_run(self, status: str) -> None:
        if self.trainer.is_global_zero:
            run_files.write_json(self.folder / "run.json", self._run_content(status))

    def _run_content(self, status: str) -> dict[str, Any]:
        return {
            "status": status,
            "identity": self.identity,
            "validation_loss": self.validation_loss,
            "resolved": self._resolved(),
            "seed": self.cfg.seed,
            "dataset_fingerprint": self.module.card.data.fingerprint,
            "skipped": {str(path): reason for path, reason in self.source.skipped.items()},
            "left_out": [group.plain() for group in self.resolved.left_out],
            "excluded": [str(path) for path in self.resolved.excluded],
            "counts": self.source.splits.counts(),
            "images_computed": getattr(self.data, "computed", None),  # by this process; null: in every epoch anew
            "wall_s": {**self.clock.stages, "total_s": self.clock.total()},
            "card": self.module.card.to_dict(),
            **run_files.environment(),
        }

    def _show_features(self, done: int, total: int) -> None:
        if not self._bar.tasks:
            self._bar.add_task("computing features", total=total, note="")
        self._bar.update(self._bar.tasks[0].id, completed=done, total=total)


def _flat(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Nested plain values by dotted name."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= _flat(value, f"{name}.{key}") if isinstance(value, Mapping) else {f"{name}.{key}": value}
    return found


def quieten() -> None:
    """Silence Lightning's advice that does not hold here; its warnings about results stay."""
    for name in ("pytorch_lightning", "pytorch_lightning.utilities.rank_zero", "pytorch_lightning.accelerators.cuda"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", ".*`IterableDataset` has `__len__` defined.*")
    warnings.filterwarnings("ignore", ".*module.s. in eval mode at the start of training.*")
    warnings.filterwarnings("ignore", ".*isinstance.treespec, LeafSpec.*")
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    warnings.filterwarnings("ignore", ".*The dirpath has changed from.*")  # BestCheckpoint takes its files along
    warnings.filterwarnings("ignore", ".*Checkpoint directory .* exists and is not empty.*")
    warnings.filterwarnings("ignore", ".*litlogger.*")
