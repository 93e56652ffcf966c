"""suite=drift of the benchmark command: alarms without a change beside the promise, delays and causes with one."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from anomaly_lightning.bench.drift import pools
from anomaly_lightning.bench.drift.pools import Pool
from anomaly_lightning.bench.drift.streams import changed, stable
from anomaly_lightning.data import sources
from anomaly_lightning.errors import UserError
from anomaly_lightning.reports import run_files
from anomaly_lightning.training.checkpoint import read_content

logger = logging.getLogger(__name__)

# Split and images before the change; see `streams.cards`.
STARTS = (("run", 0), ("random", 2000))


def measure(cfg: DictConfig) -> dict[str, Any]:
    """Do what `cfg.streams` says; returns what benchmark.json holds, and writes it after each category.

    Raises:
        UserError: There is neither a checkpoint nor a pool.
    """
    wanted, folder = cfg.streams, Path(cfg.run_dir)
    _make_pools(cfg, [Path(str(path)) for path in wanted.checkpoints])
    files = sorted(Path(wanted.pools).glob("*.npz"))
    if not files:
        raise UserError("streams.checkpoints=[] and nothing in streams.pools: name the best.ckpt of two or more runs.")
    found: dict[str, Any] = {
        "images_per_alarm": wanted.images_per_alarm,
        "images": wanted.images,
        "defects": wanted.defects,
        "stable": [],
        "changed": [],
    }
    for file in files:
        pool = pools.load(file)
        found["stable"] += _stable(cfg, pool)
        found["changed"] += _changed(cfg, pool)
        run_files.write_json(folder / "benchmark.json", found)
    return found


def _make_pools(cfg: DictConfig, checkpoints: Sequence[Path]) -> None:
    """Inspect the images of each run, and those of the next one as another product."""
    cards = [read_content(path)[1] for path in checkpoints]
    for number, (path, card) in enumerate(zip(checkpoints, cards, strict=True)):
        file = Path(cfg.streams.pools) / f"{card.category}.npz"
        if file.exists():
            continue
        if len(cards) < 2:
            raise UserError(
                "streams.checkpoints: expected two or more: the images of one are another product for others."
            )
        other = cards[(number + 1) % len(cards)]
        images = sources.resolve(other.data.places, other.category, Path(cfg.cache.dir)).category.train
        pools.save(pools.inspected(cfg, path, [sample.path for sample in images]), file)
        logger.info("%s: inspected, as they are and changed", card.category)


def _stable(cfg: DictConfig, pool: Pool) -> list[dict[str, Any]]:
    wanted, rows = cfg.streams, []
    for split, defects in (("random", 0.0), ("random", float(wanted.defects)), ("run", 0.0)):
        alarms = stable(pool, split, wanted.streams, wanted.images, wanted.images_per_alarm, cfg.seed, defects)
        counts = {"held_out": len(pool.held_out), "tested": len(pool.tested)}
        rows.append({"category": pool.name, "split": split, "defects": defects, **counts, "alarms": alarms.tolist()})
        logger.info("%s, %s split, %.0f %% defects: %s alarms", pool.name, split, 100 * defects, alarms.sum())
    return rows


def _changed(cfg: DictConfig, pool: Pool) -> list[dict[str, Any]]:
    wanted, rows = cfg.streams, []
    for split, before in STARTS:
        for kind, found in changed(pool, split, before, wanted.changes, wanted.images_per_alarm, cfg.seed):
            row = {"category": pool.name, "split": split, "before": before, "change": kind}
            rows.append({**row, "images": found.images, "cause": found.cause})
    return rows
