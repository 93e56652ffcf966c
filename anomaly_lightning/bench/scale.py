"""How time and memory grow with the number of images: whole train commands on more and more of them."""

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from os import times
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig
from PIL import Image
from rich import box
from rich.console import Console
from rich.table import Table

from anomaly_lightning.errors import UserError
from anomaly_lightning.reports import run_files

SIDE = 64  # pixels of an image
CELLS = 8  # grey levels drawn for each of its sides: small files, all of them distinct
TESTED = 20  # one test image of a good part, and one of a defect, for so many training normals
IN_A_FOLDER = 10_000
PARTS = ("features_s", "fit_s", "test_s")
# All of a run whose cost grows with the images, at the least cost an image; heatmaps are files, not memory.
CHEAP = (
    *("backbone=tiny", f"data.image_size={SIDE}", f"features.grid={CELLS}", "model.memory.size=200"),
    *("trainer.max_epochs=2", "trainer.accelerator=cpu", "callbacks.heatmaps=null", "callbacks.panels=null"),
    *("logger.tensorboard=null", "logger.history=null"),
)


def measure(cfg: DictConfig) -> dict[str, Any]:
    """Do what `cfg.scale` says; returns what benchmark.json holds, and writes it.

    Raises:
        UserError: An option makes no sense, or a run fails.
    """
    counts = [int(count) for count in cfg.scale.images]
    if not counts or min(counts) < TESTED:
        raise UserError(f"scale.images={counts}: expected numbers of images, at least {TESTED} each.")
    Path(cfg.run_dir).mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    measured = {"machine": run_files.environment(), "overrides": [*CHEAP, *cfg.scale.overrides], "rows": rows}
    for row in (row for count in counts for row in _runs(count, list(cfg.scale.overrides), cfg.scale.folder)):
        rows.append(row)
        run_files.write_json(Path(cfg.run_dir) / "benchmark.json", measured)  # as far as it has come
    return measured


def show(measured: Mapping[str, Any]) -> None:
    """Print the table; ratios are to the first row of the same kind."""
    title = (
        "whole train commands: seconds of wall time by part and in all, of CPU time; ms of that an image; peak memory"
    )
    table = Table(title=title, title_justify="left", box=box.SIMPLE)
    for name in (
        "images",
        "run",
        *(part.removesuffix("_s") for part in PARTS),
        "wall",
        "CPU",
        "ms each",
        "MB",
        "ratio",
    ):
        table.add_column(name, justify="left" if name == "run" else "right")
    first: dict[str, Mapping[str, Any]] = {}
    for row in measured["rows"]:
        ratio = row["peak_memory_mb"] / first.setdefault(row["run"], row)["peak_memory_mb"]
        seconds = [f"{row[part]:.1f}" for part in (*PARTS, "total_s", "cpu_s")]
        each, peak = 1000 * row["cpu_s"] / row["images"], f"{row['peak_memory_mb']:.0f}"
        table.add_row(str(row["images"]), row["run"], *seconds, f"{each:.2f}", peak, f"{ratio:.2f}")
    Console().print(table)


def _runs(count: int, overrides: Sequence[str], folder: str | None) -> Iterator[dict[str, Any]]:
    """A first run on so many images and a second one, which finds hashes and features in the cache."""
    with _images(count, folder) as place:
        for run in ("first", "second"):
            yield {"images": count, "run": run, **_train(place, run, overrides)}


@contextmanager
def _images(count: int, folder: str | None) -> Iterator[Path]:
    """A folder of images in the MVNet layout, removed with all that was written beside them."""
    place = Path(tempfile.mkdtemp(prefix="scale-", dir=folder))
    try:
        rng = np.random.default_rng(0)
        for part, size in (("train/good", count), ("test/good", count // TESTED), ("test/bad", count // TESTED)):
            for number in range(size):
                _save(rng, place / "images" / "noise" / part / f"{number // IN_A_FOLDER}" / f"{number}.png")
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _save(rng: np.random.Generator, path: Path) -> None:
    """Write one image; with 8 x 8 random levels in three colours no two are alike."""
    path.parent.mkdir(parents=True, exist_ok=True)
    levels = rng.integers(0, 256, (CELLS, CELLS, 3), dtype=np.uint8)
    Image.fromarray(levels.repeat(SIDE // CELLS, axis=0).repeat(SIDE // CELLS, axis=1)).save(path)


def _train(place: Path, run: str, overrides: Sequence[str]) -> dict[str, Any]:
    """One train command in a process of its own, whose peak is its own, too: seconds by part, of CPU time, and MiB."""
    data = ("category=custom", "category.name=noise", f"data.root={place / 'images'}", f"cache.dir={place / 'cache'}")
    command = [sys.executable, "-m", "anomaly_lightning.train", *data, *CHEAP, *overrides]
    out, before = place / run, times()
    ran = subprocess.run([*command, f"hydra.run.dir={out}"], capture_output=True, text=True, check=False)
    if ran.returncode:
        raise UserError(f"The run on {place} failed:\n{ran.stdout}{ran.stderr}")
    metrics = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    computed = json.loads((out / "run.json").read_text(encoding="utf-8"))["images_computed"]
    seconds = {part: metrics["timing"].get(part, 0.0) for part in (*PARTS, "total_s")}
    after = times()
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    return {**seconds, "cpu_s": spent, "peak_memory_mb": metrics["peak_memory_mb"], "images_computed": computed}
