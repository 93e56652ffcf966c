"""What a store's folder is called and what lies in it."""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path

SPEC, ROWS, INDEX = "spec.json", "rows.bin", "index.sqlite"
_NAME = re.compile("[0-9a-f]{20}")


def canonical(spec: Mapping[str, object], shape: tuple[int, int, int], dtype: str) -> str:
    """The one JSON text for what determines features besides the image; equal meanings give equal texts."""
    return json.dumps({"spec": dict(spec), "shape": list(shape), "dtype": dtype}, sort_keys=True, allow_nan=False)


def folder_name(spec: Mapping[str, object], shape: tuple[int, int, int], dtype: str) -> str:
    """Name of the store's folder: the start of the SHA-256 of `canonical`."""
    return hashlib.sha256(canonical(spec, shape, dtype).encode()).hexdigest()[:20]


def is_store(path: Path) -> bool:
    """Whether a path looks like a store's folder."""
    return _NAME.fullmatch(path.name) is not None and path.is_dir()


def remove_data(folder: Path) -> None:
    """Remove rows and index, the index first: rows without an index are harmless. Needs the exclusive lock."""
    for name in (INDEX, f"{INDEX}-journal", ROWS, "spec.tmp"):
        (folder / name).unlink(missing_ok=True)
