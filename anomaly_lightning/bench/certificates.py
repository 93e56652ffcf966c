"""Certificates of exports over methods, backbones and categories: short trainings, each exported and compared."""

import json
import logging
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from anomaly_lightning.bench.quality.row import SILENT
from anomaly_lightning.deploy.api import export
from anomaly_lightning.deploy.cost import LOST
from anomaly_lightning.errors import UserError
from anomaly_lightning.reports import run_files
from anomaly_lightning.runtime.bundle import PARITY
from anomaly_lightning.training.api import fit

logger = logging.getLogger(__name__)
Row = Mapping[str, Any]
ANY_LOSS = 1.0  # a tolerance that refuses nothing, so that a refused precision leaves its figures, too


@dataclass(frozen=True)
class Key:
    """Which model is trained and exported, and how.

    Attributes:
        category: Name of the category, or of a generated one.
        model: Name of a file of conf/model.
        backbone: Name of a file of conf/backbone.
        precision: As the export command has it.
    """

    category: str
    model: str
    backbone: str
    precision: str


def run_suite(cfg: DictConfig) -> list[Row]:
    """A row for each export that the config asks for; those that its result file holds are not made again.

    Raises:
        UserError: A result file that was written with other settings.
    """
    asked, file, settings = list(wanted(cfg)), Path(cfg.certificates.result), _settings(cfg)
    rows = _kept(file, settings)
    for key in asked:
        if any(_is(row, key) for row in rows):
            continue
        rows.append({**asdict(key), **_made(cfg, key)})
        run_files.write_json(file, {"settings": settings, "versions": run_files.versions(), "rows": rows})
    return [row for row in rows if any(_is(row, key) for key in asked)]


def wanted(cfg: DictConfig) -> Iterator[Key]:
    """Every export that the config asks for, a category's and backbone's together: they share their features."""
    given = cfg.certificates
    for category, backbone in product(given.categories, given.backbones):
        yield from (Key(category, model, backbone, given.precision) for model in given.models)


def training(cfg: DictConfig, key: Key) -> list[str]:
    """Overrides of the training behind an export."""
    given = cfg.certificates
    own = ["category=custom", f"category.name={key.category}", f"data.root={given.root}"]
    return [
        f"backbone={key.backbone}",
        f"model={key.model}",
        *(["data=synthetic", f"category={key.category}"] if given.root is None else own),
        *(["backbone.weights=random"] if key.backbone in given.random else []),
        f"trainer.max_epochs={given.epochs}",
        *SILENT,
        "test=false",
        f"cache.dir={cfg.cache.dir}",
        *map(str, given.overrides),
    ]


def _made(cfg: DictConfig, key: Key) -> dict[str, Any]:
    """What a certificate says, or why there is none."""
    place = Path(tempfile.mkdtemp(prefix="certificate-"))
    images = cfg.certificates.images
    try:
        run = fit(*training(cfg, key), f"hydra.run.dir={place / 'run'}")
        how = [f"precision={key.precision}", f"parity.limit={'null' if images is None else images}"]
        how += [f"quantise.tolerance={ANY_LOSS}", "references=0", f"cache.dir={cfg.cache.dir}"]
        bundle = export(run / "checkpoints" / "best.ckpt", place / "bundle", *how)
        return said(json.loads((bundle / PARITY).read_text(encoding="utf-8")), cfg.certificates.tolerance)
    except UserError as error:
        logger.error("%s", error)
        return {"refused": str(error)}
    finally:
        shutil.rmtree(place, ignore_errors=True)


def said(certificate: Mapping[str, Any], tolerance: float) -> dict[str, Any]:
    """What a row takes from a certificate.

    Args:
        certificate: Content of parity.json.
        tolerance: AUROC or AUPRO that int8 may lose, or share of the decisions that may differ without labels.
    """
    metrics, flips, images = certificate["metrics"], certificate["decisions"]["differ"], certificate["images"]
    found = {
        "images": images,
        "score": certificate["score"]["largest_relative_difference"],
        "map": certificate["map"]["largest_relative_difference"],
        "flips": flips,
        "cpu_ratio": certificate["latency"]["exported"]["cpu_ratio"],
        "metrics": metrics,
        "refused": None,
    }
    if certificate["precision"] == "int8":
        losses = [flips / images] if metrics is None else [_loss(metrics[name]) for name in LOST]
        found["refused"] = f"loses {max(losses):.3f}" if max(losses) > tolerance else None
    return found


def _loss(metric: Mapping[str, float | None]) -> float:
    before, after = metric["checkpoint"], metric["exported"]
    return 0.0 if before is None or after is None else before - after


def show(rows: Sequence[Row]) -> None:
    """Print the table."""
    table = Table(title="exports against their checkpoints", title_justify="left")
    for column in ("category", "model", "backbone", "precision", "images", "score", "map", "flips", *LOST, "said"):
        table.add_column(column)
    for row in rows:
        names = [row[name] for name in ("category", "model", "backbone", "precision")]
        table.add_row(*names, *_figures(row), row["refused"] or "equal within its tolerance")
    Console().print(table)


def _figures(row: Row) -> list[str]:
    if "images" not in row:
        return ["-"] * (4 + len(LOST))
    metrics = row["metrics"] or {}
    pairs = [metrics.get(name, {}) for name in LOST]
    known = [pair if None not in pair.values() else {} for pair in pairs]
    shown = [f"{pair['checkpoint']:.3f} to {pair['exported']:.3f}" if pair else "-" for pair in known]
    return [str(row["images"]), f"{row['score']:.1e}", f"{row['map']:.1e}", str(row["flips"]), *shown]


def _settings(cfg: DictConfig) -> dict[str, Any]:
    """What a row rests on beside its key."""
    given = cfg.certificates
    kept = {name: given[name] for name in ("epochs", "images", "tolerance")}
    return {**kept, "random": list(given.random), "overrides": list(given.overrides)}


def _kept(file: Path, settings: dict[str, Any]) -> list[Row]:
    """Rows that are there already."""
    if not file.exists():
        return []
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        rows, before = list(content["rows"]), content["settings"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file}: expected a result file of benchmark suite=certificates ({error!r}).") from error
    if before != settings:
        raise UserError(
            f"{file} holds rows made with {before}, now it is {settings}. Expected the same: name another "
            "certificates.result."
        )
    return rows


def _is(row: Row, key: Key) -> bool:
    return all(row[name] == value for name, value in asdict(key).items())
