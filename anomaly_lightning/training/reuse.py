"""Recognises a finished run by its content, so that a sweep that was cut off does only what is missing."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from anomaly_lightning.errors import UsedFolderError
from anomaly_lightning.places import PACKAGE
from anomaly_lightning.reports.run_folder import FAILURE_FILE
from anomaly_lightning.reports.used_folder import clear

# Where things lie, and who looks on, has no say in what comes out; all else in the config has.
PLACES = ("run_dir", "overwrite", "reuse", "logger")
# The images themselves stand in the dataset's fingerprint, wherever they lie and however many threads fetch them.
DATA_PLACES = ("root", "workers", "manifest", "normal", "normal_test", "abnormal", "masks")
# The weights themselves stand in their sha256, whichever name or file they came by.
BACKBONE_PLACES = ("weights", "pretrained")
REUSED_FILE = "reused.json"


def identity(
    config: Mapping[str, Any],
    backbone: Mapping[str, Any],
    fingerprint: str,
    weights_sha256: str,
    versions: Mapping[str, str | None],
) -> str:
    """Hex sha256 of all that decides a run's outcome.

    Args:
        config: The composed config as plain values.
        backbone: What the config's backbone was resolved to.
        fingerprint: Of the dataset: roles, defects and every file's content.
        weights_sha256: Of the backbone's weights.
        versions: Of Python and the packages that compute.
    """
    decisive = _without(config, PLACES)
    decisive["data"] = _without(config["data"], DATA_PLACES)
    decisive["backbone"] = _without(backbone, BACKBONE_PLACES)
    # Features from a store are rounded to its dtype; whether it lies on disk or in memory changes nothing.
    decisive["cache"] = None if config["cache"]["mode"] == "off" else config["cache"]["dtype"]
    # A trial of a search that was not pruned ended as it would have without one.
    decisive["callbacks"] = _without(config["callbacks"], ("pruning",))
    # Callbacks can decide (early stopping) or write files; they name the run's own folder, which is a place.
    settled = _replace(decisive, str(config["run_dir"]), "<run_dir>")
    content = [settled, fingerprint, weights_sha256, dict(versions), code_version()]
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def _without(block: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {key: value for key, value in block.items() if key not in names}


def _replace(value: Any, old: str, new: str) -> Any:
    """The value with a text replaced in every string of it."""
    if isinstance(value, Mapping):
        return {key: _replace(child, old, new) for key, child in value.items()}
    if isinstance(value, (list, tuple)):
        return [_replace(child, old, new) for child in value]
    return value.replace(old, new) if isinstance(value, str) else value


def code_version(package: Path = PACKAGE) -> str:
    """Hex sha256 of the package's source files, so that a changed checkout never passes for the old one."""
    digest = hashlib.sha256()
    for file in sorted(package.rglob("*.py")):
        content = file.read_bytes()
        digest.update(f"{file.relative_to(package).as_posix()}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


def find_finished(sweeps: Path, wanted: str) -> Path | None:
    """Folder of the latest finished run with this identity in `<sweeps>/<sweep>/<job>/`, None without one."""
    for file in sorted(sweeps.glob("*/*/run.json"), reverse=True):
        if _finished(file.parent) == wanted:
            return file.parent
    return None


def _finished(folder: Path) -> str | None:
    """Identity of the finished run in a folder; None where none is, or its metrics are gone."""
    try:
        content = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    whole = (folder / "metrics.json").is_file() and not (folder / FAILURE_FILE).exists()
    return content.get("identity") if whole and content.get("status") == "finished" else None


def make_room(folder: Path, overwrite: bool) -> None:
    """Clear the folder of a sweep's job, which is but a number: what was cut off there may have been another job.

    Raises:
        UsedFolderError: A finished run lies there, another one than this job is to do, and `overwrite` is not set.
    """
    if _finished(folder) is not None and not overwrite:
        raise UsedFolderError(
            f"{folder} holds another finished run. Give the sweep a folder of its own (hydra.sweep.dir=<folder>), or "
            "clear what is in the way with overwrite=true."
        )
    clear(folder, "train", keep=(".hydra", "run.log"))  # which are this job's own by now


def forget(folder: Path) -> None:
    """Remove what a run that goes on in its own folder said of its outcome, so that it can't pass for the new one."""
    for name in ("run.json", "metrics.json", "predictions.csv"):
        (folder / name).unlink(missing_ok=True)


def take_over(finished: Path, folder: Path) -> float | None:
    """Note in `folder` that another run stands for this one; returns that run's validation loss."""
    if finished.resolve() != folder.resolve():
        # Relative, so that the outputs can be moved as a whole.
        note = {"run": Path(os.path.relpath(finished.resolve(), folder.resolve())).as_posix()}
        (folder / REUSED_FILE).write_text(json.dumps(note, indent=2) + "\n", encoding="utf-8")
    loss = json.loads((finished / "run.json").read_text(encoding="utf-8"))["validation_loss"]
    return None if loss is None else float(loss)


def standing_for(folder: Path) -> Path:
    """The run that a job folder holds, or the one that it was taken over from; that one may be gone by now."""
    note = folder / REUSED_FILE
    if not note.is_file():
        return folder
    return Path(os.path.normpath(folder / json.loads(note.read_text(encoding="utf-8"))["run"]))
