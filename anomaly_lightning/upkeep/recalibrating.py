"""The recalibrate command: a threshold from new normals, by the same rule; nothing else of the bundle changes."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig
from rich.console import Console

from anomaly_lightning.reports.console import wide
from anomaly_lightning.runtime.card import ChangeCard, ModelCard, ThresholdsCard
from anomaly_lightning.runtime.inspector import Inspector
from anomaly_lightning.runtime.promise import promise
from anomaly_lightning.upkeep import images, threshold
from anomaly_lightning.upkeep.change import Change, compared
from anomaly_lightning.upkeep.writing import bundle_folder, bundle_hash, now, write_version

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Known:
    """What is known of images, by what the model says of them.

    Attributes:
        normals: New good parts that give the threshold.
        marked: Every image whose truth is known, these normals among them, with whether it is defective.
    """

    normals: Sequence[images.Scored]
    marked: Sequence[tuple[images.Scored, bool]]

    @property
    def usable(self) -> list[images.Scored]:
        """Normals that the model takes for parts of its kind: the others never get to a threshold."""
        return [one for one in self.normals if one.reason is None]


def recalibrate(cfg: DictConfig) -> Path | None:
    """Do what the config says; returns the folder of the new version, None with dry_run.

    Raises:
        BundleError: The bundle can't be used.
        CalibrationError: Too few normals.
        UserError: The new threshold would miss too many of the known defects.
    """
    console, folder = Console(), bundle_folder(Path(cfg.bundle))
    inspector = Inspector.load(folder, cfg.device, validity=cfg.validity)
    known = scored(cfg, inspector)
    before = threshold.thresholds_of(inspector.card)
    after = refitted(before, known, str(cfg.normals))
    change = changed(known, before, after)
    show(console, before, after, change)
    change.check(cfg.max_miss_increase)
    if cfg.dry_run:
        console.print("dry_run=true: nothing was written.", highlight=False)
        return None
    note = ChangeCard(
        what="recalibrate",
        parent=bundle_hash(folder),
        date=now(),
        why=str(cfg.why or ""),
        normals=len(known.usable),
        details={"threshold": [before.score, after.score], "change": change.plain()},
    )

    def with_thresholds(card: ModelCard) -> ModelCard:
        return card.replace(thresholds=after)

    made = write_version(folder, note, with_thresholds)
    console.print(f"new version: {made}", highlight=False, soft_wrap=True, markup=False)
    return made


def scored(cfg: DictConfig, inspector: Inspector) -> Known:
    """Score everything whose truth is known, each image once."""
    marks = cfg.marks or (cfg.normals if images.is_store(str(cfg.normals)) else None)
    normals = images.labelled(str(cfg.normals), model=cfg.model_name).normals
    every = images.Labelled(normals) + images.labelled(None, cfg.defects, marks, cfg.model_name)
    found, _ = images.score(inspector, [*every.normals, *every.defects])
    defects, chosen = set(every.defects), set(normals)
    marked = [(one, one.path in defects) for one in found]
    return Known([one for one in found if one.path in chosen], marked)


def refitted(before: ThresholdsCard, known: Known, source: str) -> ThresholdsCard:
    """The new thresholds; says which normals had no say in them."""
    usable, refused = known.usable, len(known.normals) - len(known.usable)
    if refused:
        first = next(one for one in known.normals if one.reason is not None)
        logger.warning(
            "%d of %d normals are INVALID (%s: %s) and have no say: a new threshold does not change that. Where such "
            "images are to be decided on, update or train with them.",
            refused,
            len(known.normals),
            first.path,
            first.reason,
        )
    basis = [
        f"{len(usable)} normals from {source}, on which the model was not trained.",
        "They were used for nothing else.",
    ]
    defects = [one.score for one, defective in known.marked if defective]
    names = [str(one.path) for one in usable]
    return threshold.fit(before, [one.score for one in usable], names, basis, defects)


def changed(known: Known, before: ThresholdsCard, after: ThresholdsCard) -> Change:
    """What the thresholds decide on all that is marked."""
    pairs = [(one, one) for one, _ in known.marked]
    return compared(pairs, [defective for _, defective in known.marked], before, after)


def show(console: Console, before: ThresholdsCard, after: ThresholdsCard, change: Change) -> None:
    """Print the new threshold, its promise, and what it changes."""
    lines = [
        f"threshold {before.score:.4g} -> {after.score:.4g}",
        f"before: {promise(before.promise)}",
        f"after:  {promise(after.promise)}",
    ]
    weaker = threshold.weaker(before, after)
    lines += [weaker] if weaker else []
    warnings = after.promise.get("warnings")
    lines += [str(line) for line in warnings] if isinstance(warnings, list) else []
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True, markup=False)
    console.print("On the marked images, with the 95 % interval of each share:", highlight=False)
    wide(change.table())
    flips = ", ".join(f"{count} {name}" for name, count in change.flips.items()) or "none"
    console.print(f"verdicts that change: {flips}", highlight=False, markup=False)
    if not change.misses.total:
        console.print(
            "No defects are marked or named (defects=<folder>): how many more would be missed is not known.",
            style="yellow",
            highlight=False,
        )
