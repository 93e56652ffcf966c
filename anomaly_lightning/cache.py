"""python -m anomaly_lightning.cache [action=show|clear|trim]: what the cache of features holds, and less of it."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from anomaly_lightning.cli import command
from anomaly_lightning.errors import CacheError
from anomaly_lightning.places import FEATURES

if TYPE_CHECKING:
    from anomaly_lightning.features.store import CacheEntry, Freed

ACTIONS = ("show", "clear", "trim")


@command("cache")
def main(cfg: DictConfig) -> None:
    """Show the cache, after clearing or trimming it where that was asked for."""
    if cfg.action not in ACTIONS:
        raise CacheError(f"Expected action to be one of {', '.join(ACTIONS)}; got {cfg.action!r}.")
    if cfg.folders is not None and cfg.action != "clear":
        raise CacheError(f"folders={list(cfg.folders)} goes with action=clear only; got action={cfg.action}.")
    from anomaly_lightning.features.store import cache_usage, clear, limit_bytes, trim  # imports torch: not before

    root, limit = Path(cfg.cache.dir) / FEATURES, limit_bytes(cfg.cache.max_gb)

    if cfg.action == "clear":
        _tell(clear(root, None if cfg.folders is None else list(cfg.folders)))
    elif cfg.action == "trim":
        _tell(trim(root, limit))
    _show(root, cache_usage(root), limit)


def _tell(freed: "Freed") -> None:
    from rich.console import Console

    console = Console()
    console.print(f"freed {_size(freed.bytes)}: the features of {freed.images} images", highlight=False)
    for folder in freed.in_use:
        console.print(f"left alone, because a process has it open: {folder.name}", style="yellow", highlight=False)


def _show(root: Path, entries: Sequence["CacheEntry"], limit: int) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("folder", no_wrap=True)
    for name in ("features of", "shape", "dtype", "images", "size", "last used"):
        table.add_column(name, justify="right" if name in {"images", "size"} else "left", overflow="fold")
    for entry in entries:
        shape = "x".join(map(str, entry.shape))
        used = datetime.fromtimestamp(entry.last_used).strftime("%Y-%m-%d %H:%M") if entry.images else "-"
        cells = (entry.folder.name, _summary(entry.spec), shape, entry.dtype, str(entry.images), _size(entry.bytes))
        table.add_row(*cells, used)
    console = Console()
    if entries:
        console.print(table)
    total = sum(entry.bytes for entry in entries)
    console.print(f"{_size(total)} of {_size(limit)} (cache.max_gb) in {root}", highlight=False, soft_wrap=True)


def _summary(spec: Mapping[str, object]) -> str:
    """The backbone's name, else the first words of what the features depend on."""
    named = [str(spec[name]) for name in ("backbone", "name", "architecture") if isinstance(spec.get(name), str)]
    return named[0] if named else ", ".join(f"{name}={value}" for name, value in spec.items())[:60]


def _size(size: int) -> str:
    """Bytes in the unit that leaves one to three digits before the point."""
    unit, name = next(((u, n) for u, n in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")) if size >= u), (1.0, "B"))
    return f"{size / unit:.4g} {name}"


if __name__ == "__main__":
    main()
