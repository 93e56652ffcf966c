"""leaderboard.csv for machines, leaderboard.md for a text, leaderboard.html for people."""

import csv
import io
import os
from collections.abc import Sequence
from pathlib import Path

from anomaly_lightning.reports.leaderboard.page import render
from anomaly_lightning.reports.leaderboard.rows import FIGURES, INTERVALS, NAMES, Row
from anomaly_lightning.reports.leaderboard.summary import Leaderboard, Summary

ENDS = ("low", "high")
BOUNDS = tuple(f"{name}_{end}" for name in INTERVALS for end in ENDS)
# `kind` tells runs from what was made of them: run, seeds_mean, seeds_sd, categories_mean.
COLUMNS = ("kind", *NAMES, "settings", *FIGURES, *BOUNDS, "run", "error")
Record = dict[str, str | float | None]


def write_leaderboard(board: Leaderboard, folder: Path) -> list[Path]:
    """Write leaderboard.csv, .md and .html, each whole or not at all; returns their paths."""
    records = _records(board, folder)
    contents = {"csv": _as_csv(records), "md": _as_markdown(records), "html": render(board, folder)}
    paths = []
    for kind, text in contents.items():
        path, partial = folder / f"leaderboard.{kind}", folder / f"leaderboard.{kind}.part"
        partial.write_text(text, encoding="utf-8", newline="")
        partial.replace(path)
        paths.append(path)
    return paths


def _records(board: Leaderboard, folder: Path) -> list[Record]:
    records = [_of_run(row, folder) for row in board.rows]
    for summary in board.of_seeds:
        records += [_of_summary("seeds_mean", summary, summary.means)]
        records += [_of_summary("seeds_sd", summary, summary.deviations)]
    return records + [_of_summary("categories_mean", summary, summary.means) for summary in board.by_method]


def _of_run(row: Row, folder: Path) -> Record:
    bounds = {f"{name}_{end}": pair[index] for name, pair in row.intervals.items() for index, end in enumerate(ENDS)}
    words = {"kind": "run", **row.names, "settings": " ".join(row.settings), "error": row.error}
    return {**words, "run": Path(os.path.relpath(row.folder, folder.resolve())).as_posix(), **row.figures, **bounds}


def _of_summary(kind: str, summary: Summary, figures: dict[str, float | None]) -> Record:
    over = f"{summary.runs} seeds" if kind.startswith("seeds") else ""
    category = summary.names["category"] or f"mean of {summary.runs}"
    left_out = f"{summary.failed} without figures left out" if summary.failed else ""
    words = {"kind": kind, **summary.names, "category": category, "seed": over, "error": left_out}
    return {**words, "settings": " ".join(summary.settings), **figures}


def _as_csv(records: Sequence[Record]) -> str:
    """All digits, so that nothing has to be read again from the runs."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, COLUMNS, restval="")
    writer.writeheader()
    writer.writerows(records)
    return stream.getvalue()


def _as_markdown(records: Sequence[Record]) -> str:
    lines = [COLUMNS, ["---"] * len(COLUMNS), *([_cell(record.get(name)) for name in COLUMNS] for record in records)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cell(value: str | float | None) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return " ".join(value.replace("|", "/").split())
    return f"{value:.4f}" if abs(value) < 10 else f"{value:.1f}"
