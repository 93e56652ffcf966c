"""Recognises a finished run by its content, so that a sweep that was cut off does only what is missing."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from anomaly_lightning.cli import PACKAGE

# Where things lie and how many threads fetch them has no say in what comes out.
PLACES = ("run_dir", "ckpt", "cache", "reuse", "logger", "callbacks")
REUSED_FILE = "reused.json"


def identity(config: Mapping[str, Any], fingerprint: str, weights_sha256: str) -> str:
    """Hex sha256 of all that decides a run's outcome.

    Args:
        config: The composed config as plain values.
        fingerprint: Of the dataset: roles, defects and every file's content.
        weights_sha256: Of the backbone's weights.
    """
    decisive = {key: value for key, value in config.items() if key not in PLACES}
    decisive["data"] = {k: v for k, v in config["data"].items() if k not in ("root", "workers", "manifest")}
    content = [decisive, fingerprint, weights_sha256, code_version()]
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def code_version() -> str:
    """Hex sha256 of the package's source files, so that a changed checkout never passes for the old one."""
    digest = hashlib.sha256()
    for file in sorted(PACKAGE.rglob("*.py")):
        digest.update(f"{file.relative_to(PACKAGE).as_posix()}\0".encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()


def find_finished(sweeps: Path, wanted: str) -> Path | None:
    """Folder of the latest finished run with this identity in `<sweeps>/<sweep>/<job>/`, None without one."""
    for file in sorted(sweeps.glob("*/*/run.json"), reverse=True):
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue  # a run that was cut off while it wrote
        if content.get("identity") == wanted and content.get("status") == "finished":
            return file.parent
    return None


def take_over(finished: Path, folder: Path) -> float | None:
    """Note in `folder` that another run stands for this one; returns that run's validation loss."""
    note = {"run": str(finished.resolve())}
    (folder / REUSED_FILE).write_text(json.dumps(note, indent=2), encoding="utf-8")
    loss = json.loads((finished / "run.json").read_text(encoding="utf-8"))["validation_loss"]
    return None if loss is None else float(loss)


def standing_for(folder: Path) -> Path:
    """The run that a job folder holds, or the one that it was taken over from."""
    note = folder / REUSED_FILE
    return Path(json.loads(note.read_text(encoding="utf-8"))["run"]) if note.is_file() else folder
