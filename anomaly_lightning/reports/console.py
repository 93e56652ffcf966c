"""The words a command prints: what was resolved before it starts, what came out when it ends."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

HEADLINE = (
    *("precision", "recall", "f1", "f1_floor", "f1_oracle", "balanced_accuracy", "balanced_accuracy_oracle"),
    *("auroc", "false_alarm_rate", "miss_rate"),
)
WIDE = 200  # columns
PIXEL = ("auroc", "aupro", "f1", "iou")


def progress_bar() -> Progress:
    """Progress display that draws on a terminal and stays silent elsewhere."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        transient=True,
        disable=not sys.stdout.isatty(),
    )


def banner(resolved: Mapping[str, Any]) -> None:
    """Show what a run will use, before it does."""
    grid = Table.grid(padding=(0, 2))
    for name, value in resolved.items():
        grid.add_row(Text(name, style="bold"), Text(str(value)))  # a path may hold what rich takes for markup
    Console().print(Panel(grid, title="anomaly_lightning", title_align="left"))


def number(value: Any) -> str:
    """A number in four digits, a dash where it is undefined."""
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def summary(metrics: Mapping[str, Any], folder: Path, checkpoint: Path | None = None) -> None:
    """Show the metrics and where everything lies."""
    console = Console()
    image, pixel = metrics["image"], metrics["pixel"]
    if image:
        title = f"{metrics['category']}: {metrics['model']} on {metrics['backbone']}"
        table = Table(title=Text(title), title_justify="left")
        table.add_column("metric")
        table.add_column("value", justify="right")
        for name in HEADLINE:
            table.add_row(name, number(image.get(name)))
        for name in PIXEL:
            table.add_row(f"pixel {name}", number((pixel or {}).get(name)))
        console.print(table)
    for warning in metrics["threshold"].get("warnings", []):
        console.print(warning, style="yellow", highlight=False, markup=False)
    for what, why in metrics["notes"].items():
        console.print(f"{what}: {why}", style="yellow", highlight=False, markup=False)
    threshold = metrics["threshold"]
    for one in metrics.get("promises") or []:
        if one["tested_by"] is not None:
            console.print(one["words"], highlight=False)
    console.print(
        f"threshold {number(threshold['value'])} from {threshold.get('normals')} validation normals "
        f"({threshold.get('method')}); {metrics['timing']['total_s']:.0f} s in all",
        highlight=False,
    )
    files = {"report": folder / "report.html", "checkpoint": checkpoint, "metrics": folder / "metrics.json"}
    files |= {"predictions": folder / "predictions.csv", "heatmaps": folder / "heatmaps"}
    files |= {"tensorboard": folder / "tensorboard"}
    places({name: path for name, path in files.items() if path is not None and path.exists()})


def places(found: Mapping[str, Path | str]) -> None:
    """Show where files lie."""
    console = Console()
    for name, path in found.items():
        console.print(f"{name:<12}{path}", soft_wrap=True, highlight=False, markup=False)


def wide(table: Table) -> None:
    """Print a table with each of its rows on one line, however narrow the terminal: cut cells tell nothing."""
    Console(width=WIDE).print(table)


def audit_tables(
    counts: Mapping[str, Mapping[str, int]], findings: Mapping[str, list[str]], kinds: Mapping[str, str], shown: int
) -> None:
    """Show what an audit counted and found.

    Args:
        counts: Name of a count -> value -> number of images.
        findings: Kind -> words of each finding.
        kinds: Kind -> what it means.
        shown: Findings of one kind that are printed.
    """
    console = Console()
    table = Table(box=None, pad_edge=False)
    for name in ("what", "value", "images"):
        table.add_column(name, justify="right" if name == "images" else "left", overflow="fold")
    for what, values in counts.items():
        for value, number_of in list(values.items())[:shown]:
            table.add_row(what, Text(value), str(number_of))
        if len(values) > shown:
            table.add_row(what, f"and {len(values) - shown} others", "")
    console.print(table)
    for kind, words in findings.items():
        console.print(f"\n[bold]{kind}[/bold] ({len(words)}): {kinds[kind]}", highlight=False)
        for line in words[:shown]:
            console.print(f"  {line}", soft_wrap=True, highlight=False, markup=False)
        if len(words) > shown:
            console.print(f"  and {len(words) - shown} more, see audit.html", highlight=False)


def ranking(rows: Sequence[Mapping[str, Any]]) -> None:
    """Show the normals that look least like the others."""
    console = Console()
    console.print("\n[bold]normals, the most anomalous first[/bold] (z: robust standard deviations above the median)")
    for place, row in enumerate(rows, start=1):
        text = f"{place:>4}  z {row['z']:6.2f}  error {row['score']:.4g}  {row['path']}"
        console.print(text, soft_wrap=True, highlight=False, markup=False)


def audit_end(serious: int, exclude: int, folder: Path, notes: list[str]) -> None:
    """Show the verdict of an audit and where its files lie."""
    console = Console()
    for note in notes:
        console.print(note, style="yellow", highlight=False, markup=False)
    console.print(f"\n{serious} serious finding(s)." if serious else "\nNothing serious was found.", highlight=False)
    files = f"{folder / 'audit.json'}, {folder / 'audit.html'}"
    console.print(files, soft_wrap=True, highlight=False, markup=False)
    if exclude:
        hint = f"Train without the {exclude} file(s) listed there: data.exclude={folder / 'audit.json'}"
        console.print(hint, soft_wrap=True, highlight=False, markup=False)
