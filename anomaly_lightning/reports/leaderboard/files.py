"""leaderboard.csv for machines, leaderboard.md for a text, leaderboard.html for people."""

import csv
import io
import os
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from anomaly_lightning.errors import UserError
from anomaly_lightning.reports.leaderboard.html import page_data
from anomaly_lightning.reports.leaderboard.rows import INTERVALS, METRICS, NAMES, Row, read_rows
from anomaly_lightning.reports.leaderboard.summary import Leaderboard, Summary, summarise
from anomaly_lightning.reports.leaderboard.terminal import show
from anomaly_lightning.reports.run_folder import write_text
from anomaly_lightning.reports.templating import write_page

ENDS = ("low", "high")
BOUNDS = tuple(f"{name}_{end}" for name in INTERVALS for end in ENDS)
# `kind` is what a row is: seeds_mean, seeds_sd, categories_mean.
COLUMNS = ("kind", *NAMES, "settings", *METRICS, *BOUNDS, "run", "error")
Record = dict[str, str | float | None]


def leaderboard_of(folders: Sequence[Path], output: Path) -> Leaderboard:
    """Write and print the leaderboard of the runs at or below some folders.

    Raises:
        UserError: A folder does not exist, or none of them holds a run.
    """
    listed = ", ".join(map(str, folders))
    if missing := [str(folder) for folder in folders if not folder.is_dir()]:
        raise UserError(f"No such folder: {', '.join(missing)}. Expected folders that hold runs, like outputs/train.")
    board = summarise(read_rows(folders))
    if not board.rows:
        raise UserError(f"No run below {listed}: expected folders with run.json and metrics.json at any depth.")
    output.mkdir(parents=True, exist_ok=True)
    show(board, write_leaderboard(board, output), Console())
    return board


def write_leaderboard(board: Leaderboard, folder: Path) -> list[Path]:
    """Write leaderboard.csv, .md and .html, each whole or not at all; returns their paths."""
    records = _records(board, folder)
    return [
        write_text(folder / "leaderboard.csv", _as_csv(records)),
        write_text(folder / "leaderboard.md", _as_markdown(records)),
        write_page(folder / "leaderboard.html", page_data(board, folder)),
    ]


def _records(board: Leaderboard, folder: Path) -> list[Record]:
    records = [_of_run(row, folder) for row in board.rows]
    for summary in board.of_seeds:
        records += [_of_summary("seeds_mean", summary, summary.means)]
        records += [_of_summary("seeds_sd", summary, summary.deviations)]
    return records + [_of_summary("categories_mean", summary, summary.means) for summary in board.by_method]


def _of_run(row: Row, folder: Path) -> Record:
    bounds = {f"{name}_{end}": pair[index] for name, pair in row.intervals.items() for index, end in enumerate(ENDS)}
    words = {"kind": "run", **row.names, "settings": " ".join(row.settings), "error": row.error}
    return {**words, "run": Path(os.path.relpath(row.folder, folder.resolve())).as_posix(), **row.metrics, **bounds}


def _of_summary(kind: str, summary: Summary, metrics: dict[str, float | None]) -> Record:
    over = f"{summary.runs} seeds" if kind.startswith("seeds") else ""
    category = summary.names["category"] or f"mean of {summary.runs}"
    left_out = f"{summary.failed} failed, left out" if summary.failed else ""
    words = {"kind": kind, **summary.names, "category": category, "seed": over, "error": left_out}
    return {**words, "settings": " ".join(summary.settings), **metrics}


def _as_csv(records: Sequence[Record]) -> str:
    """All digits, so that nothing has to be read from the runs again."""
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
