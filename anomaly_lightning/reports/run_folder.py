"""Names and JSON files of a run's folder; imports nothing heavy, so that a command can use it before it starts."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from anomaly_lightning.errors import UserError

FAILURE_FILE = "error.json"  # left by a job of a sweep that failed: the names for its row, and the reason


def write_text(path: Path, text: str) -> Path:
    """Write a text file whole or not at all; returns its path."""
    partial = path.with_name(f"{path.name}.part")
    # The name of an image may hold bytes that are no text: they are written as question marks.
    partial.write_text(text, encoding="utf-8", errors="replace", newline="")
    partial.replace(path)
    return path


def write_failure(folder: Path, names: Mapping[str, str], reason: str) -> Path:
    """Note in the folder of a sweep's job why it has no metrics; returns the note's path.

    Args:
        folder: Made where it is not there.
        names: category, model, backbone and seed of its row.
        reason: In words.
    """
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"names": dict(names), "error": reason}, indent=2) + "\n"
    return write_text(folder / FAILURE_FILE, text)


def read_json(path: Path) -> dict[str, Any]:
    """Content of a JSON file that holds an object; {} where there is none, or it is broken."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def read_run_file(folder: Path, name: str) -> dict[str, Any]:
    """Content of a JSON file that every finished run has.

    Raises:
        UserError: There is no such file, or it is broken.
    """
    content = read_json(folder / name)
    if not content:
        raise UserError(f"Expected the folder of a finished run, with a whole {name}; there is none in {folder}.")
    return content
