"""The versions command: which versions of a bundle there are, and which one is the latest."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from anomaly_lightning.errors import BundleError, UserError
from anomaly_lightning.reports.console import wide
from anomaly_lightning.runtime.bundle import read_bundle, read_manifest
from anomaly_lightning.runtime.versions import Family, Pointer, family, write_pointer
from anomaly_lightning.upkeep.writing import bundle_hash, now

ACTIONS = ("list", "rollback")


def run(cfg: DictConfig) -> None:
    """Do what the config says.

    Raises:
        UserError: An option without a meaning.
        BundleError: There is no such bundle or version.
    """
    if cfg.action not in ACTIONS:
        raise UserError(f"action={cfg.action}: expected one of {', '.join(ACTIONS)}.")
    if (cfg.to is None) == (cfg.action == "rollback"):
        raise UserError("to=<version> goes with action=rollback, and that needs it: which version is to be the latest?")
    path, console = Path(cfg.bundle).expanduser(), Console()
    known = family(path)
    if not known.numbers:
        raise BundleError(f"bundle={cfg.bundle}: there is no such bundle. Expected a folder that export wrote.")
    if cfg.action == "rollback":
        known = roll_back(known, int(cfg.to), str(cfg.why or ""))
    wide(table(known))
    console.print(f"{known.base}@latest is version {known.latest}", highlight=False, soft_wrap=True, markup=False)


def roll_back(known: Family, number: int, why: str = "") -> Family:
    """Let `@latest` mean an earlier version again, or a later one after all; no version is touched or removed.

    Args:
        known: The versions.
        number: The one to go back to.
        why: In the user's words.

    Raises:
        BundleError: There is no such version, or it is not whole.
    """
    if number not in known.numbers:
        raise BundleError(f"to={number}: expected one of {', '.join(map(str, known.numbers))}.")
    read_bundle(known.folder(number))  # what is gone back to has to be whole
    change = {"at": now(), "from": known.latest, "to": number, "why": why}
    before = () if known.pointer is None else known.pointer.changes
    write_pointer(known.base, Pointer(number, known.highest, (*before, change)))
    return family(known.base)


def table(known: Family) -> Table:
    """A row a version."""
    drawn = Table(box=None, pad_edge=False)
    for name in ("version", "what", "from", "date", "normals", "threshold", "sha256", "why"):
        right, wraps = name in ("version", "normals", "threshold"), name == "why"
        drawn.add_column(name, justify="right" if right else "left", no_wrap=not wraps, overflow="fold")
    hashes = {bundle_hash(known.folder(number)): number for number in known.numbers}
    for number in known.numbers:
        mark = f"{number}{' *' if number == known.latest else ''}"
        drawn.add_row(mark, *_cells(known.folder(number), hashes))
    return drawn


def _cells(folder: Path, hashes: Mapping[str, int]) -> Sequence[str]:
    card, digest = read_manifest(folder).card, bundle_hash(folder)
    threshold = "" if card.thresholds is None else f"{card.thresholds.score:.4g}"
    if not card.history:
        return ("exported", "", "", "", threshold, digest[:12], "")
    last = card.history[-1]
    parent = str(last.details.get("bundle") or last.parent)  # of an update, whose other parent is a checkpoint
    beside = f"version {hashes[parent]}" if parent in hashes else f"{parent[:12]} (not here)"
    return (last.what, beside, last.date[:16], str(last.normals), threshold, digest[:12], last.why)
