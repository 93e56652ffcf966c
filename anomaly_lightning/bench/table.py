"""What the benchmark measured, as tables for people."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table


def show(measured: Mapping[str, Any]) -> None:
    """Print all tables."""
    console = Console()
    for name, block in measured["inference"].items():
        console.print(_stages(name, block))
    console.print(_training(measured))
    for line in _words(measured):
        console.print(line, highlight=False, soft_wrap=True)


def _stages(name: str, block: Mapping[str, Any]) -> Table:
    table = Table(title=f"{name}: {block['images']} image(s), milliseconds an image", title_justify="left")
    for column in ("stage", "p50", "p95", "p99", "of the backbone", "by CPU time"):
        table.add_column(column, justify="left" if column == "stage" else "right")
    for stage, row in block["stages"].items():
        shown = [f"{row[key]:.2f}" for key in ("p50_ms", "p95_ms", "p99_ms")]
        table.add_row(stage, *shown, f"{row['ratio']:.2f}", f"{row['cpu_ratio']:.2f}")
    return table


def _training(measured: Mapping[str, Any]) -> Table:
    methods = measured["training"]
    table = Table(title="training, seconds", title_justify="left")
    table.add_column("part")
    for name in methods:
        table.add_column(name, justify="right")
    for part in dict.fromkeys(part for parts in methods.values() for part in parts):
        values = [parts.get(part) for parts in methods.values()]
        table.add_row(part, *("-" if v is None else f"{v:.3f}" if isinstance(v, float) else str(v) for v in values))
    return table


def _words(measured: Mapping[str, Any]) -> list[str]:
    lines = []
    if (both := measured["comparison"]) is not None:
        lines.append(
            f"all stages, feature pass to test: {both['own_s']:.2f} s; baseline, charged with the same feature pass, "
            f"{both['baseline_s']:.2f} s: {both['ratio']:.2f} times; baseline's fit and test alone "
            f"{both['baseline_fit_and_test_s']:.2f} s: {both['ratio_to_fit_and_test']:.2f} times"
        )
    if (naive := measured["naive"]) is not None:
        lines.append(
            f"naive loop: {naive['epoch_s']:.2f} s an epoch, {naive['extrapolated_s']:.0f} s for "
            f"{naive['extrapolated_to']}; with the store, its build included, {naive['with_store_s']:.0f} s: "
            f"{naive['speedup']:.1f} times faster"
        )
    known = {name: value for name, value in measured["peak_memory_mb"].items() if value is not None}
    if known:
        lines.append("peak memory so far, MB: " + ", ".join(f"{name} {value:.0f}" for name, value in known.items()))
    machine = measured["machine"]
    lines.append(
        f"{machine['hardware']['cpus']} CPUs, {machine['hardware']['torch_threads']} threads, load "
        f"{machine['load_average']}, torch {machine['versions']['torch']}, Python {machine['versions']['python']}"
    )
    return lines
