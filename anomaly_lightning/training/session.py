"""One training run from a composed config: the seven steps, the files they leave, the words they print."""

import logging
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from omegaconf import DictConfig
from pytorch_lightning.callbacks import ModelCheckpoint

from anomaly_lightning.configs import in_sweep
from anomaly_lightning.data.splits import Splits
from anomaly_lightning.reports import console, run_files
from anomaly_lightning.reports.results import Results
from anomaly_lightning.runtime.drift_fit import fit_drift
from anomaly_lightning.runtime.inspector import Inspector
from anomaly_lightning.runtime.validity import drawn, fit_validity
from anomaly_lightning.training import compose, describe, reuse
from anomaly_lightning.training.callbacks.checkpoints import BestCheckpoint
from anomaly_lightning.training.callbacks.tensorboard import log_metrics
from anomaly_lightning.training.checkpoint import TorchEngine
from anomaly_lightning.training.evaluation import made_again
from anomaly_lightning.training.finish import finalise, fit
from anomaly_lightning.training.intake import Intake
from anomaly_lightning.training.localising import check_localising
from anomaly_lightning.training.outcome import gather_metrics, write_outcome
from anomaly_lightning.training.quiet import quieten
from anomaly_lightning.training.resume import check_resumable
from anomaly_lightning.training.tested_data import TestedData

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
        compose.check_numbers(cfg)
        pl.seed_everything(cfg.seed, workers=True, verbose=False)
        extractor = compose.build_extractor(cfg)
        self.source, self.resolved = compose.build_datamodule(cfg, extractor.backbone)
        card = describe.build_card(cfg, extractor, self.source, self.resolved)
        self.module = compose.build_module(cfg, card, extractor)
        self.data = compose.build_data(cfg, self.source, self.module.model, self._show_features)
        self.trainer = compose.build_trainer(cfg, len(self.module.players))
        check_localising(self.trainer, self.module, self.data)
        self._bar = console.progress_bar()
        self.validation_loss: float | None = None
        self.identity = self._identity()
        self.resumed = check_resumable(cfg.ckpt, self.module, self.trainer)
        for callback in self.trainer.checkpoint_callbacks:
            if isinstance(callback, BestCheckpoint) and self.resumed is not None:
                callback.beside = self.resumed.path.parent
        self.intake = Intake(self.resolved, self.source, trained=self.cfg.test)

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
            reuse.make_room(self.folder, self.cfg.overwrite) if in_sweep() else reuse.forget(self.folder)
            self.intake.warn()
        with self.clock.stage("features_s"), self._bar:
            self.data.trainer = self.trainer
            self.data.setup("fit")
        self._fit_validity()
        self._write_run("training")
        with self.clock.stage("fit_s"):
            fit(self.trainer, self.module, self.data, None if self.resumed is None else self.resumed.path)
            if self._pruned():
                self._write_run("pruned")
                return None
            self.validation_loss = self._best_loss()
            checkpoint = finalise(self.trainer, self.module, self.data, self.folder / "checkpoints", self._fit_drift)
        found = self._test()
        if leads:
            self._finish(found, checkpoint)
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
            normals = drawn(self._whole_splits().normals, self.cfg.seed)
            known_looks = getattr(self.data, "appearances", None)
            fitted = fit_validity(
                [sample.path for sample in normals], self.cfg.seed, self.source.transform.white, known_looks
            )
        self.module.card = self.module.card.replace(validity=None if fitted is None else fitted.card())

    def _fit_drift(self) -> None:
        """Keep what normals measure that the model was not trained on, for the drift monitor of a service or line."""
        if not self.cfg.drift or not self.trainer.is_global_zero:
            return
        with self.clock.stage("drift_s"):
            card, splits = self.module.card, self._whole_splits()
            engine = TorchEngine(self.module.model, str(self.module.device))
            held_out, trained = ([sample.path for sample in some] for some in (splits.validation, splits.train))
            fitted = fit_drift(Inspector(card, engine), held_out, trained)
            self.module.model.pack(False)  # processes share buffers in their order, and only this one packs
        self.module.card = card.replace(drift=fitted)

    def _whole_splits(self) -> Splits:
        """The sets of readable images, whole ones with tiles, too: so they come at prediction and on a line."""
        if self.cfg.data.tile is None:
            return self.source.splits
        card = self.module.card
        whole = made_again(self.cfg, card, TestedData(card.category, card.data.places), masks=False)[0].splits
        return whole.without({sample for sample in whole.normals if sample.path in self.source.skipped})

    def _test(self) -> Results | str:
        """Score the test images; in words why, where there are none to score."""
        if not self.cfg.test:
            return "test=false"
        if not self.source.splits.test:
            return "there are no test images"
        with self.clock.stage("test_s"):
            self.trainer.test(self.module, datamodule=self.data, verbose=False)
        return Results.of(self.module, self.source.splits.test)

    def _finish(self, found: Results | str, checkpoint: Path) -> None:
        """Write and print what came out."""
        metrics = gather_metrics(
            self.module, self.source, found, self.clock, self.intake, bootstrap=self.cfg.bootstrap, seed=self.cfg.seed
        )
        write_outcome(self.folder, found, metrics, self._run_content("finished"))
        log_metrics(self.trainer, self.module.card, metrics)
        self._write_run("finished")
        console.summary(metrics, self.folder, checkpoint)

    def _pruned(self) -> bool:
        """Whether the search that this run is a trial of has ended it."""
        return any(getattr(callback, "pruned", False) for callback in self.trainer.callbacks)  # type: ignore[attr-defined]

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
            "localiser": self._localiser(),
            "split": f"{self.source.split}: {self.source.splits.counts()}",
            "outputs": str(self.folder),
        }

    def _localiser(self) -> str:
        card = self.module.card.localiser
        if card is not None:
            return card.detector.name
        return "none (features are not stored, or several processes train)" if self.cfg.localiser.auto else "none"

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
            "ckpt": None if self.resumed is None else str(self.resumed.path),
            "ckpt_epochs": None if self.resumed is None else self.resumed.epochs,  # that were done before this start
            "dataset_fingerprint": self.module.card.data.fingerprint,
            "skipped": {str(path): reason for path, reason in self.source.skipped.items()},
            **self.intake.content(),
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
