"""The line command, and predict watch=...: from a config to a running line and its table."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig
from PIL import Image
from rich.console import Console

from anomaly_lightning.deploy.line.inspecting import Images
from anomaly_lightning.deploy.line.line import Line, Settings, Summary
from anomaly_lightning.deploy.line.sinks import Sink
from anomaly_lightning.deploy.line.sources import Source
from anomaly_lightning.deploy.line.tally import sinks_table
from anomaly_lightning.deploy.outputs import Outputs
from anomaly_lightning.deploy.watching import stopping
from anomaly_lightning.errors import DataError, UserError
from anomaly_lightning.runtime.decision import VERDICTS
from anomaly_lightning.runtime.drift_watch import DriftWatch
from anomaly_lightning.runtime.inspection import Inspection
from anomaly_lightning.runtime.inspector import Inspector
from anomaly_lightning.runtime.reading import as_image

logger = logging.getLogger(__name__)

DRIFT = "drift.npz"  # what the drift monitor knows, in the line's folder
IMAGES: Mapping[str, tuple[str, ...]] = {
    "none": (),
    "rejected": tuple(verdict for verdict in VERDICTS if verdict != "OK"),
    "all": VERDICTS,
}


def run_line(cfg: DictConfig, make: Callable[[DictConfig], Any]) -> int:
    """Do what conf/line.yaml says, until the source ends, or SIGINT or SIGTERM.

    Args:
        cfg: The composed config.
        make: What a block of the config names as its `_target_`.

    Returns:
        How many lines are not written, or sinks not served; 0 = all is done.
    """
    if cfg.images not in IMAGES:
        raise UserError(f"images={cfg.images}: expected one of {', '.join(IMAGES)}.")
    settings = settings_of(cfg)
    receivers = {name: make(cfg.sink[name]) for name in chosen(cfg)}
    source: Source = make(cfg.source)
    inspector = Inspector.load(cfg.bundle, cfg.device, list(cfg.trust), cfg.validity)
    warm_up(inspector)
    folder = Path(cfg.output).absolute()
    watch = DriftWatch(inspector.card.drift, cfg.drift.images_per_alarm, folder / DRIFT, cfg.drift.watch)
    line = line_of(inspector, source, receivers, settings, folder, cfg.maps, watch)
    if cfg.drift.reset is not None:
        watch.reset(cfg.drift.reset)
    console = Console()
    console.print(watched(watch), soft_wrap=True, highlight=False)
    console.print(f"{cfg.name}: running; journal {line.ledger.journal}", soft_wrap=True, highlight=False)
    with stopping(line.stop):
        summary = line.run()
    return report(console, summary)


def chosen(cfg: DictConfig) -> list[str]:
    """Names of the sinks that a config asks for.

    Raises:
        UserError: There is no block of such a name.
    """
    names = [cfg.sinks] if isinstance(cfg.sinks, str) else list(cfg.sinks or [])
    if unknown := [name for name in names if name not in cfg.sink]:
        raise UserError(f"sinks={unknown}: expected some of {', '.join(sorted(cfg.sink))}.")
    return names


def settings_of(cfg: DictConfig) -> Settings:
    """Settings that a config holds under the same names."""
    plain = ("queue", "batch_size", "behind", "deadline_ms", "heartbeat_s", "stall_s", "flush_s")
    given: dict[str, Any] = {name: cfg[name] for name in (*plain, "retry_first_s", "retry_longest_s")}
    return Settings(name=str(cfg.name), accept=tuple(cfg.accept), images=IMAGES[cfg.images], **given)


def line_of(
    inspector: Inspector,
    source: Source,
    sinks: Mapping[str, Sink],
    settings: Settings,
    folder: Path,
    maps: bool,
    watch: DriftWatch | None = None,
) -> Line:
    """A line whose model is an inspector; without a watch nobody looks for drift."""

    def inspect(images: Images) -> list[Inspection | DataError]:
        return list(inspector.stream(images, len(images), workers=1))

    def decode(path: Path) -> Image.Image:
        return as_image(path, inspector.transform.white)

    outputs = Outputs(folder, maps)
    return Line(inspect, decode, source, sinks, outputs.files, settings, folder, watch)


def watched(watch: DriftWatch) -> str:
    """One sentence on the watch for drift."""
    known = watch.status()
    if not known["watched"]:
        return str(known["why"])
    alarm = known["alarm"]
    stands = "" if alarm is None else f" An alarm stands: {alarm['cause']}. drift.reset=seen takes it back."
    return f"Drift is watched: at most one false alarm in {known['images_per_alarm']} parts.{stands}"


def warm_up(inspector: Inspector) -> None:
    """Let the model see one black image: the first is slow, and would be late."""
    region = inspector.card.region
    height, width = inspector.transform.size if region is None else region.size
    inspector(np.zeros((height, width, 3), np.uint8))


def report(console: Console, summary: Summary) -> int:
    """Print the tables; returns how many lines are not written, or sinks not served."""
    console.print(summary.tally.table())
    if summary.inspected:
        each = summary.busy_s / summary.inspected
        words = f"The model saw {summary.inspected} parts, {each * 1000:.1f} ms each: at most {60 / each:.0f} a minute."
        console.print(words, soft_wrap=True, highlight=False)
    if summary.sinks:
        console.print(sinks_table(dict(summary.sinks)))
    waiting = [name for name, known in summary.sinks.items() if known.waiting]
    if waiting:
        logger.error("Not all is delivered to %s: it will be after the next start.", ", ".join(waiting))
    if summary.open:
        logger.error("%d parts have no line yet: they get it after the next start.", summary.open)
    return summary.open + len(waiting)
