"""The update command: new normals into the statistics of a model, a threshold certified anew, a new checkpoint."""

import logging
import os
import time
from dataclasses import dataclass
from pathlib import Path

import msgspec
import torch
from omegaconf import DictConfig
from rich.console import Console

from anomaly_lightning.configs import composed
from anomaly_lightning.deploy import exporting
from anomaly_lightning.errors import BundleError, DataError, UserError
from anomaly_lightning.model import AnomalyModel
from anomaly_lightning.runtime.bundle import read_manifest, sha256
from anomaly_lightning.runtime.card import ChangeCard, ModelCard
from anomaly_lightning.runtime.inspector import Inspector
from anomaly_lightning.runtime.versions import sync_folder
from anomaly_lightning.training.checkpoint import TorchEngine, load_model, read_content
from anomaly_lightning.training.module import CARD
from anomaly_lightning.training.quiet import quieten
from anomaly_lightning.training.tested_data import PLACES
from anomaly_lightning.upkeep import absorbing, images, threshold
from anomaly_lightning.upkeep.change import Change, compared
from anomaly_lightning.upkeep.recalibrating import show
from anomaly_lightning.upkeep.writing import bundle_folder, bundle_hash, now, publish

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Update:
    """What an update starts from.

    Attributes:
        checkpoint: Of the model.
        output: The checkpoint that is written.
        bundle: Folder of the version that the next one is made from; None = no bundle is written.
        new: The new normals, parted.
        marked: Images whose truth is known and that are not absorbed, and whether each is defective.
    """

    checkpoint: Path
    output: Path
    bundle: Path | None
    new: absorbing.NewNormals
    marked: tuple[tuple[Path, bool], ...]


def update(cfg: DictConfig) -> Path | None:
    """Do what the config says; returns the new checkpoint, None with dry_run.

    Raises:
        UserError: The detector can't take new normals in, too few of them, the old ones are gone, or the updated model
            would miss too many of the known defects; nothing was changed.
    """
    quieten()
    started, console = time.perf_counter(), Console()
    checkpoint = Path(cfg.checkpoint).expanduser()
    model, card = load_model(checkpoint, list(cfg.trust))
    absorbing.refuse(model)
    datamodule = absorbing.old_data(cfg, card)
    old_splits = datamodule.splits
    held_before = tuple(sample.path for sample in old_splits.validation)
    plan = planned(cfg, checkpoint, card, absorbing.without_known(datamodule, _normals(cfg)), held_before)
    before, old_normals = _scored(model, card, plan), old_splits.normals
    absorbing.joined(datamodule, plan.new, card, Path(cfg.cache.dir), cfg.calibrate_on)
    known = absorbing.absorb(cfg, model, card, datamodule)
    looks = absorbing.validity(card, [*(sample.path for sample in old_normals), *plan.new.absorbed])
    known = _certified(known.replace(validity=looks), plan, cfg)
    known = known.replace(drift=absorbing.drift(model, known, old_splits, plan.new))
    after, defective = _scored(model, known, plan), [bad for _, bad in plan.marked]
    old, new = threshold.thresholds_of(card), threshold.thresholds_of(known)
    change = compared(list(zip(before, after, strict=True)), defective, old, new)
    show(console, old, new, change)
    console.print(
        f"{len(plan.new.absorbed)} new normals taken in beside the run's own {len(old_normals)}, "
        f"{len(plan.new.held_out)} held out; {time.perf_counter() - started:.0f} s",
        highlight=False,
        soft_wrap=True,
    )
    change.check(cfg.max_miss_increase)
    if cfg.dry_run:
        console.print("dry_run=true: nothing was written.", highlight=False)
        return None
    known = known.replace(history=(*card.history, _note(cfg, plan, card, known, change)))
    write_checkpoint(plan.checkpoint, plan.output, model, known)
    console.print(f"checkpoint: {plan.output}", highlight=False, soft_wrap=True, markup=False)
    if plan.bundle is not None:
        _export(cfg, plan, plan.bundle)
    return plan.output


def _normals(cfg: DictConfig) -> tuple[Path, ...]:
    return images.labelled(str(cfg.normals), model=cfg.model_name).normals


