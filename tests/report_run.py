"""A run folder with known scores, for the tests of the report: non-square images, awkward names."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from toy import card

from anomaly_lightning.data.samples import Sample
from anomaly_lightning.reports import run_files
from anomaly_lightning.reports.results import Results
from anomaly_lightning.runtime.card import ScoringCard
from anomaly_lightning.runtime.transform import ImageTransform

HEIGHT, WIDTH = 48, 80
GRID = 8
THRESHOLD, PIXEL_THRESHOLD = 2.0, 0.5
AWKWARD = ('<script>alert("x")', "a\nb", "Öl & 'Rost' \"x\"", "<b>&amp;<")
GOOD_SCORES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0, 2.5)
BAD_SCORES = {"crack": (1.5, 2.25, 3.0, 4.0, 5.0), "<i>dent": (0.75, 2.0, 6.0)}
LOSSES = ("0,0,,0.9", "0,0,0.95,", "1,1,,0.5", "1,1,0.6,", "2,2,,0.5")


def _image(path: Path, seed: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(60, 200, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path, "PNG")
    return path


def _mask(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[12:24, 50:70] = 255  # the cells [2:4, 5:7] of the maps
    Image.fromarray(mask).save(path)
    return path


def make_results(folder: Path, defects: bool = True, masks: bool = True) -> Results:
    """Results over images written below `folder`; the maps of defects are high inside the mask."""
    samples, scores, maps = [], [], []
    for i, score in enumerate(GOOD_SCORES):
        name = f"{AWKWARD[i] if i < len(AWKWARD) else i}.png"
        samples.append(Sample(_image(folder / "test" / "good" / name, i)))
        scores.append(score)
        maps.append(torch.full((GRID, GRID), 0.1 + 0.01 * i))
    for defect, own in BAD_SCORES.items() if defects else ():
        for i, score in enumerate(own):
            mask = _mask(folder / "ground_truth" / defect / f"{i}_mask.png") if masks else None
            samples.append(Sample(_image(folder / "test" / defect / f"{i}.png", 50 + i), defect, mask))
            error_map = torch.full((GRID, GRID), 0.2)
            error_map[2:4, 5:7] = score / 2
            scores.append(score)
            maps.append(error_map)
    transform = ImageTransform(32, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    thresholds = THRESHOLD, PIXEL_THRESHOLD
    known = card(transform, scoring=ScoringCard(sigma=1.0, reduction="max", share=0.01))
    return Results(samples, torch.tensor(scores), torch.stack(maps), known, *thresholds)


def make_metrics(results: Results | None, **changes: Any) -> dict[str, Any]:
    """metrics.json for results; for none, as a run writes it that tested nothing."""
    if results is None:
        reason = "there are no test images"
        measured: dict[str, Any] = {"image": None, "pixel": None, "by_defect": {}}
        measured["notes"] = {"image": reason, "pixel": reason}
    else:
        measured = results.metrics(bootstrap=50)
    threshold = {
        "value": THRESHOLD,
        "method": "mean_std",
        "parameters": {"k": 3.0, "log": False, "review_budget": None},
        "normals": 40,
        "mean": 1.1,
        "std": 0.3,
        "false_alarm_rate": 0.02,
        "false_alarm_upper": 0.07,
        "warnings": ["Look at <this> & that."],
        "review": None,
        "review_share": None,
    }
    return {
        "category": "parts <b>",
        "model": "autoencoder",
        "backbone": "tiny",
        "split": "official",
        "seed": 0,
        "counts": {"train": 160, "validation": 40, "test_good": 8, "test_defect": 8},
        "threshold": threshold,
        **measured,
        "timing": {"fit_s": 3.0, "total_s": 5.0, "latency_ms_p50": 10.0, "latency_ms_p95": 20.0},
        "peak_memory_mb": 500.0,
        **changes,
    }


def make_run() -> dict[str, Any]:
    """run.json as far as the page reads it."""
    return {"resolved": {"data": "/data/<parts>", "split": "official"}, "skipped": {"/data/broken.png": "0 bytes"}}


def write_history(folder: Path, rows: tuple[str, ...] = LOSSES) -> None:
    """The loss history as the trainer's CSV logger leaves it; its last row comes from the calibrating validation."""
    path = folder / "history" / "metrics.csv"
    path.parent.mkdir(parents=True)
    path.write_text("\n".join(("epoch,step,train/loss,val/loss", *rows)) + "\n", encoding="utf-8")


def write_predictions(folder: Path, results: Results) -> None:
    """predictions.csv and error_maps.npy of the results."""
    run_files.write_predictions(folder / "predictions.csv", results)
    run_files.write_error_maps(folder / "error_maps.npy", results)
