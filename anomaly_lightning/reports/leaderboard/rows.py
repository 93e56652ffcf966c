"""From run folders to rows: one a run, with its figures, or the reason why it has none."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from anomaly_lightning.cli import FAILURE_FILE
from anomaly_lightning.runtime.files import natural_key
from anomaly_lightning.training.reuse import REUSED_FILE, standing_for

FIGURES: dict[str, tuple[str, ...]] = {
    "precision": ("image", "precision"),
    "recall": ("image", "recall"),
    "f1": ("image", "f1"),
    "f1_floor": ("image", "f1_floor"),
    "f1_oracle": ("image", "f1_oracle"),
    "auroc": ("image", "auroc"),
    "pixel_auroc": ("pixel", "auroc"),
    "aupro": ("pixel", "aupro"),
    "validation_loss": ("validation_loss",),  # of normals, what a search minimises
    "total_s": ("timing", "total_s"),
    "peak_memory_mb": ("peak_memory_mb",),
}
INTERVALS = ("auroc", "f1")  # figures of images whose 95 % interval is shown
NAMES = ("category", "model", "backbone", "seed")
# Overrides that have a column of their own, or that say where things lie and not what was done.
TOLD = {*NAMES, "category.name", "sweep", "run_dir", "reuse", "data.root", "data.workers", "cache.dir", "cache.max_gb"}


@dataclass(frozen=True)
class Row:
    """One run of the leaderboard.

    Attributes:
        names: category, model, backbone and seed, as text.
        figures: By the names in `FIGURES`; None where a figure is undefined; empty for a failed run.
        intervals: 95 % interval (low, high) of the figures in `INTERVALS` that have one.
        settings: The overrides that not all runs of the leaderboard share.
        folder: Where the run lies: another's, where this one was taken over from it.
        error: Why there are no figures, "" for a finished run.
    """

    names: Mapping[str, str]
    figures: Mapping[str, float | None] = field(default_factory=dict)
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    settings: tuple[str, ...] = ()
    folder: Path = Path()
    error: str = ""


def read_rows(folders: Iterable[Path]) -> list[Row]:
    """Rows of the runs at or below some folders, in natural order of their folders.

    Each run comes once, however many sweeps took it over; one without figures that was run again is left out.
    """
    rows: dict[Path, Row] = {}
    for folder in run_folders(folders):
        row = read_row(folder)
        rows.setdefault(row.folder, row)
    identities = {folder: _read(folder / "run.json").get("identity") for folder in rows}
    done = {identities[folder] for folder, row in rows.items() if not row.error} - {None}
    kept = [row for folder, row in rows.items() if not row.error or identities[folder] not in done]
    return _with_settings(kept)


def run_folders(folders: Iterable[Path]) -> list[Path]:
    """Folders of finished, failed and cut-off runs at or below some folders."""
    names = ("run.json", "metrics.json", FAILURE_FILE, REUSED_FILE)
    found = {path.parent.resolve() for folder in folders for name in names for path in folder.rglob(name)}
    return sorted(found, key=natural_key)


def read_row(folder: Path) -> Row:
    """Row of one run folder; `settings` are all of the run's overrides."""
    stands, settings = standing_for(folder), _overrides(folder)
    failure, run, metrics = (stands / name for name in (FAILURE_FILE, "run.json", "metrics.json"))
    if failure.is_file():
        content = _read(failure)
        return Row(_names(content.get("names", {})), settings=settings, folder=stands, error=content.get("error", "?"))
    names = _names(_resolved(run) | _resolved(folder / REUSED_FILE))
    if stands != folder and not metrics.is_file():
        gone = f"taken over from {stands}, which is gone; start the sweep again to run it"
        return Row(names, settings=settings, folder=folder, error=gone)
    status = _read(run).get("status", "finished")
    if status != "finished" or not metrics.is_file():
        return Row(names, settings=settings, folder=stands, error=f"cut off in the state '{status}'")
    content = {"validation_loss": _read(run).get("validation_loss"), **_read(metrics)}
    figures = {name: _number(_dig(content, path)) for name, path in FIGURES.items()}
    intervals = {name: (pair[0], pair[1]) for name in INTERVALS if (pair := _dig(content, ("image", "ci95", name)))}
    return Row(_names(content), figures, intervals, settings, stands)


def _read(file: Path) -> dict[str, Any]:
    """Content of a JSON file; {} where there is none or it is broken."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _resolved(file: Path) -> dict[str, Any]:
    """Names of a run that has no figures: from run.json, or from the note of a run that was taken over."""
    content = _read(file)
    words = {**content.get("resolved", {}), **content.get("names", {})}
    words |= {"seed": content["seed"]} if "seed" in content else {}
    return {**words, "backbone": str(words.get("backbone", "")).split(" (")[0]} if words else {}


def _names(content: Mapping[str, Any]) -> dict[str, str]:
    return {name: str(content.get(name, "")) for name in NAMES}


def _dig(content: Any, path: Sequence[str]) -> Any:
    for key in path:
        content = content.get(key) if isinstance(content, Mapping) else None
    return content


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _overrides(folder: Path) -> tuple[str, ...]:
    """The overrides that the command line of a run set, less what the columns tell."""
    file = folder / ".hydra" / "overrides.yaml"
    given = [str(text) for text in OmegaConf.load(file)] if file.is_file() else []
    return tuple(text for text in given if text.lstrip("+~").partition("=")[0] not in TOLD)


def _with_settings(rows: list[Row]) -> list[Row]:
    """Keep of each row's settings those that not all rows share."""
    shared = Counter(text for row in rows for text in set(row.settings))
    return [replace(row, settings=tuple(t for t in row.settings if shared[t] < len(rows))) for row in rows]
