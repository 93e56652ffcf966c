"""predict with format=parquet: list, skip what is done, score here or on Ray, and say what came out."""

import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from rich.console import Console

from anomaly_lightning.deploy.scale.done import Keys, read_done
from anomaly_lightning.deploy.scale.listing import Listing, write_listing
from anomaly_lightning.deploy.scale.model import model_id, travelling
from anomaly_lightning.deploy.scale.place import Place
from anomaly_lightning.deploy.scale.scorer import LISTING, ROWS, Job, Scorer, Tally
from anomaly_lightning.deploy.scale.summary import SUMMARY, Counts, count
from anomaly_lightning.errors import MissingExtraError, UserError
from anomaly_lightning.reports.console import progress_bar
from anomaly_lightning.runtime.inspector import Inspector

logger = logging.getLogger(__name__)

LOG_EVERY_S = 60.0  # where no progress bar is drawn


def score(cfg: DictConfig) -> int:
    """Do what the config says; returns how many images of the table could not be read.

    Raises:
        UserError: An option that there is no such table for, or what is given can't be used.
    """
    _check(cfg)
    checkpoint, output = Path(str(cfg.checkpoint)).expanduser(), Place.at(str(cfg.output))
    known = model_id(checkpoint, bool(cfg.validity))
    facts = {
        "checkpoint": str(checkpoint.absolute()),
        "model_id": known,
        "input": str(cfg.input),
        "engine": str(cfg.engine),
        "validity": bool(cfg.validity),
    }
    _note(output, {**facts, "finished": False})  # first, so that what lies below is never taken for data
    images = write_listing(str(cfg.input), output / LISTING, int(cfg.part))
    job = Job(output.address, known, cfg.heatmaps or "none", int(cfg.batch_size), int(cfg.workers))
    done, start = read_done(output / ROWS), time.monotonic()
    tally = _followed(_tallies(cfg, checkpoint, job, done), images)
    seconds = time.monotonic() - start
    (output / ROWS).clear_partial()
    counts = count(output / ROWS, known)
    _note(output, {**facts, "finished": True, **_figures(tally, counts, seconds)})
    _tell(tally, counts, seconds, output)
    return counts.errors.total()


def _check(cfg: DictConfig) -> None:
    """Raise `UserError` for what does not go together."""
    if cfg.maps:
        raise UserError("maps=true needs format=csv: the raw maps of a large set are not written.")
    if int(cfg.part) < 1 or int(cfg.ray.threads) < 1:
        raise UserError(f"part={cfg.part} and ray.threads={cfg.ray.threads}: expected 1 or more of each.")
    if cfg.ray.actors is not None and int(cfg.ray.actors) < 1:
        raise UserError(f"ray.actors={cfg.ray.actors}: expected 1 or more, or null for as many as there are cores.")


def _tallies(cfg: DictConfig, checkpoint: Path, job: Job, done: Keys) -> Iterator[Tally]:
    """Tallies of the parts, as they are done."""
    parts = Listing(Place.at(job.output) / LISTING).parts
    if cfg.engine == "ray":
        yield from _on_ray(cfg, checkpoint, job, done, parts)
        return
    inspector = Inspector.load(checkpoint, cfg.device, list(cfg.trust), cfg.validity, cfg.threads)
    yield from map(Scorer(inspector, job, done), range(parts))


def _on_ray(cfg: DictConfig, checkpoint: Path, job: Job, done: Keys, parts: int) -> Iterator[Tally]:
    try:
        from anomaly_lightning.deploy.scale import cluster
    except ModuleNotFoundError as error:
        raise MissingExtraError("engine=ray", error.name, "scale") from error
    threads, actors = int(cfg.ray.threads), cfg.ray.actors
    model = travelling(checkpoint, str(cfg.device), bool(cfg.validity), threads)
    pool = cluster.Pool(cfg.ray.address, None if actors is None else int(actors), threads, float(cfg.ray.gpus))
    megabytes = (sum(map(len, model.bundle.model)) + done.nbytes) // 2**20
    with cluster.connected(pool, megabytes) as many:
        yield from cluster.on_cluster(pool, many, model, job, done, parts)


def _followed(tallies: Iterator[Tally], images: int) -> Tally:
    """The sum of all tallies, while a bar shows images per second and the time left."""
    total, start, told = Tally(), time.monotonic(), time.monotonic()
    with progress_bar() as bar:
        task = bar.add_task("scoring", total=images, note="")
        for tally in tallies:
            total, now = total + tally, time.monotonic()
            rate = total.now / max(now - start, 1e-9)
            bar.update(task, completed=total.images, note=f"{rate:.1f} images/s")
            if bar.disable and now - told > LOG_EVERY_S:
                told, left = now, (images - total.images) / rate if rate else float("inf")
                logger.info("%d of %d images, %.1f images/s, %.0f s left", total.images, images, rate, left)
    return total


def _figures(tally: Tally, counts: Counts, seconds: float) -> dict[str, Any]:
    return {
        "images": tally.images,
        "before": tally.before,
        "now": tally.now,
        "seconds": round(seconds, 2),
        "images_per_second": round(tally.now / seconds, 2) if seconds else None,
        "rows": counts.rows,
        "verdicts": dict(counts.verdicts),
        "errors": dict(counts.errors.most_common()),
    }


def _note(output: Place, facts: dict[str, Any]) -> None:
    (output / SUMMARY).write((json.dumps(facts, indent=2) + "\n").encode())


def _tell(tally: Tally, counts: Counts, seconds: float, output: Place) -> None:
    console = Console(highlight=False, markup=False, soft_wrap=True)
    console.print(f"{counts.words()}.")
    for error, number in counts.errors.most_common():
        console.print(f"  {number:,} x {error}")
    before = f"; {tally.before:,} of {tally.images:,} were done before" if tally.before else ""
    console.print(f"{tally.now:,} images in {seconds:.1f} s, {tally.now / max(seconds, 1e-9):.1f} images/s{before}.")
    console.print(f"Rows: {(output / ROWS).address} (Parquet)")
