"""The words a command prints: what was resolved before it starts, what came out when it ends."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.panel import Panel
from rich.table import Table

HEADLINE = ("precision", "recall", "f1", "f1_floor", "f1_oracle", "auroc", "false_alarm_rate", "miss_rate")
PIXEL = ("auroc", "aupro", "f1", "iou")


def banner(resolved: Mapping[str, Any]) -> None:
    """Show what a run will use, before it does."""
    grid = Table.grid(padding=(0, 2))
    for name, value in resolved.items():
        grid.add_row(f"[bold]{name}", str(value))
    Console().print(Panel(grid, title="anomaly_lightning", title_align="left"))


def number(value: Any) -> str:
    """A figure in four digits, a dash where it is undefined."""
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def summary(metrics: Mapping[str, Any], folder: Path, checkpoint: Path | None = None) -> None:
    """Show the figures and where everything lies."""
    console = Console()
    image, pixel = metrics["image"], metrics["pixel"]
    if image:
        figures = Table(
            title=f"{metrics['category']}: {metrics['model']} on {metrics['backbone']}", title_justify="left"
        )
        figures.add_column("figure")
        figures.add_column("value", justify="right")
        for name in HEADLINE:
            figures.add_row(name, number(image[name]))
        for name in PIXEL:
            figures.add_row(f"pixel {name}", number((pixel or {}).get(name)))
        console.print(figures)
    for what, why in metrics["notes"].items():
        console.print(f"{what}: {why}", style="yellow", highlight=False)
    threshold = metrics["threshold"]
    console.print(
        f"threshold {number(threshold['value'])} from {threshold.get('normals')} validation normals "
        f"({threshold.get('method')}); {metrics['timing']['total_s']:.0f} s in all",
        highlight=False,
    )
    places = {
        "report": folder / "report.html",
        "checkpoint": checkpoint,
        "figures": folder / "metrics.json",
        "predictions": folder / "predictions.csv",
    }
    places |= {"heatmaps": folder / "heatmaps", "tensorboard": folder / "tensorboard"}
    for name, place in places.items():
        if place is not None and place.exists():
            console.print(f"{name:<12}{place}", soft_wrap=True, highlight=False)
