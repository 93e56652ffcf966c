"""The leaderboard as a table that fits 80 columns; reasons of failures stand below it, whole."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from anomaly_lightning.reports.leaderboard.rows import Row
from anomaly_lightning.reports.leaderboard.summary import Leaderboard, Summary

# Metric -> its short head.
HEADS = {"auroc": "AUROC", "f1": "F1", "f1_floor": "floor", "aupro": "AUPRO", "total_s": "s", "peak_memory_mb": "MB"}
UNTESTED = {"validation_loss": "loss", "total_s": "s", "peak_memory_mb": "MB"}
WHOLE = ("total_s", "peak_memory_mb")
VARYING = ("model", "backbone", "seed", "settings")


def show(board: Leaderboard, written: Iterable[Path], console: Console) -> None:
    """Print the table, why runs failed, and where the files lie."""
    words = [_words(row) for row in board.rows]
    varying = [name for name in VARYING if len({one[name] for one in words}) > 1]
    shared = [f"{name} {words[0][name]}" for name in VARYING if name not in varying and words[0][name]]
    console.print(Text(" · ".join(("leaderboard", *shared)), style="bold"))
    console.print(_table(board, varying))
    for reason, failed in _reasons(board.rows, varying).items():
        console.print(Text(f"{'; '.join(failed)}: {reason}", style="red"))
    for path in written:
        console.print(f"leaderboard {path}", soft_wrap=True, highlight=False, markup=False)


def _reasons(rows: Iterable[Row], varying: list[str]) -> dict[str, list[str]]:
    """Each reason once, with the runs that it stopped."""
    reasons: dict[str, list[str]] = {}
    for row in rows:
        if row.error:
            words = _words(row)
            which = ", ".join(_named(name, words[name]) for name in varying if words[name])
            reasons.setdefault(row.error, []).append(row.names["category"] + (f" ({which})" if which else ""))
    return reasons


def _named(name: str, value: str) -> str:
    return value if name == "settings" else f"{name} {value}"


def _table(board: Leaderboard, varying: list[str]) -> Table:
    tested = any(row.metrics.get("auroc") is not None for row in board.rows)
    heads = HEADS if tested else UNTESTED
    table = Table(padding=(0, 2, 0, 0), box=None, header_style="underline")
    for name in ("category", *varying):
        table.add_column(name, overflow="fold")
    for head in heads.values():
        table.add_column(head, justify="right", no_wrap=True)
    for row in board.rows:
        table.add_row(*_names(_words(row), varying), *(["failed"] if row.error else _numbers(row.metrics, heads)))
    for one in board.of_seeds:
        mean = _words(one) | {"seed": f"mean of {one.runs}"}
        table.add_row(*_names(mean, varying), *_numbers(one.means, heads), style="bold")
        table.add_row(*_names({"seed": "± sd"}, varying), *_numbers(one.deviations, heads))
    for one in board.by_method if board.several_categories else ():
        table.add_row(*_names(_words(one) | _over(one), varying), *_numbers(one.means, heads), style="bold")
    return table


def _over(summary: Summary) -> dict[str, str]:
    total = summary.runs + summary.failed
    return {"category": f"mean of {summary.runs}" + (f" (of {total})" if summary.failed else "")}


def _words(one: Row | Summary) -> dict[str, str]:
    return {"seed": "", **one.names, "settings": " ".join(one.settings)}


def _names(words: Mapping[str, str], varying: list[str]) -> list[Text]:
    return [Text(words.get(name, "")) for name in ("category", *varying)]


def _numbers(metrics: Mapping[str, float | None], heads: Iterable[str]) -> list[str]:
    texts = []
    for name in heads:
        value = metrics.get(name)
        texts.append("-" if value is None else f"{value:.0f}" if name in WHOLE else f"{value:.3f}")
    return texts
