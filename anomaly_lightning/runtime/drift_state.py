"""What a drift monitor knows, in one file, so that it goes on after a restart."""

import hashlib
import json
import logging
import os
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from anomaly_lightning.runtime.card import DriftCard
from anomaly_lightning.runtime.drift import DriftMonitor

logger = logging.getLogger(__name__)

SCHEMA = 1  # of the file
_META = "meta"  # the entry that holds all that is no array, as JSON


def identity(card: DriftCard) -> str:
    """Hex sha256 of a model's drift statistics: state of one model says nothing about another."""
    return hashlib.sha256(msgspec.json.encode(card)).hexdigest()


def save(monitor: DriftMonitor, path: Path) -> None:
    """Write the file; a crash leaves it as it was, or as it is to be.

    Raises:
        OSError: The disk does not take it.
    """
    state = monitor.state()
    arrays = {name: value for name, value in state.items() if isinstance(value, np.ndarray)}
    meta: dict[str, Any] = {name: value for name, value in state.items() if name not in arrays}
    meta |= {"schema": SCHEMA, "model": identity(monitor.card)}
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.part")
    with fresh.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays, **{_META: np.array(json.dumps(meta))})
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)


def load(monitor: DriftMonitor, path: Path) -> bool:
    """Let a monitor go on where the file was written; False, with a word in the log, where it begins anew.

    A file of another model or version, or a damaged one, is put aside and not used.
    """
    if not path.exists():
        return False
    try:
        with np.load(path, allow_pickle=False) as content:
            state: dict[str, Any] = {name: content[name] for name in content.files if name != _META}
            state |= json.loads(str(content[_META]))
        if state["schema"] != SCHEMA or state["model"] != identity(monitor.card):
            raise ValueError("it was written for another model, or by another version")
        monitor.restore(state)
    except Exception as error:  # zipfile and numpy raise nearly anything on a damaged file
        aside = path.with_suffix(".unused")
        path.replace(aside)
        logger.warning("Drift is watched from the beginning: %s can't be used (%s); it is %s now.", path, error, aside)
        return False
    return True
