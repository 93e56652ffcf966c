"""Results of a finished run from the files that it left, so that its report can be made again."""

import csv
import json
import math
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

from anomaly_lightning.cli import cache_dir
from anomaly_lightning.data.samples import Sample
from anomaly_lightning.data.sources import resolve
from anomaly_lightning.errors import DataError, UserError
from anomaly_lightning.reports.page.render import write_report
from anomaly_lightning.reports.results import Results
from anomaly_lightning.runtime.card import TransformCard
from anomaly_lightning.runtime.transform import ImageTransform
from anomaly_lightning.scoring import Scoring


def rebuild(folder: Path) -> Path:
    """Write the report of a run folder anew; returns its path.

    Raises:
        UserError: The folder is no run's, or its files contradict each other.
    """
    metrics, run = (_read_json(folder / name) for name in ("metrics.json", "run.json"))
    results = read_results(folder, metrics, run) if (folder / "predictions.csv").is_file() else None
    return write_report(folder, results, metrics, run)


def read_results(folder: Path, metrics: dict[str, Any], run: dict[str, Any]) -> Results:
    """Results from predictions.csv, error_maps.npy, metrics.json and run.json.

    Raises:
        UserError: There are not as many maps as predictions.
    """
    with (folder / "predictions.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    maps = folder / "error_maps.npy"
    error_maps = torch.from_numpy(np.load(maps)) if maps.is_file() else torch.zeros(0)
    if len(error_maps) != len(rows):
        raise UserError(
            f"Expected a map in {maps} for each of the {len(rows)} rows of predictions.csv, got {len(error_maps)}. "
            "Make both anew with python -m anomaly_lightning.evaluate."
        )
    masks, settings = _masks(run), run["settings"]
    samples = [Sample(path, row["defect"], masks.get(path.resolve())) for row in rows for path in [Path(row["path"])]]
    pixel_threshold = (metrics["pixel"] or {}).get("threshold")
    return Results(
        samples,
        torch.tensor([float(row["score"]) for row in rows], dtype=torch.float64),
        error_maps,
        Scoring(**settings["scoring"]),
        ImageTransform.from_card(msgspec.convert(settings["transform"], TransformCard)),
        float(rows[0]["threshold"]) if rows else math.nan,
        math.nan if pixel_threshold is None else float(pixel_threshold),
    )


def _masks(run: dict[str, Any]) -> dict[Path, Path | None]:
    """Mask of each test image; none where the images have gone, which the page then says."""
    settings = run["settings"]
    try:
        resolved = resolve(settings["data"], settings["category"], Path(cache_dir()))
    except DataError:
        return {}
    return {sample.path.resolve(): sample.mask for sample in resolved.category.test}


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"Expected the folder of a finished run with {path.name}; there is none in {path.parent}.")
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content
