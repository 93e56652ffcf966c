"""Names of files and folders that are made of what others chose: none may lead out of the folder it is meant for."""

import os
import re
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from PIL import Image

LONGEST = 100  # characters of a name; most file systems end at 255 bytes


def folder_name(text: object) -> str:
    """Turn any text into one safe folder name, so that no config value can lead out of the outputs."""
    name = re.sub(r"[^\w.+-]+", "_", str(text))[:LONGEST].strip("._")
    return name or "unnamed"


def below(path: Path, base: Path) -> Path:
    """The part of a path below `base`, with neither `..` nor a root in it; its last part where it lies elsewhere."""
    whole, top = Path(os.path.normpath(path.absolute())), Path(os.path.normpath(base.absolute()))
    return whole.relative_to(top) if whole.is_relative_to(top) and whole != top else Path(whole.name)


def distinct(name: Path, taken: Collection[Path]) -> Path:
    """The name, with a number behind it where it is taken already."""
    candidate, number = name, 1
    while candidate in taken:
        number += 1
        candidate = name.with_name(f"{name.name}_{number}")
    return candidate


def save_image(image: Image.Image, target: Path) -> None:
    """Write an image as PNG, with the folders above it; a disk that is full leaves no half of it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        image.save(target)
    except OSError:
        with suppress(OSError):
            target.unlink(missing_ok=True)
        raise
