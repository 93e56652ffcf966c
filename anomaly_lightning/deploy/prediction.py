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
from anomaly_lightning.errors import DataError, UserError
from anomaly_lightning.reports.console import progress_bar
from anomaly_lightning.runtime.decision import VERDICTS
from anomaly_lightning.runtime.inspector import Inspector

logger = logging.getLogger(__name__)


def predict(cfg: DictConfig) -> int:
    """Do what the config says; returns how many images could not be read."""
    if cfg.watch is not None:
        return watch(cfg)
    if cfg.input is None:
        raise UserError("Expected input=<image, folder or quoted glob>, or watch=<folder> for images to come.")
    inspector = load(cfg)
    images, base = find_images(str(cfg.input))
    names, outputs, counts = output_names(images, base), Outputs(Path(cfg.output), cfg.maps), Counter[str]()
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
    return Inspector.load(cfg.checkpoint, cfg.device, list(cfg.trust), cfg.validity, compile=cfg.compile)


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
