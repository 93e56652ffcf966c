"""The cache command: clears or trims the cache of features, and prints what it holds."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from anomaly_lightning.data.hashes import HASHES
from anomaly_lightning.errors import CacheError
from anomaly_lightning.features.cache_files import cache_errors
from anomaly_lightning.features.housekeeping import CacheEntry, Freed, cache_usage, clear, limit_bytes, trim
from anomaly_lightning.places import FEATURES

ACTIONS = ("show", "clear", "trim")
_PLAIN: dict[str, Any] = {"highlight": False, "soft_wrap": True, "markup": False}  # for what names a path


def run(cfg: DictConfig) -> None:
    """Do what the config says.

    Raises:
        CacheError: The options don't fit together, or a folder can't be read or removed.
    """
    if cfg.action not in ACTIONS:
        raise CacheError(f"Expected action to be one of {', '.join(ACTIONS)}; got {cfg.action!r}.")
    if cfg.folders is not None and cfg.action != "clear":
        raise CacheError(f"folders={list(cfg.folders)} goes with action=clear only; got action={cfg.action}.")
    root, limit, console = Path(cfg.cache.dir) / FEATURES, limit_bytes(cfg.cache.max_gb), Console()
    freed: Freed | None = None
    hashes = Path(cfg.cache.dir) / HASHES
    if cfg.action == "clear" and cfg.folders is None:
        with cache_errors(hashes.parent):
            hashes.unlink(missing_ok=True)
    if cfg.action == "clear":
        freed = clear(root, None if cfg.folders is None else list(cfg.folders))
    elif cfg.action == "trim":
        freed = trim(root, limit)
    if freed is not None:
        console.print(f"freed {_size(freed.bytes)}: the features of {freed.images} images", highlight=False)
    entries = cache_usage(root)
    if entries:
        console.print(_table(entries))
    if hashes.is_file():
        console.print(f"{_size(hashes.stat().st_size)} of hashes of images in {hashes}", **_PLAIN)
    total = sum(entry.bytes for entry in entries)
    console.print(f"{_size(total)} of {_size(limit)} (cache.max_gb) in {root}", **_PLAIN)


def _table(entries: Sequence[CacheEntry]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("folder", no_wrap=True)
    for name in ("features of", "shape", "dtype", "images", "size", "last used"):
        table.add_column(name, justify="right" if name in {"images", "size"} else "left", overflow="fold")
    for entry in entries:
        shape = "x".join(map(str, entry.shape))
        used = datetime.fromtimestamp(entry.last_used).strftime("%Y-%m-%d %H:%M") if entry.images else "-"
        cells = (entry.folder.name, _summary(entry.spec), shape, entry.dtype, str(entry.images), _size(entry.bytes))
        table.add_row(*cells, used)
    return table


def _summary(spec: Mapping[str, object]) -> str:
    """The backbone's name, else the first words of what the features depend on."""
    named = spec.get("backbone")
    return named if isinstance(named, str) else ", ".join(f"{name}={value}" for name, value in spec.items())[:60]


def _size(size: int) -> str:
    """Bytes in the unit that leaves one to three digits before the point."""
    unit, name = next(((u, n) for u, n in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")) if size >= u), (1.0, "B"))
    return f"{size / unit:.4g} {name}"
