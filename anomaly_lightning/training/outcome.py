"""What came out of a run or an evaluation: put together once, and written into its folder."""

from pathlib import Path
from typing import Any

from anomaly_lightning.bench.latency import single_image_ms
from anomaly_lightning.data.datamodule import MVNetDataModule
from anomaly_lightning.reports import run_files
from anomaly_lightning.reports.page import write_report
from anomaly_lightning.reports.peak_memory import peak_gpu_memory_mb, peak_memory_mb
from anomaly_lightning.reports.results import Results, threshold_block
from anomaly_lightning.reports.tested import tried
from anomaly_lightning.runtime.card import ModelCard
from anomaly_lightning.training.intake import Intake
from anomaly_lightning.training.module import AnomalyModule


def gather_metrics(
    module: AnomalyModule,
    source: MVNetDataModule,
    found: Results | str,
    clock: run_files.Clock,
    intake: Intake,
    bootstrap: int,
    seed: int,
) -> dict[str, Any]:
    """Content of metrics.json: what was run, the threshold, the metrics, the costs.

    Args:
        module: Calibrated; its trainer has tested it.
        source: Splits of the category.
        found: Results of the test set, or in words why nothing was tested.
        clock: Of the run.
        intake: What there is to say of the data.
        bootstrap: Resamples behind the intervals.
        seed: Of the resamples.
    """
    card, results = module.card, None if isinstance(found, str) else found
    blocks: dict[str, Any] = {"image": None, "pixel": None, "by_defect": {}, "notes": {"image": found, "pixel": found}}
    blocks = blocks if results is None else results.metrics(bootstrap, seed)
    samples = source.splits.train if results is None else results.samples
    latency = single_image_ms(module.model, source.transform, samples, module.trainer.strategy.root_device)
    return {
        "category": source.category.name,
        "model": card.detector.name,
        "backbone": card.backbone.name,
        "split": source.split,
        "seed": card.seed,
        "counts": source.splits.counts(),
        "threshold": threshold_block(card, results),
        "promises": _promises(card, results),
        **blocks,
        "notes": {**blocks["notes"], **intake.notes()},
        "timing": {**clock.stages, "total_s": clock.total(), **latency},
        "peak_memory_mb": peak_memory_mb(),
        "peak_gpu_memory_mb": peak_gpu_memory_mb(),
    }


def _promises(card: ModelCard, results: Results | None) -> list[dict[str, Any]]:
    """Which promise was tested by what, as JSON values."""
    good = [] if results is None else results.scores[~results.labels].tolist()
    return [one.plain() for one in tried(card, good, None, "good test images")]


def write_outcome(folder: Path, found: Results | str, metrics: dict[str, Any], run: dict[str, Any]) -> None:
    """Write predictions.csv, error_maps.npy, metrics.json and report.html.

    Args:
        folder: Where to.
        found: Results of the test set, or in words why nothing was tested.
        metrics: Content of metrics.json.
        run: Content of run.json; of an evaluation without one, {"resolved": {name: text}}.
    """
    results = None if isinstance(found, str) else found
    if results is not None:
        run_files.write_predictions(folder / "predictions.csv", results)
        run_files.write_error_maps(folder / "error_maps.npy", results)
    run_files.write_json(folder / "metrics.json", metrics)
    write_report(folder, results, metrics, run)
