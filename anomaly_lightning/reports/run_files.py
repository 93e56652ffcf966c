"""The files a run leaves behind: run.json, metrics.json, predictions.csv, error_maps.npy."""

import csv
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from anomaly_lightning.errors import UserError
from anomaly_lightning.reports.results import Results
from anomaly_lightning.reports.run_folder import write_text
from anomaly_lightning.runtime.decision import exceeds

PREDICTIONS = ("path", "label", "defect", "score", "threshold", "decision", "mask")  # columns of predictions.csv
MAPS_AT_ONCE = 64
PACKAGES = (
    "torch",
    "torchvision",
    "pytorch-lightning",
    "hydra-core",
    "torchmetrics",
    "timm",
    "numpy",
    "scipy",
    "pillow",
)


class Clock:
    """Wall times of a run's stages, in seconds."""

    def __init__(self) -> None:
        self.start = time.perf_counter()
        self.stages: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add what happens inside to the stage's time."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.stages[name] = self.stages.get(name, 0.0) + time.perf_counter() - start

    def total(self) -> float:
        """Seconds since the clock was made."""
        return time.perf_counter() - self.start


def environment() -> dict[str, Any]:
    """Versions, commit and hardware, as run.json has them."""
    return {
        "versions": versions(),
        "git_commit": git_commit(),
        "hardware": {
            "platform": platform.platform(),
            "processor": platform.processor() or platform.machine(),
            "cpus": os.cpu_count(),
            "torch_threads": torch.get_num_threads(),
            "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
        "command": sys.argv,
    }


def versions() -> dict[str, str | None]:
    """Of Python and the packages that compute."""
    return {"python": platform.python_version(), **{name: installed(name) for name in PACKAGES}}


def installed(package: str) -> str | None:
    """Version of an installed package; None where there is none."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def git_commit() -> str | None:
    """Commit of the checkout that this package runs from; None for an installed package."""
    here = Path(__file__).parents[1]
    if not (here.parent / ".git").exists():
        return None
    try:
        command = ["git", "-C", str(here), "rev-parse", "HEAD"]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file whole or not at all; refuses NaN and infinity, which JSON does not have."""
    write_text(path, json.dumps(content, indent=2, default=str, allow_nan=False) + "\n")


def write_predictions(path: Path, results: Results) -> None:
    """Write predictions.csv: one row a test image with its raw score; an empty mask is an unknown or needless one."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(PREDICTIONS)
        for sample, score in zip(results.samples, results.scores.tolist(), strict=True):
            decision = int(exceeds(score, results.threshold))
            row = [sample.path, int(sample.label), sample.defect, repr(score), repr(results.threshold), decision]
            writer.writerow([*row, sample.mask])


def read_predictions(path: Path) -> list[dict[str, str]]:
    """Rows of predictions.csv.

    Raises:
        UserError: A column is missing.
    """
    with path.open(newline="", encoding="utf-8") as stream:
        reader = csv.DictReader(stream)
        if missing := sorted(set(PREDICTIONS) - set(reader.fieldnames or ())):
            raise UserError(
                f"{path} has no column {', '.join(missing)}: another version of anomaly_lightning wrote it. "
                "Train or evaluate again with this one."
            )
        return list(reader)


def write_error_maps(path: Path, results: Results) -> None:
    """Write the raw error maps (N, h, w) float32, in the order of predictions.csv; some at a time."""
    header = {"descr": "<f4", "fortran_order": False, "shape": tuple(results.error_maps.shape)}
    with path.open("wb") as stream:
        np.lib.format.write_array_header_1_0(stream, header)
        for some in results.error_maps.split(MAPS_AT_ONCE):
            stream.write(some.float().contiguous().numpy().astype("<f4", copy=False).data)
