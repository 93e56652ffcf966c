"""What leaderboard.html shows, from the gathered runs: texts, and cells with the values that columns are sorted by."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from anomaly_lightning.reports.leaderboard.rows import INTERVALS, METRICS, Row
from anomaly_lightning.reports.leaderboard.shots import Curve, plotted, shot_curves
from anomaly_lightning.reports.leaderboard.summary import Leaderboard, Method, Summary

COSTS = ("total_s", "peak_memory_mb")
COMPARED = ("auroc", "f1", "pixel_auroc", "aupro")  # metrics that the table of categories by methods can show


@dataclass(frozen=True)
class Cell:
    """One number of a table: its text, the value to sort by, and what stands beside it."""

    text: str
    value: float | None = None
    beside: str = ""
    best: bool = False


def page_data(board: Leaderboard, folder: Path) -> dict[str, Any]:
    """What the template shows, as texts and cells.

    Args:
        board: What to show; metrics that no run has get no column.
        folder: Where the page will lie; its links are relative to it.
    """
    failed = sum(bool(row.error) for row in board.rows)
    heads = {
        name: head
        for name, (_, head) in METRICS.items()
        if any(row.metrics.get(name) is not None for row in board.rows)
    }
    return {
        "title": folder.resolve().name or "runs",
        "heads": heads,
        "finished": len(board.rows) - failed,
        "failed": failed,
        "methods": [_summary(one, heads) for one in board.by_method] if board.several_categories else [],
        "compared": _compared(board, heads) if board.several_categories and len(board.by_method) > 1 else [],
        "seeds": [_summary(one, heads) for one in board.of_seeds],
        "runs": [_run(row, heads, folder) for row in board.rows],
        "shots": [_curve(curve) for curve in shot_curves(board)],
    }


def _curve(curve: Curve) -> dict[str, Any]:
    return {"category": curve.category, "name": _method(curve.method), **plotted(curve)}


def _method(method: Method) -> str:
    model, backbone, settings = method
    return " ".join((f"{model} on {backbone}" if backbone else model, *settings))


def _run(row: Row, heads: Iterable[str], folder: Path) -> dict[str, Any]:
    place = row.folder / "report.html"
    link, words = (place, "report") if place.is_file() else (row.folder, "folder")
    return {
        "names": row.names,
        "settings": " ".join(row.settings),
        "error": row.error,
        "cells": [_cell(name, row.metrics.get(name), _interval(row, name)) for name in heads],
        "link": _link(link, folder),
        "words": words,
    }


def _link(target: Path, folder: Path) -> str:
    """Relative address of a file, so that the outputs can be moved or zipped as a whole."""
    return quote(Path(os.path.relpath(target, folder.resolve())).as_posix())


def _interval(row: Row, name: str) -> str:
    if name not in INTERVALS or name not in row.intervals:
        return ""
    low, high = row.intervals[name]
    return f"{low:.3f} to {high:.3f}"


def _cell(name: str, value: float | None, beside: str = "", best: bool = False) -> Cell:
    return Cell("-" if value is None else _text(name, value), value, beside, best)


def _text(name: str, value: float) -> str:
    return f"{value:.0f}" if name in COSTS else f"{value:.4f}"


def _summary(one: Summary, heads: Iterable[str]) -> dict[str, Any]:
    cells = [_cell(name, one.means[name], _spread(name, one.deviations)) for name in heads]
    names = {"name": _method(one.method), "category": one.names["category"]}
    return {**names, "runs": one.runs, "failed": one.failed, "cells": cells}


def _spread(name: str, deviations: Mapping[str, float | None]) -> str:
    value = deviations.get(name)
    return "" if value is None else f"± {_text(name, value)}"


def _compared(board: Leaderboard, heads: Mapping[str, str]) -> list[dict[str, Any]]:
    """Tables of categories by methods, one a metric that any run has."""
    return [{"name": name, "head": heads[name], **_pivot(board, name)} for name in COMPARED if name in heads]


def _pivot(board: Leaderboard, name: str) -> dict[str, Any]:
    methods = [one.method for one in board.by_method]
    by_place = {(one.names["category"], one.method): one for one in board.by_category}
    categories = dict.fromkeys(one.names["category"] for one in board.by_category)
    rows = [(category, [by_place.get((category, method)) for method in methods]) for category in categories]
    return {
        "methods": [_method(method) for method in methods],
        "rows": [{"category": category, "cells": _line(name, ones)} for category, ones in rows],
        "means": _line(name, list(board.by_method)),
        "counts": [one.runs for one in board.by_method],
    }


def _line(name: str, ones: list[Summary | None]) -> list[Cell]:
    """Cells of one row; the highest of several numbers is the best one."""
    values = [None if one is None else one.means[name] for one in ones]
    known = [value for value in values if value is not None]
    best = max(known) if len(known) > 1 else None
    spreads = ["" if one is None else _spread(name, one.deviations) for one in ones]
    return [
        _cell(name, value, spread, value is not None and value == best)
        for value, spread in zip(values, spreads, strict=True)
    ]
