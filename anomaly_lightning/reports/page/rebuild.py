"""Results of a finished run from the files that it left, so that its report can be made again."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

from anomaly_lightning.data.samples import Sample
from anomaly_lightning.errors import UserError
from anomaly_lightning.reports.page.content import write_report
from anomaly_lightning.reports.results import Results
from anomaly_lightning.reports.run_files import read_predictions
from anomaly_lightning.reports.run_folder import read_run_file
from anomaly_lightning.runtime.card import ModelCard


def rebuild(folder: Path) -> Path:
    """Write the report of a run folder anew; returns its path.

    Raises:
        UserError: The folder is no run's, or its files contradict each other.
    """
    metrics, run = read_run_file(folder, "metrics.json"), read_run_file(folder, "run.json")
    results = read_results(folder, metrics, run) if (folder / "predictions.csv").is_file() else None
    return write_report(folder, results, metrics, run)


def read_results(folder: Path, metrics: dict[str, Any], run: dict[str, Any]) -> Results:
    """Results from predictions.csv, error_maps.npy, metrics.json and run.json.

    Raises:
        UserError: A column is missing, or there are not as many maps as predictions.
    """
    rows, maps = read_predictions(folder / "predictions.csv"), folder / "error_maps.npy"
    error_maps = torch.from_numpy(np.load(maps, mmap_mode="c")) if maps.is_file() else torch.zeros(0)
    if len(error_maps) != len(rows):
        raise UserError(
            f"Expected a map in {maps} for each of the {len(rows)} rows of predictions.csv, got {len(error_maps)}. "
            "Make both anew with python -m anomaly_lightning.evaluate."
        )
    samples = [Sample(Path(row["path"]), row["defect"], Path(row["mask"]) if row["mask"] else None) for row in rows]
    scores = torch.tensor([float(row["score"]) for row in rows], dtype=torch.float64)
    pixel_threshold = (metrics["pixel"] or {}).get("threshold")
    card = ModelCard.from_dict(run.get("card"), str(folder / "run.json"))
    return Results(
        samples,
        scores,
        error_maps,
        card,
        float(rows[0]["threshold"]) if rows else math.nan,
        math.nan if pixel_threshold is None else float(pixel_threshold),
    )
