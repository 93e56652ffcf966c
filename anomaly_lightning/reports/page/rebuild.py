"""Results of a finished run from the files that it left, so that its report can be made again."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import torch

from anomaly_lightning.data.samples import Sample
from anomaly_lightning.errors import UserError
from anomaly_lightning.reports.page.content import write_report
from anomaly_lightning.reports.results import Results
from anomaly_lightning.reports.run_files import read_predictions
from anomaly_lightning.reports.run_folder import read_run_file
from anomaly_lightning.runtime.card import ModelCard
from anomaly_lightning.runtime.region import RegionScoring, Roi
from anomaly_lightning.runtime.transform import ImageTransform
from anomaly_lightning.scoring import Scoring


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
    error_maps = torch.from_numpy(np.load(maps)) if maps.is_file() else torch.zeros(0)
    if len(error_maps) != len(rows):
        raise UserError(
            f"Expected a map in {maps} for each of the {len(rows)} rows of predictions.csv, got {len(error_maps)}. "
            "Make both anew with python -m anomaly_lightning.evaluate."
        )
    samples = [Sample(Path(row["path"]), row["defect"], Path(row["mask"]) if row["mask"] else None) for row in rows]
    scores = torch.tensor([float(row["score"]) for row in rows], dtype=torch.float64)
    pixel_threshold = (metrics["pixel"] or {}).get("threshold")
    return Results(
        samples,
        scores,
        error_maps,
        *_chain(_card(run)),
        float(rows[0]["threshold"]) if rows else math.nan,
        math.nan if pixel_threshold is None else float(pixel_threshold),
    )


def _chain(card: ModelCard) -> tuple[Scoring, ImageTransform]:
    """What made maps and scores of the error maps: scoring, with its region, and transform."""
    seen, how = card.transform, card.scoring
    transform = ImageTransform(seen.size, seen.mean, seen.std, seen.resize)
    scoring = Scoring(how.sigma, how.reduction, how.share)
    if card.region is None:
        return scoring, transform
    return RegionScoring.of(scoring, Roi.from_plain(msgspec.to_builtins(card.region)), transform), transform


def _card(run: dict[str, Any]) -> Any:
    if "card" in run:
        return ModelCard.from_dict(run["card"], "run.json")
    old = run["settings"]  # goes when run.json holds the card
    blocks = {name: SimpleNamespace(**old[name]) for name in ("transform", "scoring")}
    return SimpleNamespace(**blocks, region=old.get("roi"))
