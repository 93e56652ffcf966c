"""Figures of many runs side by side: a row a run, and the mean; also of any folders that hold runs."""

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from anomaly_lightning.data.samples import natural_key
from anomaly_lightning.reuse import REUSED_FILE, standing_for

FIGURES = {
    "precision": ("image", "precision"),
    "recall": ("image", "recall"),
    "f1": ("image", "f1"),
    "f1_floor": ("image", "f1_floor"),
    "f1_oracle": ("image", "f1_oracle"),
    "auroc": ("image", "auroc"),
    "pixel_auroc": ("pixel", "auroc"),
    "aupro": ("pixel", "aupro"),
    "total_s": ("timing", "total_s"),
    "peak_memory_mb": ("peak_memory_mb",),
}
COLUMNS = ("category", "model", "backbone", "seed", *FIGURES, "run", "error")
FAILURE_FILE = "error.json"


@dataclass(frozen=True)
class Row:
    """One run of the leaderboard.

    Attributes:
        names: category, model, backbone, seed and run folder, as text.
        figures: By column; None where a figure is undefined.
        error: Why the run failed, "" for a finished one.
    """

    names: Mapping[str, str]
    figures: Mapping[str, float | None]
    error: str = ""


def run_folders(folders: Iterable[Path]) -> list[Path]:
    """Folders of finished or failed runs at or below some folders."""
    names = ("metrics.json", FAILURE_FILE, REUSED_FILE)
    return sorted({path.parent for folder in folders for name in names for path in folder.rglob(name)}, key=natural_key)


def read_row(folder: Path) -> Row:
    """Row of one run folder."""
    folder = standing_for(folder)
    failure, metrics = folder / FAILURE_FILE, folder / "metrics.json"
    if failure.is_file():
        content = json.loads(failure.read_text(encoding="utf-8"))
        return Row({**content["names"], "run": str(folder)}, {}, content["error"])
    content = json.loads(metrics.read_text(encoding="utf-8"))
    names = {name: str(content.get(name, "")) for name in ("category", "model", "backbone", "seed")}
    return Row({**names, "run": str(folder)}, {name: _dig(content, path) for name, path in FIGURES.items()})


def _dig(content: Any, path: Sequence[str]) -> float | None:
    for key in path:
        content = content.get(key) if isinstance(content, Mapping) else None
    return content


def mean_row(rows: Sequence[Row]) -> Row:
    """Mean of each figure over the runs that have it."""
    figures = {}
    for name in FIGURES:
        values = [value for row in rows if (value := row.figures.get(name)) is not None]
        figures[name] = fmean(values) if values else None
    finished = sum(not row.error for row in rows)
    return Row({"category": f"mean of {finished}"}, figures)


def write_leaderboard(rows: Sequence[Row], folder: Path) -> list[Path]:
    """Write leaderboard.csv and leaderboard.md; returns their paths."""
    table = [cells(row) for row in (*rows, mean_row(rows))]
    as_csv, as_markdown = folder / "leaderboard.csv", folder / "leaderboard.md"
    with as_csv.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([COLUMNS, *table])
    lines = [COLUMNS, ["---"] * len(COLUMNS), *([_one_line(cell) for cell in line] for line in table)]
    as_markdown.write_text("".join(f"| {' | '.join(line)} |\n" for line in lines), encoding="utf-8")
    return [as_csv, as_markdown]


def _one_line(cell: str) -> str:
    return cell.replace("|", "/").replace("\n", " ")


def cells(row: Row) -> list[str]:
    """Texts of a row, in the order of `COLUMNS`."""
    texts = {**row.names, "error": row.error}
    for name in FIGURES:
        value = row.figures.get(name)
        texts[name] = "" if value is None else f"{value:.4f}" if abs(value) < 10 else f"{value:.1f}"
    return [texts.get(column, "") for column in COLUMNS]
