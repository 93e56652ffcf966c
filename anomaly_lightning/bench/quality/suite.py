"""Runs the rows that a result file lacks, and keeps that file whole after each of them."""

import json
import logging
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from anomaly_lightning import __version__
from anomaly_lightning.bench.quality import row
from anomaly_lightning.bench.quality.row import Key
from anomaly_lightning.configs import composed
from anomaly_lightning.errors import UserError
from anomaly_lightning.places import CONFIG_DIR
from anomaly_lightning.reports import run_files
from anomaly_lightning.training.quiet import quieten

logger = logging.getLogger(__name__)
Row = Mapping[str, Any]
OWN_SPLIT = ("data.seed=${seed}",)


def run_suite(cfg: DictConfig) -> list[Row]:
    """All rows that the config asks for, those of its result file first; the others are run and added to it.

    A row that fails is reported and left out, so that the next start tries it again.

    Raises:
        UserError: A setting without a meaning, or a result file that was written with other overrides.
    """
    quieten()
    keys, file = list(wanted(cfg)), Path(cfg.quality.result)
    overrides = [*map(str, cfg.quality.overrides), *(OWN_SPLIT if cfg.quality.own_splits else ())]
    rows = _kept(file, overrides)
    known = {_place(kept) for kept in rows}
    for key in keys:
        if _place(key.values()) in known:
            continue
        try:
            rows.append({**key.values(), **_run(cfg, key, overrides)})
        except UserError as error:
            logger.error("%s, seed %d, %s: %s", key.category, key.seed, key.experiment, error)
            continue
        run_files.write_json(file, {"version": __version__, "overrides": overrides, "rows": rows})
        _tell(rows[-1])
    asked = {_place(key.values()) for key in keys}
    return [kept for kept in rows if _place(kept) in asked]


def wanted(cfg: DictConfig) -> Iterator[Key]:
    """Every row that is asked for, all categories of one experiment and seed together.

    Raises:
        UserError: There is no such experiment, or categories without a folder that holds them.
    """
    given = cfg.quality
    there = sorted(path.stem for path in (CONFIG_DIR / "experiment").glob("*.yaml"))
    for name in given.experiments:
        if name not in there:
            raise UserError(f"quality.experiments: there is no {name}; expected some of {', '.join(there)}.")
    if given.categories and given.root is None:
        raise UserError(
            "quality.root: set the folder that holds the categories "
            f"{', '.join(given.categories)}, or quality.categories=[] to look at generated images alone."
        )
    for experiment in given.experiments:
        for seed in given.seeds:
            yield from (Key(name, seed, experiment, False) for name in given.categories)
            yield from (Key(name, seed, experiment, True) for name in given.generated)


def read_rows(file: Path) -> list[Row]:
    """Rows of a result file.

    Raises:
        UserError: It is missing, or no result file of this suite.
    """
    try:
        rows: list[Row] = json.loads(file.read_text(encoding="utf-8"))["rows"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file}: expected a result file of benchmark suite=quality ({error!r}).") from error
    return rows


def _kept(file: Path, overrides: list[str]) -> list[Row]:
    """Rows that are there already."""
    if not file.exists():
        return []
    rows, before = read_rows(file), json.loads(file.read_text(encoding="utf-8")).get("overrides")
    if before != overrides:
        raise UserError(
            f"{file} holds rows with quality.overrides={before}, now they are {overrides}. Expected the same: name "
            "another quality.result."
        )
    return rows


def _place(kept: Row) -> tuple[Any, ...]:
    return kept["category"], kept["seed"], kept["experiment"]


def _run(cfg: DictConfig, key: Key, overrides: list[str]) -> dict[str, Any]:
    folder = Path(tempfile.mkdtemp(prefix="quality-"))
    try:
        place = [f"run_dir={folder}", f"hydra.run.dir={folder}", f"cache.dir={cfg.cache.dir}"]
        composed_run = composed("train", [*key.overrides(cfg.quality.root, overrides), *place])
        return row.run(OmegaConf.create(composed_run), cfg.quality.folds, cfg.quality.changed)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _tell(done: Row) -> None:
    shown = ", ".join(
        f"{name} {done['metrics'][name]:.3f}"
        for name in ("auroc", "pixel_aupro_256", "balanced_accuracy")
        if done["metrics"][name] is not None
    )
    logger.info("%s, seed %d, %s: %s", done["category"], done["seed"], done["experiment"], shown)
