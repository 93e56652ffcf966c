"""Going on with an interrupted run: its last.ckpt is taken only by a run that is to do the same."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from anomaly_lightning.errors import CheckpointError
from anomaly_lightning.runtime.card import ModelCard
from anomaly_lightning.training.checkpoint import read_content
from anomaly_lightning.training.module import SETTINGS, AnomalyModule

_NAME = {"detector": "detector.target", "backbone": "backbone.name"}
SHOWN = 6  # differences that an error names
# Blocks of the card that say what is trained on what. Where files lie, versions and what comes after the fit are left.
BLOCKS = ("seed", "data", "transform", "backbone", "features", "detector", "localiser", "scoring", "region", "tiling")
PLACES = ("data.places", "backbone.weights_source", "backbone.arguments.weights", "backbone.arguments.pretrained")
# What the user calls what the card calls otherwise.
OPTIONS = {
    "data.fingerprint": "the fingerprint of the images",
    "transform.size": "data.image_size",
    "transform": "data",
    "features.dtype": "cache.dtype",
    "features.arguments": "features",
    "backbone.weights_sha256": "the sha256 of backbone.weights",
    "backbone.arguments": "backbone",
    "detector.target": "model",
    "detector.arguments": "model",
    "region": "data.roi",
    "tiling": "data.tile",
}


@dataclass(frozen=True)
class Resumed:
    """Where a run goes on from: the file, and how many epochs were done."""

    path: Path
    epochs: int


def check_resumable(ckpt: str | None, module: AnomalyModule, trainer: pl.Trainer) -> Resumed | None:
    """Hold the checkpoint of an interrupted run against the run that is to go on with it; None without one.

    Args:
        ckpt: What the option `ckpt` says.
        module: Fresh.
        trainer: Of the run.

    Raises:
        CheckpointError: There is no such file, it is no last.ckpt, its run did something else, or has done more
            epochs than this one is to do.
    """
    if ckpt is None:
        return None
    path = Path(ckpt).expanduser().absolute()
    content, card = read_content(path)
    if card.thresholds is not None or "optimizer_states" not in content:
        raise CheckpointError(
            f"ckpt={ckpt} holds the weights of a model and not how far its training had come: expected the last.ckpt "
            "of an interrupted run."
        )
    if found := [*_differences(card, module.card), *_other_training(content, module)]:
        more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        raise CheckpointError(
            f"ckpt={ckpt} belongs to another run: {', '.join(found[:SHOWN])}{more}. Set these as that run had them "
            "(its run.json and .hydra/config.yaml), or leave ckpt out."
        )
    done, wanted = int(content["epoch"]) + 1, trainer.max_epochs
    if wanted is not None and 0 <= wanted < done:
        raise CheckpointError(
            f"ckpt={ckpt} has {done} epochs behind it, more than trainer.max_epochs={wanted}: expected {done} or more."
        )
    return Resumed(path, done)


def _differences(there: ModelCard, here: ModelCard) -> Iterator[str]:
    """What two cards say differently of what is trained on what, in words."""
    one, other = (dict(_flat({name: card.to_dict()[name] for name in BLOCKS})) for card in (there, here))
    # Another method or network has other arguments: its name says enough.
    said = [block for block in ("detector", "backbone") if one[_NAME[block]] != other[_NAME[block]]]
    yield from (_words(_NAME[block], one[_NAME[block]], other[_NAME[block]]) for block in said)
    for key in sorted({*one, *other}, key=lambda key: (key != "data.fingerprint", key)):
        if one.get(key) != other.get(key) and not _below(key, (*PLACES, *said)):
            yield _words(key, one.get(key), other.get(key))


def _other_training(content: Mapping[str, Any], module: AnomalyModule) -> Iterator[str]:
    """Settings of the gradient steps that differ, in words; the state of the optimizers would bring its own along."""
    one, other = dict(_flat(content.get(SETTINGS, {}))), dict(_flat(module.settings))
    for key in sorted({*one, *other} if one else ()):
        if one.get(key) != other.get(key):
            yield _words(key, one.get(key), other.get(key))


def _flat(values: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Plain nested values by dotted name; an empty block is a value."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", value


def _below(key: str, names: Sequence[str]) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in names)


def _words(key: str, there: Any, here: Any) -> str:
    known = next((name for name in OPTIONS if _below(key, [name])), None)
    option = key if known is None else OPTIONS[known] + key[len(known) :]
    return f"{option} ({_short(there)} there, {_short(here)} here)"


def _short(value: Any) -> str:
    text = "null" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:12]}..."
