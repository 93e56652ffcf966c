"""One row of the quality suite: a whole run as the train command does it, less what it writes for people."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from omegaconf import DictConfig

from anomaly_lightning.bench.quality.more_normals import by_fold, varied
from anomaly_lightning.reports.results import Results
from anomaly_lightning.training import compose, describe, finish
from anomaly_lightning.training.module import AnomalyModule

# What a run writes for people, and what takes time and says nothing about the method.
SILENT = ("callbacks.panels=null", "callbacks.learning=null", "callbacks.heatmaps=null", "bootstrap=0")
IMAGE = ("auroc", "average_precision", "pg2", "balanced_accuracy", "balanced_accuracy_oracle", "f1", "f1_oracle")
PIXEL = ("aupro", "aupro_256", "auroc", "average_precision", "f1", "aupimo")


@dataclass(frozen=True)
class Key:
    """Which row it is.

    Attributes:
        category: Name of the category.
        seed: Of the run; the split of `experiment` may have one of its own.
        experiment: Name of a file of conf/experiment.
        generated: Whether the images are generated, else below the suite's root.
    """

    category: str
    seed: int
    experiment: str
    generated: bool

    def overrides(self, root: str | None, more: Sequence[str]) -> list[str]:
        """The train command's overrides for this row."""
        own = ["category=custom", f"category.name={self.category}", f"data.root={root}"]
        where = ["data=synthetic", f"category={self.category}"] if self.generated else own
        return [f"experiment={self.experiment}", *where, f"seed={self.seed}", *SILENT, *more]

    def values(self) -> dict[str, Any]:
        """As the first columns of a row."""
        return {"category": self.category, "seed": self.seed, "experiment": self.experiment}


def run(cfg: DictConfig, folds: int = 0, changed: bool = False) -> dict[str, Any]:
    """What a run of this config reaches: `metrics`, `decision`, `scores` and `cost` of a row.

    Args:
        cfg: Composed from conf/train.yaml.
        folds: Cross-fitting: `scores` holds a part `folds`, see `more_normals.by_fold`; 0: none.
        changed: Whether `scores` holds a part `changed`, see `more_normals.varied`.
    """
    Path(cfg.run_dir).mkdir(parents=True, exist_ok=True)
    pl.seed_everything(cfg.seed, verbose=False)
    extractor = compose.build_extractor(cfg)
    source, resolved = compose.build_datamodule(cfg, extractor.backbone)
    module = compose.build_module(cfg, describe.build_card(cfg, extractor, source, resolved), extractor)
    data = compose.build_data(cfg, source, module.model)
    trainer = compose.build_trainer(cfg, len(module.players))
    data.trainer = trainer
    data.setup("fit")
    start = time.perf_counter()
    finish.fit(trainer, module, data, None)
    finish.finalise(trainer, module, data, Path(cfg.run_dir) / "checkpoints")
    fitted = time.perf_counter() - start
    trainer.test(module, datamodule=data, verbose=False)
    results = Results.of(module, source.splits.test)
    cost = {"fit_s": fitted, "epochs": trainer.current_epoch, "normals": len(source.splits.train)}
    row = {**_measured(module, results), "cost": cost}
    if folds:
        row["scores"]["folds"] = by_fold(module, data, folds, cfg.seed)
    if changed:
        row["scores"]["changed"] = varied(module, source.splits.validation, source.transform)
    return row


def _measured(module: AnomalyModule, results: Results) -> dict[str, Any]:
    """`metrics`, `decision` and `scores` of a row."""
    found, labels = results.metrics(bootstrap=0), results.labels
    thresholds = module.card.thresholds
    assert thresholds is not None, "finalise has calibrated it"
    rate, upper = (thresholds.promise.get(name) for name in ("false_alarm_rate", "false_alarm_upper"))
    return {
        "metrics": {**_image(found["image"]), **{f"pixel_{name}": found["pixel"][name] for name in PIXEL}},
        "decision": {
            "method": thresholds.promise["method"],
            "threshold": thresholds.score,
            "promised": rate,
            "promised_upper": upper,
            **_counts(found["image"]["confusion"]),
        },
        "scores": {
            "normals": [float(score) for score in thresholds.scores],
            "good": results.scores[~labels].tolist(),
            "defective": results.scores[labels].tolist(),
        },
    }


def _image(block: dict[str, Any]) -> dict[str, float | None]:
    rates = {f"recall_at_{float(rate):.0%}": value for rate, value in block["recall_at_false_alarm_rate"].items()}
    values: dict[str, float | None] = {name: block[name] for name in IMAGE}
    both = block["balanced_accuracy"], block["balanced_accuracy_oracle"]
    gap = None if None in both else both[1] - both[0]
    return {**values, **rates, "balanced_accuracy_gap": gap}


def _counts(confusion: dict[str, int] | None) -> dict[str, int | None]:
    """False alarms among the good and missed ones among the defective test images."""
    if confusion is None:
        return dict.fromkeys(("alarms", "good", "missed", "defective"))
    tp, fp, tn, fn = (confusion[name] for name in ("tp", "fp", "tn", "fn"))
    return {"alarms": fp, "good": fp + tn, "missed": fn, "defective": tp + fn}
