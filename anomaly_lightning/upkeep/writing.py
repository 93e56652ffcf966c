"""Writing a version of a bundle: aside, on the disk, and only then under its name."""

import os
import shutil
import socket
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from anomaly_lightning import __version__
from anomaly_lightning.errors import BundleError
from anomaly_lightning.runtime.bundle import MANIFEST, read_bundle, sha256
from anomaly_lightning.runtime.card import ChangeCard, ModelCard
from anomaly_lightning.runtime.versions import family, resolve, sync_folder

PARTIAL = ".part"


def now() -> str:
    """The time, ISO 8601 in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def bundle_hash(folder: Path) -> str:
    """Hex sha256 of a bundle's bundle.json, which holds the hash of every other file."""
    return sha256((folder / MANIFEST).read_bytes())


def write_version(path: Path, change: ChangeCard, changed: Callable[[ModelCard], ModelCard]) -> Path:
    """Make a version of a bundle that differs in its card alone; returns its folder.

    Args:
        path: The bundle or version that it is made from; nothing of it is touched.
        change: What goes into the card's history.
        changed: From the card to the new one.

    Raises:
        BundleError: The bundle is not whole.
    """
    source = resolve(path)
    manifest = read_bundle(source).manifest
    card = changed(manifest.card)
    card = card.replace(history=(*card.history, change))
    made = msgspec.structs.replace(manifest, card=card, version=__version__)

    def fill(folder: Path) -> None:
        for name in manifest.files:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, folder / name)
        # The manifest comes last: without it the folder is no bundle.
        (folder / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(made), indent=2) + b"\n")
        read_bundle(folder)

    return publish(source, fill)


def publish(path: Path, fill: Callable[[Path], None]) -> Path:
    """Make the next version of a bundle out of what `fill` puts into an empty folder; returns its folder.

    All of it is on the disk before one rename gives it its name, and nothing is ever replaced: whoever makes a version
    at the same time gets the number after it. A process that is killed leaves a hidden folder, which the next one
    removes.

    Args:
        path: Any version of the bundle.
        fill: Writes the files.
    """
    base = family(path).base
    _clear_leftovers(base)
    making = base.with_name(f"{_prefix(base)}{os.getpid()}{PARTIAL}")
    making.mkdir()
    try:
        fill(making)
        sync_tree(making)
        return _named(base, making)
    finally:
        shutil.rmtree(making, ignore_errors=True)


def _named(base: Path, making: Path) -> Path:
    """Give a finished folder the next free number."""
    number = 1
    while True:
        known = family(base)
        number = max(number, known.highest) + 1
        target = known.folder(number)
        try:
            making.rename(target)  # which refuses a folder that is there, as no bundle is empty
        except OSError:
            if not target.exists():
                raise
            continue
        sync_folder(target.parent)
        return target


def sync_tree(folder: Path) -> None:
    """Bring every file and folder below a folder to the disk."""
    for path in (*folder.rglob("*"), folder):
        if path.is_dir():
            sync_folder(path)
            continue
        with path.open("rb+") as stream:
            os.fsync(stream.fileno())


def _prefix(base: Path) -> str:
    return f".{base.name}.{socket.gethostname()}."


def _clear_leftovers(base: Path) -> None:
    """Remove what killed processes of this machine left half written."""
    for path in base.parent.glob(f"{_escaped(_prefix(base))}*{PARTIAL}"):
        pid = path.name.removeprefix(_prefix(base)).removesuffix(PARTIAL)
        if pid.isdigit() and not _alive(int(pid)):
            shutil.rmtree(path, ignore_errors=True)


def _escaped(name: str) -> str:
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def bundle_folder(path: Path) -> Path:
    """The folder of the bundle that a user named; raises `BundleError` where it is none."""
    folder = resolve(path.expanduser())
    if not folder.is_dir():
        raise BundleError(
            f"bundle={path}: expected the folder of an exported bundle. python -m anomaly_lightning.export makes one "
            "of a checkpoint."
        )
    return folder
