"""What the drift suite found, as tables in Markdown."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table
from scipy import stats

from anomaly_lightning.runtime.drift_cause import CAUSES

Row = Mapping[str, Any]


def show(found: Mapping[str, Any]) -> None:
    """Print alarms without a change, delays, and the confusion of causes."""
    console = Console(width=160, highlight=False)
    for table in (alarms(found), delays(found["changed"]), confusion(found["changed"])):
        console.print(table)


def alarms(found: Mapping[str, Any]) -> Table:
    """Alarms of streams without a change; the interval takes them for a Poisson count."""
    columns = (
        "calibration and stream",
        "defects",
        "category",
        "normals",
        "images",
        "promised",
        "alarms",
        "per promise (95 %)",
    )
    table = _table("Alarms while nothing changes", columns)
    for split, defects in dict.fromkeys((row["split"], row["defects"]) for row in found["stable"]):
        rows = [row for row in found["stable"] if (row["split"], row["defects"]) == (split, defects)]
        for row in rows:
            normals = f"{row['held_out']} + {row['tested']}"
            table.add_row(split, f"{defects:.0%}", row["category"], normals, *_against([row], found))
        table.add_row(split, f"{defects:.0%}", "all", "", *_against(rows, found))
    return table


def _against(rows: Sequence[Row], found: Mapping[str, Any]) -> list[str]:
    """Images, alarms that the promise allows in them, alarms, and their ratio with its interval."""
    images = sum(len(row["alarms"]) for row in rows) * found["images"]
    count, allowed = sum(sum(row["alarms"]) for row in rows), images / found["images_per_alarm"]
    low = stats.gamma.ppf(0.025, count) if count else 0.0  # exact interval of a Poisson mean (Garwood 1936)
    high = stats.gamma.ppf(0.975, count + 1)
    ratio = f"{count / allowed:.2f} ({low / allowed:.2f} to {high / allowed:.2f})"
    return [f"{images:,}", f"{allowed:.0f}", str(count), ratio]


def delays(rows: Sequence[Row]) -> Table:
    """Images from a change to its alarm, over all categories."""
    table = _table("Images until the alarm", ("change", "after", "streams", "found", "median", "90 %", "largest"))
    for change, before in _kinds(rows):
        some = [row["images"] for row in rows if (row["change"], row["before"]) == (change, before)]
        there = [images for images in some if images is not None]
        numbers = [f"{value:.0f}" for value in np.percentile(there, (50, 90, 100))] if there else ["-"] * 3
        table.add_row(change, f"{before} images", str(len(some)), f"{len(there) / len(some):.0%}", *numbers)
    return table


def confusion(rows: Sequence[Row]) -> Table:
    """Causes that were named, by change, over all categories."""
    table = _table("Causes that were named", ("change", "after", *CAUSES, "not found"))
    for change, before in _kinds(rows):
        named = [row["cause"] for row in rows if (row["change"], row["before"]) == (change, before)]
        table.add_row(change, f"{before} images", *(str(named.count(cause)) for cause in (*CAUSES, None)))
    return table


def _kinds(rows: Iterable[Row]) -> list[tuple[str, int]]:
    kinds = dict.fromkeys((row["change"], row["before"]) for row in rows)
    return sorted(kinds, key=lambda kind: kind[1])


def _table(title: str, columns: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", box=box.MARKDOWN)
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number < 2 else "right")
    return table