def planned(
    cfg: DictConfig, checkpoint: Path, card: ModelCard, normals: list[Path], held_before: tuple[Path, ...]
) -> Update:
    """What is to be done, checked before anything is computed.

    Args:
        cfg: Of the command.
        checkpoint: Of the model.
        card: Of the model.
        normals: New ones.
        held_before: The run's own held-out normals, which are compared on, too.

    Raises:
        BundleError: The bundle is none, or another model's.
        UserError: The output is there already.
    """
    if not normals:
        raise DataError(f"normals={cfg.normals}: no image is left to take in.")
    output = next_checkpoint(checkpoint) if cfg.output is None else Path(cfg.output).expanduser()
    if output.suffix != ".ckpt" or output.exists():
        raise UserError(f"output={output}: expected a file that ends in .ckpt and is not there yet.")
    bundle = None if cfg.bundle is None else bundle_folder(Path(cfg.bundle))
    if bundle is not None and read_manifest(bundle).card.data.fingerprint != card.data.fingerprint:
        raise BundleError(f"bundle={cfg.bundle} was exported from another model than checkpoint={cfg.checkpoint}.")
    new = absorbing.parted(normals, cfg.held_out, cfg.seed)
    marks = cfg.marks or (cfg.normals if images.is_store(str(cfg.normals)) else None)
    every = images.labelled(None, cfg.defects, marks, cfg.model_name) + images.Labelled((*new.held_out, *held_before))
    taken = {path.resolve() for path in new.absorbed}
    good = [path for path in every.normals if path.resolve() not in taken]
    marked = [(path, False) for path in good] + [(path, True) for path in every.defects]
    return Update(checkpoint, output, bundle, new, tuple(marked))


def next_checkpoint(checkpoint: Path) -> Path:
    """`best@2.ckpt` beside best.ckpt, or the first number after it that is free."""
    stem, number = checkpoint.stem.partition("@")[0], 2
    while (found := checkpoint.with_name(f"{stem}@{number}{checkpoint.suffix}")).exists():
        number += 1
    return found


def _scored(model: AnomalyModel, card: ModelCard, plan: Update) -> list[images.Scored]:
    """What a model says of the marked images; one that can't be read ends the update."""
    inspector = Inspector(card, TorchEngine(model, "cpu"))
    found, unreadable = images.score(inspector, [path for path, _ in plan.marked])
    if unreadable:
        raise DataError(f"{len(unreadable)} of the marked images can't be read, the first: {next(iter(unreadable))}.")
    return found


def _certified(card: ModelCard, plan: Update, cfg: DictConfig) -> ModelCard:
    """The card, with what the threshold's promise rests on."""
    known, count = threshold.thresholds_of(card), len(plan.new.held_out)
    taken = f"{len(plan.new.absorbed)} other new normals were taken into the model's statistics."
    basis = known.promise.get("rests_on")
    rests_on = [*(basis if isinstance(basis, list) else []), f"{count} of them are new normals.", taken]
    if cfg.calibrate_on == "new":
        used = "They were used for nothing else; held-out normals of the run weighed the parts of the error, if any."
        rests_on = [f"{count} new normals from {cfg.normals} that the model has not taken in.", used, taken]
    promise = {**known.promise, "rests_on": rests_on}
    return card.replace(thresholds=msgspec.structs.replace(known, promise=promise))


def _note(cfg: DictConfig, plan: Update, before: ModelCard, after: ModelCard, change: Change) -> ChangeCard:
    scores = [threshold.thresholds_of(card).score for card in (before, after)]
    return ChangeCard(
        what="update",
        parent=sha256(plan.checkpoint.read_bytes()),
        date=now(),
        why=str(cfg.why or ""),
        normals=len(plan.new.absorbed) + len(plan.new.held_out),
        details={
            "absorbed": len(plan.new.absorbed),
            "threshold": list(scores),
            "bundle": None if plan.bundle is None else bundle_hash(plan.bundle),
            "change": change.plain(),
        },
    )


def write_checkpoint(source: Path, target: Path, model: AnomalyModel, card: ModelCard) -> None:
    """Write a checkpoint that differs from another in the model's state and the card; whole or not at all.

    Args:
        source: The other one.
        target: The new file, which must not be there.
        model: Its state.
        card: What it is.
    """
    content, _ = read_content(source)
    state = {f"model.{name}": value for name, value in model.state_dict().items()}
    partial = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        with partial.open("wb") as stream:
            torch.save({**content, "state_dict": state, CARD: card.to_dict()}, stream)
            stream.flush()
            os.fsync(stream.fileno())
        load_model(partial)
        partial.replace(target)
        sync_folder(target.parent)
    finally:
        partial.unlink(missing_ok=True)


def _export(cfg: DictConfig, plan: Update, bundle: Path) -> None:
    """The next version of the bundle, held against the new checkpoint on the new normals."""
    manifest = read_manifest(bundle)
    given = [f"checkpoint={plan.output}", f"output={bundle}", f"parity.images={plan.new.held_out[0].parent}"]
    given += [f"format={manifest.format}", f"precision={manifest.precision}", f"cache.dir={cfg.cache.dir}"]
    export = composed("export", given)
    export.trust = list(cfg.trust)
    for key in ("category", "layout", *PLACES):
        export.data[key] = cfg.data[key]  # where the run's images are by now
    made = publish(bundle, lambda folder: _made(export, folder))
    logger.info("bundle %s", made)
    Console().print(f"new version: {made}", highlight=False, soft_wrap=True, markup=False)


def _made(export: DictConfig, folder: Path) -> None:
    exporting.show(folder, exporting.make(export, folder))
