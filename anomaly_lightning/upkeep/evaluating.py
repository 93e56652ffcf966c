"""evaluate with normals=<folder>: the promises of a model on good parts from another time, its files and its page."""

import csv
import heapq
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from PIL import Image
from rich.console import Console

from anomaly_lightning.errors import DataError, UserError
from anomaly_lightning.reports.console import progress_bar
from anomaly_lightning.reports.images import data_url, shrunk, webp
from anomaly_lightning.reports.run_folder import write_text
from anomaly_lightning.reports.templating import write_page
from anomaly_lightning.runtime.card import ThresholdsCard
from anomaly_lightning.runtime.decision import verdict
from anomaly_lightning.runtime.inspection import Inspection
from anomaly_lightning.runtime.inspector import Inspector
from anomaly_lightning.runtime.promise import promise
from anomaly_lightning.runtime.versions import resolve
from anomaly_lightning.upkeep import images, other_day
from anomaly_lightning.upkeep.shifts import STEPS, shifts

JSON, PAGE, TABLE = "other_day.json", "other_day.html", "other_day.csv"
COLUMNS = ("path", "truth", "score", "threshold", "verdict", "reason")
# Of the options data.* those that say what is tested on.
PLACES = ("root", "normal", "normal_test", "abnormal", "masks", "manifest")
SHOWN = 6  # normals with the highest scores, with heatmaps
SIDE = 256


@dataclass(frozen=True)
class Drawn:
    """One of the most anomalous normals, for the page; `url` is a small image with its heatmap."""

    score: float
    name: str
    verdict: str
    url: str


class Gallery:
    """Keeps the images with the highest scores."""

    def __init__(self) -> None:
        self._kept: list[tuple[float, int, Drawn]] = []
        self._seen = 0

    def __call__(self, path: Path, said: Inspection) -> None:
        """Look at an image; drawn only where it is among the highest so far."""
        self._seen += 1
        if len(self._kept) == SHOWN and said.score <= self._kept[0][0]:
            return
        drawn = webp(shrunk(Image.fromarray(said.heatmap()), SIDE))
        entry = (said.score, self._seen, Drawn(said.score, path.name, said.verdict, data_url(drawn)))
        (heapq.heappush if len(self._kept) < SHOWN else heapq.heappushpop)(self._kept, entry)

    @property
    def drawn(self) -> list[Drawn]:
        """The highest first."""
        return [one for *_, one in sorted(self._kept, reverse=True)]


def evaluate(cfg: DictConfig) -> dict[str, Any]:
    """Do what the config says; returns what other_day.json holds.

    Raises:
        CheckpointError: The model can't be used.
        DataError: None of the images can be read.
        UserError: Options that contradict each other, or a model that promises nothing.
    """
    _check(cfg)
    model, folder, console = resolve(Path(cfg.checkpoint)), Path(cfg.run_dir), Console()
    inspector, gallery = Inspector.load(model, "auto", list(cfg.trust)), Gallery()
    known = images.labelled(str(cfg.normals), cfg.defects, model=cfg.model_name)
    normals, unreadable = images.score(inspector, known.normals, gallery)
    defects, lost = images.score(inspector, known.defects)
    if not normals:
        raise DataError(f"normals={cfg.normals}: none of {len(known.normals)} images can be read.")
    tested = other_day.promises(inspector, normals)
    content = {
        "model": str(model),
        "category": inspector.card.category,
        "normals": str(cfg.normals),
        "threshold": inspector.thresholds.score,
        "promise": promise(inspector.thresholds.promise),
        "rests_on": inspector.thresholds.promise.get("rests_on") or [],
        "promises": [one.plain() for one in tested],
        "scores_differ": other_day.drifted(inspector.thresholds, normals),
        "defects": other_day.misses(inspector.thresholds, normals, defects),
        "unreadable": {str(path): reason for path, reason in (unreadable | lost).items()},
        "shifts": _shifts(inspector, [one.path for one in normals], cfg.shift_images) if cfg.shifts else None,
    }
    _write(folder, content, gallery, inspector.thresholds, normals, defects)
    show(console, content, folder)
    return content


def _check(cfg: DictConfig) -> None:
    set_too = [key for key, value in OmegaConf.to_container(cfg.data, resolve=True).items() if value]  # type: ignore[union-attr]
    others = [f"data.{key}" for key in set_too if key in ("category", "layout", *PLACES)]
    if others:
        raise UserError(f"normals= and {others[0]}= don't go together: name the good parts with one of them.")
    if cfg.shift_images < 1:
        raise UserError(f"shift_images={cfg.shift_images}: expected 1 or more; shifts=false leaves the check out.")


def _shifts(inspector: Inspector, paths: Sequence[Path], most: int) -> dict[str, Any]:
    """The light-shift check, as JSON values, on at most so many normals, evenly chosen."""
    step = max(1, -(-len(paths) // most))
    chosen, found = list(paths)[::step], []
    with progress_bar() as bar:
        task = bar.add_task("shifting the light", total=1 + len(shifts()), note="")
        for one in other_day.light_shifts(inspector, chosen):
            found.append(one)
            bar.advance(task)
    return {"images": len(chosen), "breaks": other_day.breaks(found), "steps": [one.plain() for one in found]}


def _write(
    folder: Path,
    content: dict[str, Any],
    gallery: Gallery,
    known: ThresholdsCard,
    normals: Sequence[images.Scored],
    defects: Sequence[images.Scored],
) -> None:
    """The three files."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / TABLE).open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(COLUMNS)
        for truth, found in (("normal", normals), ("defect", defects)):
            for one in found:
                said = verdict(one.score, known.score, known.review, one.reason)
                writer.writerow([one.path, truth, repr(one.score), repr(known.score), said, one.reason or ""])
    write_text(folder / JSON, json.dumps(content, indent=2, allow_nan=False) + "\n")
    steps = [] if content["shifts"] is None else content["shifts"]["steps"]
    rows = {kind: [step for step in steps if step["kind"] == kind] for kind in ("none", *STEPS)} if steps else {}
    write_page(folder / PAGE, {**content, "drawn": gallery.drawn, "rows": rows})


def show(console: Console, content: dict[str, Any], folder: Path) -> None:
    """Print the verdicts."""
    lines = [one["words"] for one in content["promises"]]
    lines += [content["scores_differ"]] if content["scores_differ"] else []
    if content["defects"]:
        found = content["defects"]
        low, high = found["ci95"]
        lines.append(
            f"Missed {found['missed']} of {found['total']} defects (95 % {low:.1%} to {high:.1%}); AUROC "
            f"{found['auroc']:.3f}."
        )
    if content["shifts"]:
        lines += [f"{kind}: {words}" for kind, words in content["shifts"]["breaks"].items()]
    lines.append(f"{folder / PAGE}, {folder / JSON}, {folder / TABLE}")
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True, markup=False)
