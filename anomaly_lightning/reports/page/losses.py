"""Training and validation loss as SVG path data in a 100 x 100 box."""

import csv
import math
from pathlib import Path
from typing import Any

import numpy as np

from anomaly_lightning.reports.axis import on_axis
from anomaly_lightning.reports.page.plots import line


def loss_curves(history: Path) -> dict[str, Any] | None:
    """Training and validation loss an epoch, from the CSV that the trainer's logger wrote; None without losses.

    Returns:
        lines {"train", "val": SVG path}, epochs, low, high, log (whether the loss axis is logarithmic), last and best
        (value, epoch) of the validation loss.
    """
    losses = _read_losses(history) if history.is_file() else {}
    values = [value for series in losses.values() for value in series.values()]
    if not values:
        return None
    # The validation that calibrates comes after the last epoch of training.
    epochs = 1 + max(losses.get("train") or losses["val"])
    losses = {name: {e: value for e, value in series.items() if e < epochs} for name, series in losses.items()}
    low, high = min(values), max(values)
    log = low > 0 and high / low > 10
    axis = {"low": low, "high": high, "log": True} if log else {"low": 0.0, "high": high or 1.0, "log": False}
    lines = {}
    for name, series in losses.items():
        x = np.array(sorted(series)) / max(1, epochs - 1)
        lines[name] = line(x, on_axis(axis, np.array([series[epoch] for epoch in sorted(series)])))
    result: dict[str, Any] = {"lines": lines, "epochs": epochs, **axis, "best": None}
    if losses.get("val"):
        best = min(losses["val"], key=losses["val"].__getitem__)
        result["best"] = {"epoch": best + 1, "value": losses["val"][best]}
    return result


def _read_losses(history: Path) -> dict[str, dict[int, float]]:
    """Losses by epoch, "train" and "val"; rows without an epoch or with a loss that is not finite are left out."""
    losses: dict[str, dict[int, float]] = {"train": {}, "val": {}}
    with history.open(newline="", encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            for name, series in losses.items():
                text = row.get(f"{name}/loss")
                if text and row.get("epoch") and math.isfinite(float(text)):
                    series[int(float(row["epoch"]))] = float(text)
    return {name: series for name, series in losses.items() if series}
