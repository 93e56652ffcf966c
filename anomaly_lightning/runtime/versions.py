"""Versions of a bundle: folders beside it, each whole and never changed, and which of them `@latest` is.

    line-3          version 1: the bundle as it was exported
    line-3@2        the next version, a bundle like any other
    line-3@latest   a small JSON file, there only where somebody rolled back: which version is the current one

A version comes to be by one rename, so that it is there whole or not at all, and a path names it without any of this:
`bundle=line-3@2`. `@1` is the folder itself, `@latest` the highest version, unless a rollback said otherwise; a version
that is made after a rollback is the latest again.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from anomaly_lightning.errors import BundleError

LATEST = "latest"
_VERSION = re.compile(r"(?P<name>.+)@(?P<version>[1-9]\d*|latest)")


class Pointer(msgspec.Struct, frozen=True):
    """Content of `<bundle>@latest`.

    Attributes:
        version: The current one.
        known: Highest version when this was written; a higher one is newer than the rollback, and the latest.
        changes: Every rollback so far: when (`at`), `from`, `to` and `why`.
    """

    version: int
    known: int
    changes: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True)
class Family:
    """A bundle and its versions.

    Attributes:
        base: Folder of version 1.
        numbers: Versions that are there, rising.
        pointer: What the last rollback left; None without one.
    """

    base: Path
    numbers: tuple[int, ...]
    pointer: Pointer | None

    @property
    def highest(self) -> int:
        """The highest version; 1 where none is there."""
        return max(self.numbers, default=1)

    @property
    def latest(self) -> int:
        """The current version."""
        known = self.pointer
        return known.version if known is not None and known.known >= self.highest else self.highest

    def folder(self, number: int) -> Path:
        """Where a version lies, or would."""
        return self.base if number == 1 else self.base.with_name(f"{self.base.name}@{number}")


def base_of(path: Path) -> Path:
    """Folder of version 1 of the bundle that a path names a version of."""
    found = _VERSION.fullmatch(path.name)
    return path if found is None else path.with_name(found["name"])


def family(path: Path) -> Family:
    """The versions of the bundle that a path names, whichever of them it is.

    Raises:
        BundleError: Its pointer is damaged.
    """
    base = base_of(path)
    beside = base.parent.iterdir() if base.parent.is_dir() else iter(())
    found = {match["version"] for each in beside if (match := _numbered(each, base)) and each.is_dir()}
    numbers = {int(version) for version in found} | ({1} if base.is_dir() else set())
    return Family(base, tuple(sorted(numbers)), _pointer(pointer_file(base)))


def resolve(path: Path) -> Path:
    """The folder that `<bundle>@<version>` or `<bundle>@latest` means; any other path as it is.

    Raises:
        BundleError: There is no such version.
    """
    match = _VERSION.fullmatch(path.name)
    if match is None or (path.is_dir() and match["version"] != LATEST):
        return path
    known = family(path)
    number = known.latest if match["version"] == LATEST else int(match["version"])
    if number not in known.numbers:
        there = ", ".join(map(str, known.numbers)) or "none"
        raise BundleError(f"{path}: there is no version {number} of {known.base}; there: {there}.")
    return known.folder(number)


def pointer_file(base: Path) -> Path:
    """Where a rollback is kept."""
    return base.with_name(f"{base.name}@{LATEST}")


def write_pointer(base: Path, pointer: Pointer) -> None:
    """Write it whole or not at all, on the disk when this returns."""
    target = pointer_file(base)
    partial = target.with_name(f".{target.name}.{os.getpid()}.part")
    with partial.open("wb") as stream:
        stream.write(msgspec.json.format(msgspec.json.encode(pointer), indent=2))
        stream.flush()
        os.fsync(stream.fileno())
    partial.replace(target)
    sync_folder(target.parent)


def sync_folder(folder: Path) -> None:
    """Bring what was renamed in a folder to the disk, where the system can do that."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _numbered(path: Path, base: Path) -> re.Match[str] | None:
    match = _VERSION.fullmatch(path.name)
    return match if match and match["name"] == base.name and match["version"] not in (LATEST, "1") else None


def _pointer(file: Path) -> Pointer | None:
    try:
        return msgspec.json.decode(file.read_bytes(), type=Pointer)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        raise BundleError(
            f"{file} is damaged: {error}. Name a version (@1, @2, ...), or remove the file: then the highest is the "
            "latest."
        ) from error
