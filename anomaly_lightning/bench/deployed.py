"""The benchmark of a trained model: where an image's time goes, whether it keeps a budget, and ratios to torch."""

import json
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from anomaly_lightning.bench import memory, stages
from anomaly_lightning.deploy.inputs import find_images
from anomaly_lightning.errors import UserError
from anomaly_lightning.reports.run_folder import write_text
from anomaly_lightning.runtime.bundle import REFERENCES
from anomaly_lightning.runtime.files import images_in
from anomaly_lightning.runtime.inspector import Inspector
from anomaly_lightning.runtime.versions import resolve


def run(cfg: DictConfig) -> bool:
    """Measure, print, write benchmark.json; returns whether the 99th percentile keeps the budget (True without one).

    Raises:
        UserError: There are no images, or an option makes no sense.
    """
    if cfg.rounds < 1 or cfg.warmup < 0:
        raise UserError(
            f"rounds={cfg.rounds} warmup={cfg.warmup}: expected 1 image or more that counts, and 0 or more."
        )
    inspector = Inspector.load(cfg.checkpoint, cfg.device, list(cfg.trust), cfg.validity, cfg.threads, cfg.compile)
    images = _images(cfg)
    found: dict[str, Any] = {
        "model": str(cfg.checkpoint),
        "images": len(images),
        "rounds": cfg.rounds,
        "threads": cfg.threads or "one a core",
        "device": cfg.device,
        "machine": stages.machine(),
        "stages": stages.measure(inspector, images, cfg.rounds, cfg.warmup),
        "budget_ms": cfg.budget_ms,
        "memory": _memory(cfg, inspector, images),
        "ratios": _ratios(cfg, images),
    }
    Path(cfg.run_dir).mkdir(parents=True, exist_ok=True)
    place = write_text(Path(cfg.run_dir) / "benchmark.json", json.dumps(found, indent=2) + "\n")
    kept = cfg.budget_ms is None or found["stages"]["whole"]["p99_ms"] <= cfg.budget_ms
    _show(found, kept, place)
    return kept


def _images(cfg: DictConfig) -> list[Path]:
    """Images that take turns: those given, else the references of the bundle."""
    if cfg.input is not None:
        return find_images(str(cfg.input))[0]
    for folder in (cfg.checkpoint, cfg.bundle):
        if folder is not None and (found := images_in(resolve(Path(folder)) / REFERENCES)):
            return found
    raise UserError("Expected input=<image, folder or quoted glob>: there is no bundle with reference images to take.")


def _memory(cfg: DictConfig, inspector: Inspector, images: list[Path]) -> dict[str, float] | None:
    """Resident memory over many images; None where it was not asked for."""
    if cfg.memory.images is None:
        return None
    if min(cfg.memory.images, cfg.memory.side) < 1:
        raise UserError(f"memory.images={cfg.memory.images}, memory.side={cfg.memory.side}: expected 1 or more.")
    return memory.measure(inspector, images, cfg.memory.images, cfg.memory.side)


def _ratios(cfg: DictConfig, images: list[Path]) -> dict[str, Any] | None:
    """Checkpoint and bundle in turn, for one image and for a batch; None without a bundle."""
    if cfg.bundle is None:
        return None
    if Path(cfg.checkpoint).is_dir():
        raise UserError("bundle= is compared with a checkpoint: set checkpoint=<the best.ckpt it was exported from>.")
    from anomaly_lightning.bench import ratios

    threads = cfg.threads or 1
    return {
        str(size): ratios.compare(
            Path(cfg.checkpoint),
            Path(cfg.bundle),
            images,
            size,
            max(5, cfg.rounds // size),
            cfg.warmup,
            threads,
            cfg.compile,
        )
        for size in (1, cfg.batch_size)
    }


def _show(found: dict[str, Any], kept: bool, place: Path) -> None:
    console = Console()
    table = Table(title="one image, milliseconds", title_justify="left")
    for column in ("stage", "p50", "p95", "p99"):
        table.add_column(column, justify="left" if column == "stage" else "right")
    for stage, row in found["stages"].items():
        table.add_row(stage, *(f"{value:.2f}" for value in row.values()))
    console.print(table)
    if found["memory"] is not None:
        table = Table(title="resident memory", title_justify="left")
        for column in ("images", "MB"):
            table.add_column(column, justify="right")
        for count, megabytes in found["memory"].items():
            table.add_row(count, f"{megabytes:.1f}")
        console.print(table)
    for size, rows in (found["ratios"] or {}).items():
        table = Table(title=f"batch of {size}, ratios to the backbone alone in torch", title_justify="left")
        for column in ("", "ms an image, p50", "ratio", "by CPU time"):
            table.add_column(column, justify="right" if column else "left")
        for name, row in rows.items():
            table.add_row(name, *(f"{row[key]:.2f}" for key in ("p50_ms", "ratio", "cpu_ratio")))
        console.print(table)
    machine = found["machine"]
    lines = [
        f"{machine['processor']}, {machine['cpus']} CPUs, load {machine['load_average']}, {found['threads']} thread(s)"
    ]
    if found["budget_ms"] is not None:
        words = "kept" if kept else "NOT kept"
        lines.append(f"budget of {found['budget_ms']} ms {words}: p99 is {found['stages']['whole']['p99_ms']:.2f} ms")
    for line in (*lines, f"benchmark: {place}"):
        console.print(line, highlight=False, soft_wrap=True)
