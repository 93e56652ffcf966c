"""Which images `input` of predict names: a file, a folder or a glob, of which the last two take the same files."""

import glob
import logging
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from anomaly_lightning.errors import DataError
from anomaly_lightning.runtime.files import (
    IMAGE_SUFFIXES,
    images_in,
    is_image,
    left_out_of,
    natural_key,
    on_disk,
    why_left_out,
)
from anomaly_lightning.runtime.left_out import LeftOut, left_out_below

logger = logging.getLogger(__name__)

ANY_DEPTH = "**"


def find_images(pattern: str) -> tuple[list[Path], Path]:
    """Images that `input` names, in natural order, and the folder that their outputs' paths are relative to.

    A folder and a glob take the same files: those named like images, less hidden ones and the outputs of runs; how
    many were left out is logged. A glob may begin in a hidden folder, and a single file is taken whatever its name.

    Raises:
        DataError: Nothing is there, or no image is.
    """
    path = on_disk(Path(pattern).expanduser())
    if path.is_file():
        return [path], path.parent
    if path.is_dir():
        found = images_in(path, recursive=True)
        _tell(left_out_below([path]))
        if not found:
            raise DataError(f"input={pattern}: the folder holds no image ({', '.join(IMAGE_SUFFIXES)}).")
        return found, path
    if not glob.has_magic(str(path)):
        raise DataError(f"input={pattern}: there is no such image or folder.")
    base = Path(*_fixed(path.parts))
    return _matching(path, base), base


def _tell(groups: Sequence[LeftOut]) -> None:
    for group in groups:
        logger.warning("%s", group.words())


def _fixed(parts: Sequence[str]) -> Iterator[str]:
    """The parts of a glob before the first with a wildcard."""
    for part in parts:
        if glob.has_magic(part):
            return
        yield part


def _matching(pattern: Path, base: Path) -> list[Path]:
    """Images that a glob names, each once; raises `DataError` where none does."""
    data, others = list[Path](), dict[str, list[Path]]()
    for path, why in _named(pattern, base):
        if why is None:
            data.append(path)
        else:
            others.setdefault(why, []).append(path)
    _tell([LeftOut(why, tuple(sorted(paths, key=natural_key))) for why, paths in others.items()])
    # Links let one file match under several names: the shortest is taken.
    ways = {path.resolve(): path for path in sorted(data, key=lambda path: -len(path.parts))}
    if not ways:
        raise DataError(
            f"input={pattern}: there is no such image or folder, and as a glob it matches no image to decide on "
            f"({', '.join(IMAGE_SUFFIXES)})."
        )
    return sorted(ways.values(), key=natural_key)


def _named(pattern: Path, base: Path) -> Iterator[tuple[Path, str | None]]:
    """Images that match a glob, with why they are no data, None where they are.

    What `**` stands for is walked here, because Python's own glob runs in circles where links lead upwards.
    """
    parts = pattern.parts
    if ANY_DEPTH not in parts:
        found = (Path(name) for name in glob.iglob(str(pattern)))  # noqa: PTH207 - may be absolute
        yield from ((path, why_left_out(path, base)) for path in found if is_image(path) and path.is_file())
        return
    at = parts.index(ANY_DEPTH)
    for name in glob.iglob(str(Path(*parts[:at]))) if at else ["."]:  # noqa: PTH207 - may be absolute
        folder = Path(name)
        below = {path: why_left_out(path, base) for path in images_in(folder, recursive=True)}
        below |= {path: why for why, paths in left_out_of(folder).items() for path in paths}
        yield from (item for item in below.items() if fits(item[0].relative_to(folder).parts, parts[at:]))


def fits(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether a path matches a pattern, part by part; `**` stands for any number of parts, none included."""
    if not pattern:
        return not parts
    if pattern[0] == ANY_DEPTH:
        return fits(parts, pattern[1:]) or (bool(parts) and fits(parts[1:], pattern))
    return bool(parts) and fnmatchcase(parts[0], pattern[0]) and fits(parts[1:], pattern[1:])
