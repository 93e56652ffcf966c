"""From run folders to rows: one a run, with its metrics, or the reason why it failed."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from anomaly_lightning.reports.run_folder import FAILURE_FILE, read_json
from anomaly_lightning.runtime.files import natural_key
from anomaly_lightning.training.reuse import REUSED_FILE, standing_for

# Name of a column: where it lies in metrics.json, or run.json, and its head for people.
METRICS: dict[str, tuple[tuple[str, ...], str]] = {
    "auroc": (("image", "auroc"), "AUROC"),
    "f1": (("image", "f1"), "F1"),
    "f1_floor": (("image", "f1_floor"), "F1 floor"),
    "f1_oracle": (("image", "f1_oracle"), "F1 oracle"),
    "precision": (("image", "precision"), "precision"),
    "recall": (("image", "recall"), "recall"),
    "balanced_accuracy": (("image", "balanced_accuracy"), "balanced accuracy"),
    "balanced_accuracy_oracle": (("image", "balanced_accuracy_oracle"), "balanced oracle"),
    "pixel_auroc": (("pixel", "auroc"), "pixel AUROC"),
    "aupro": (("pixel", "aupro"), "AUPRO"),
    "validation_loss": (("validation_loss",), "validation loss"),  # of normals, what a search minimises
    "total_s": (("timing", "total_s"), "time, s"),
    "peak_memory_mb": (("peak_memory_mb",), "memory, MiB"),
}
INTERVALS = ("auroc", "f1")  # metrics of images whose 95 % interval is shown
NAMES = ("category", "model", "backbone", "seed")
# Overrides that have a column of their own, or that name a place and not what was done.
PLACES = {
    "run_dir",
    "callbacks.pruning",
    "overwrite",
    "reuse",
    "data.root",
    "data.workers",
    "cache.dir",
    "cache.max_gb",
}
NO_SETTINGS = {*NAMES, "category.name", "sweep", *PLACES}


@dataclass(frozen=True)
class Row:
    """One run of the leaderboard.

    Attributes:
        names: category, model, backbone and seed, as text.
        metrics: By the names in `METRICS`; None where one is undefined; empty for a failed run.
        intervals: 95 % interval (low, high) of the metrics in `INTERVALS` that have one.
        settings: The overrides that not all runs of the leaderboard share.
        folder: Where the run lies: that of the earlier run, where a sweep took one over.
        error: Why there are no metrics, "" for a finished run.
    """

    names: Mapping[str, str]
    metrics: Mapping[str, float | None] = field(default_factory=dict)
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    settings: tuple[str, ...] = ()
    folder: Path = Path()
    error: str = ""


def read_rows(folders: Iterable[Path]) -> list[Row]:
    """Rows of the runs at or below some folders, in natural order of their folders.

    Each run comes once, however many sweeps took it over; one that failed and was run again is left out, and so is one
    that a search ended early.
    """
    rows: dict[Path, Row] = {}
    for folder in run_folders(folders):
        if read_json(folder / "run.json").get("status") == "pruned":
            continue
        row = read_row(folder)
        rows.setdefault(row.folder, row)
    identities = {folder: read_json(folder / "run.json").get("identity") for folder in rows}
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
    failure, run, metrics = (read_json(stands / name) for name in (FAILURE_FILE, "run.json", "metrics.json"))
    if failure:
        return Row(_names(failure.get("names", {})), settings=settings, folder=stands, error=failure.get("error", "?"))
    status = run.get("status", "finished")
    if metrics and status == "finished":
        content = {"validation_loss": run.get("validation_loss"), **metrics}
        values = {name: _number(_dig(content, path)) for name, (path, _) in METRICS.items()}
        intervals = {name: (pair[0], pair[1]) for name in INTERVALS if (pair := _dig(content, ("image", "ci95", name)))}
        return Row(_names(content), values, intervals, settings, stands)
    names = _names(_resolved(run) | _resolved(read_json(folder / REUSED_FILE)))
    if stands != folder and not metrics:
        gone = f"taken over from {stands}, which is gone; start the sweep again to run it"
        return Row(names, settings=settings, folder=folder, error=gone)
    return Row(names, settings=settings, folder=stands, error=f"cut off with status '{status}'")


def _resolved(content: Mapping[str, Any]) -> dict[str, Any]:
    """Names of a run that has no metrics: from run.json, or from the note of a run that was taken over."""
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
    """The overrides that the command line of a run set, less those that have a column."""
    file = folder / ".hydra" / "overrides.yaml"
    given = [str(text) for text in OmegaConf.load(file)] if file.is_file() else []
    return tuple(text for text in given if text.lstrip("+~").partition("=")[0] not in NO_SETTINGS)


def _with_settings(rows: list[Row]) -> list[Row]:
    """Keep of each row's settings those that not all rows share."""
    shared = Counter(text for row in rows for text in set(row.settings))
    return [replace(row, settings=tuple(t for t in row.settings if shared[t] < len(rows))) for row in rows]
