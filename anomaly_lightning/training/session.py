"""One training run from a composed config: the seven steps, the files they leave, the words they print."""

import logging
import warnings
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from omegaconf import DictConfig
from pytorch_lightning.callbacks import ModelCheckpoint

from anomaly_lightning.bench.latency import single_image_ms
from anomaly_lightning.data.duplicates import leaks
from anomaly_lightning.data.masks import check_masks
from anomaly_lightning.reports import console, run_files
from anomaly_lightning.reports.page import write_report
from anomaly_lightning.reports.results import Results, threshold_block
from anomaly_lightning.runtime.validity import fit_validity
from anomaly_lightning.training import compose, reuse
from anomaly_lightning.training.finish import finalise, fit

logger = logging.getLogger(__name__)

MASKS_TOLD = 10


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
        self.images, self.resolved = compose.build_images(cfg, extractor.backbone)
        self.module = compose.build_module(cfg, extractor, self.images.transform)
        self.module.settings["data"] = self._data_settings()
        compose.look_at_region(cfg, self.module, self.images)
        self.data = compose.build_data(cfg, self.images, extractor, self._tell_features)
        self.trainer = compose.build_trainer(cfg, self.module.detector.trainable)
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
            self._tell_of_masks()
            self._tell_of_leaks()
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
        backbone = self.module.extractor.backbone
        return reuse.identity(
            compose.plain(self.cfg),
            backbone.config,
            self.images.fingerprint(),
            backbone.weights_sha256,
            run_files.environment()["versions"],
        )

    def _finished_before(self) -> Path | None:
        """A finished run of the same content among the sweeps; a run of its own is always run."""
        sweep = self.folder.parent.parent
        return reuse.find_finished(sweep, self.identity) if self.cfg.reuse else None

    def _tell_of_masks(self) -> None:
        """Say before training which masks don't fit: their pixel figures would be wrong, all else holds."""
        findings = check_masks(self.images.splits.test) if self.cfg.test else []
        for finding in findings[:MASKS_TOLD]:
            logger.warning("mask: %s", finding)
        if len(findings) > MASKS_TOLD:
            logger.warning("mask: and %d more findings of this kind", len(findings) - MASKS_TOLD)

    def _fit_validity(self) -> None:
        """Learn what an image of this kind looks like, for the verdict INVALID at prediction; it sees no test file."""
        if not self.cfg.validity:
            return
        with self.clock.stage("validity_s"):
            splits = self.images.splits
            # Whole images come at prediction, so with tiles it is whole images that are learnt from.
            known = splits.train + splits.validation if self.cfg.data.tile is None else self.resolved.category.train
            normals = [sample.path for sample in known if sample.path not in self.images.skipped]
            fitted = fit_validity(normals, self.cfg.seed, self.images.transform.white)
        self.module.settings["validity"] = None if fitted is None else fitted.card().to_dict()

    def _tell_of_leaks(self) -> None:
        """Say before training which test images are trained on, too: the figures would be too good."""
        splits = self.images.splits
        training = [sample.path for sample in splits.train + splits.validation]
        found = leaks(training, [sample.path for sample in splits.test]) if self.cfg.test else []
        for trained_on, tested in found[:MASKS_TOLD]:
            logger.warning("leak: %s is the same image as %s, which is tested on", trained_on, tested)
        if len(found) > MASKS_TOLD:
            logger.warning("leak: and %d more; python -m anomaly_lightning.audit lists all", len(found) - MASKS_TOLD)

    def _test(self) -> Results | None:
        """Score the test images; None where there are none to score."""
        with self.clock.stage("test_s"):
            if not (self.cfg.test and self.images.splits.test):
                return None
            self.trainer.test(self.module, datamodule=self.data, verbose=False)
            return Results.of(self.module, self.images.splits.test, self.images.transform)

    def _write(self, metrics: dict[str, Any], results: Results | None) -> None:
        """Write what follows from the test images."""
        if results is not None:
            run_files.write_predictions(self.folder / "predictions.csv", results)
            run_files.write_error_maps(self.folder / "error_maps.npy", results)
        run_files.write_json(self.folder / "metrics.json", metrics)
        self._log_figures(metrics)
        write_report(self.folder, results, metrics, self._run_content("finished"))

    def _metrics(self, results: Results | None) -> dict[str, Any]:
        """metrics.json: what was run, the threshold, the figures, the costs."""
        if results is None:
            reason = "test=false" if not self.cfg.test else "there are no test images"
            figures: dict[str, Any] = {"image": None, "pixel": None, "by_defect": {}}
            figures["notes"] = {"image": reason, "pixel": reason}
        else:
            figures = results.figures(self.cfg.bootstrap, self.cfg.seed)
        device = self.trainer.strategy.root_device
        latency = single_image_ms(self.module, self.images.transform, self.images.samples(), device)
        return {
            "category": str(self.cfg.category.name),
            "model": self._model_name(),
            "backbone": self.module.extractor.backbone.name,
            "split": self.images.split,
            "seed": self.cfg.seed,
            "counts": self.images.splits.counts(),
            "threshold": threshold_block(self.module, results),
            **figures,
            "timing": {**self.clock.stages, "total_s": self.clock.total(), **latency},
            "peak_memory_mb": run_files.peak_memory_mb(),
            "peak_gpu_memory_mb": run_files.peak_gpu_memory_mb(),
        }

    def _log_figures(self, metrics: dict[str, Any]) -> None:
        """Final figures with the settings that led to them, for TensorBoard's table of runs."""
        blocks = {name: metrics[name] or {} for name in ("image", "pixel")}
        figures = {
            f"{block}/{name}": value
            for block, values in blocks.items()
            for name, value in values.items()
            if isinstance(value, float)
        }
        settings = {"category": metrics["category"], "seed": self.cfg.seed, "backbone": metrics["backbone"]}
        settings |= {f"model.{key}": value for key, value in self.module.settings["model"].items()}
        for board in self.trainer.loggers:
            if isinstance(board, pl.loggers.TensorBoardLogger):
                board.log_hyperparams(settings, figures)
                board.save()

    def _best_loss(self) -> float | None:
        for callback in self.trainer.checkpoint_callbacks:
            if isinstance(callback, ModelCheckpoint) and callback.best_model_score is not None:
                return float(callback.best_model_score)
        return None

    def _model_name(self) -> str:
        return str(self.module.settings["model"]["_target_"]).split(".")[-2]

    def _data_settings(self) -> dict[str, Any]:
        """What `evaluate` needs to find the same images and splits again."""
        return {
            **self.resolved.settings,
            "split": self.images.split,
            "validation_share": float(self.cfg.data.validation_share),
            "cache_dtype": str(self.cfg.cache.dtype),
            "tile": compose.plain(self.cfg.data.tile),
            "tile_overlap": int(self.cfg.data.tile_overlap),
        }

    def _resolved(self) -> dict[str, Any]:
        backbone = self.module.extractor.backbone
        given = "as set" if self.cfg.backbone.name != "auto" else "not given: the best one that is at hand here"
        white = self.images.transform.white
        found = "detected from the training images" if self.cfg.data.white == "auto" else "as set"
        deep = {} if white is None else {"white": f"level {white} in images of 16 bits ({found})"}
        return {
            "category": str(self.cfg.category.name),
            "data": f"{self.resolved.where} ({self.resolved.why})",
            **deep,
            "backbone": f"{backbone.name} ({given}; weights {backbone.weights_source})",
            "weights_sha256": backbone.weights_sha256,
            "precision": f"features {self.module.extractor.precision.name}, training {self.cfg.trainer.precision}",
            "model": self._model_name(),
            "split": f"{self.images.split}: {self.images.splits.counts()}",
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
            "dataset_fingerprint": self.images.fingerprint(),
            "skipped": {str(path): reason for path, reason in self.images.skipped.items()},
            "excluded": [str(path) for path in self.resolved.excluded],
            "counts": self.images.splits.counts(),
            "images_computed": getattr(self.data, "computed", None),  # by this process; null: in every epoch anew
            "calibration": self.module.calibration,
            "wall_s": {**self.clock.stages, "total_s": self.clock.total()},
            "settings": self.module.settings,
            **run_files.environment(),
        }

    def _tell_features(self, done: int, total: int) -> None:
        if not self._bar.tasks:
            self._bar.add_task("computing features", total=total, note="")
        self._bar.update(self._bar.tasks[0].id, completed=done, total=total)


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
