"""The predict command: a row, a heatmap and a mask for every image, an error row for those that can't be read."""

import logging
from collections import Counter
from pathlib import Path

from omegaconf import DictConfig
from rich.console import Console

from anomaly_lightning.deploy.inputs import find_images
from anomaly_lightning.deploy.line.command import IMAGES, line_of
from anomaly_lightning.deploy.line.line import Settings
from anomaly_lightning.deploy.line.sources.folder import FolderSource
from anomaly_lightning.deploy.outputs import Outputs, Tables, output_names
from anomaly_lightning.deploy.watching import stopping
from anomaly_lightning.errors import DataError, MissingExtraError, UserError
from anomaly_lightning.reports.console import progress_bar
from anomaly_lightning.runtime.decision import VERDICTS
from anomaly_lightning.runtime.inspector import Inspector

logger = logging.getLogger(__name__)


def predict(cfg: DictConfig) -> int:
    """Do what the config says; returns how many images could not be read."""
    kind = _format(cfg)
    if cfg.watch is not None:
        return watch(cfg)
    if cfg.input is None:
        raise UserError("Expected input=<image, folder or quoted glob>, or watch=<folder> for images to come.")
    return _large(cfg) if kind == "parquet" else _small(cfg)


def _format(cfg: DictConfig) -> str:
    """What is written, csv or parquet; raises `UserError` for options that don't go together."""
    known = {"engine": ("local", "ray"), "format": (None, "csv", "parquet"), "heatmaps": (None, "none", "ng", "all")}
    for option, values in known.items():
        if cfg[option] not in values:
            raise UserError(f"{option}={cfg[option]}: expected {', '.join(value or 'null' for value in values)}.")
    kind = str(cfg.format or ("parquet" if cfg.engine == "ray" else "csv"))
    if cfg.engine == "ray" and kind == "csv":
        raise UserError("engine=ray writes format=parquet: one table that many machines write has to be of many files.")
    if kind == "parquet" and cfg.watch is not None:
        raise UserError(f"watch={cfg.watch} writes decisions.jsonl: leave engine and format out.")
    if kind == "csv" and "://" in f"{cfg.input}{cfg.output}":
        raise UserError("Addresses like s3://bucket/folder need format=parquet.")
    return kind


def _large(cfg: DictConfig) -> int:
    """A table of many files, with what the extra brings."""
    try:
        from anomaly_lightning.deploy.scale.command import score
    except ModuleNotFoundError as error:
        raise MissingExtraError("format=parquet", error.name, "scale") from error
    return score(cfg)


def _small(cfg: DictConfig) -> int:
    """decisions.csv and regions.csv, with heatmaps and masks; returns how many images could not be read."""
    inspector = load(cfg)
    images, base = find_images(str(cfg.input))
    names, counts = output_names(images, base), Counter[str]()
    outputs = Outputs(Path(cfg.output), cfg.maps, cfg.heatmaps or "all")
    with Tables(outputs.folder) as tables, progress_bar() as bar:
        stream = inspector.stream(images, cfg.batch_size, cfg.workers)
        for path, said in zip(images, bar.track(stream, len(images), description="predicting"), strict=True):
            if isinstance(said, DataError):
                counts["unreadable"] += 1
                logger.error("%s", said)
                tables.failed(path, said)
                continue
            counts[said.verdict] += 1
            outputs.files(said, names[path])
            tables.inspected(path, said)
    counted = ", ".join(f"{counts[verdict]} {verdict}" for verdict in VERDICTS if counts[verdict])
    Console().print(
        f"{len(images)} images: {counted or 'none scored'}, {counts['unreadable']} unreadable. "
        f"Decisions, regions, heatmaps and masks: {outputs.folder}",
        soft_wrap=True,
        highlight=False,
        markup=False,
    )
    return counts["unreadable"]


def load(cfg: DictConfig) -> Inspector:
    """The inspector that the config names."""
    return Inspector.load(cfg.checkpoint, cfg.device, list(cfg.trust), cfg.validity, cfg.threads, compile=cfg.compile)


def watch(cfg: DictConfig) -> int:
    """Score images as they arrive in `cfg.watch`, a line each in decisions.jsonl, until SIGINT or SIGTERM.

    Returns:
        0: an image that can't be read is a line, and no failure of the watch.
    """
    if cfg.input is not None:
        raise UserError(f"watch={cfg.watch} contradicts input={cfg.input}: set one of them.")
    inspector, output = load(cfg), Path(cfg.output).absolute()
    source = FolderSource(str(cfg.watch), cfg.poll_s, cfg.settle_s, cfg.patience_s)
    settings = Settings(name="watch", batch_size=cfg.batch_size, images=IMAGES["all"], journal="decisions.jsonl")
    line = line_of(inspector, source, {}, settings, output, cfg.maps)
    console, journal = Console(highlight=False, markup=False, soft_wrap=True), line.ledger.journal
    console.print(f"watching {source.folder}; {line.ledger.before} images done before")
    with stopping(line.stop):
        summary = line.run()
    console.print(f"stopped after {summary.tally.lines} images: {journal}")
    return 0
