"""Which images `input` names, one after the other, and the file that they are listed in before the work begins.

The list is a Parquet file in the output folder, a row group for each part of the work: a worker reads the group that it
is given, so that neither it nor whoever gives the work holds all paths.
"""

import glob
import hashlib
import io
import logging
import os
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path, PurePosixPath

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import parquet

from anomaly_lightning.deploy.inputs import find_images, fits
from anomaly_lightning.deploy.scale.manifest import is_manifest, listed
from anomaly_lightning.deploy.scale.place import Place
from anomaly_lightning.errors import DataError
from anomaly_lightning.runtime.files import IMAGE_SUFFIXES, is_hidden, is_image, walked

logger = logging.getLogger(__name__)

# Bytes, for the names of files may be no UTF-8.
LISTING = pa.schema([pa.field("path", pa.binary(), nullable=False)])


def named(given: str) -> Iterator[str]:
    """Paths of the images that `input` names: an image, folder, glob or manifest, here or at an address.

    Local ones are absolute. What counts as an image of a folder is what `runtime.files` says.

    Raises:
        DataError: Nothing is there.
    """
    place = Place.at(given)
    if is_manifest(given) and place.exists():
        return listed(place)
    if place.local is None:
        return _remote(place)
    if place.local.is_dir():
        return _folder(place.local)
    return (os.path.abspath(path) for path in find_images(given)[0])  # noqa: PTH100 - links stay as they are


def write_listing(given: str, target: Place, size: int) -> int:
    """List the images of an input, `size` of them in each row group; returns how many there are.

    Raises:
        DataError: There is none, or one is listed twice.
    """
    paths, count, seen = named(given), 0, list[NDArray[np.uint64]]()
    stream = io.BytesIO()
    with parquet.ParquetWriter(stream, LISTING, compression="zstd") as writer:
        while some := [os.fsencode(path) for path in islice(paths, size)]:
            writer.write_table(pa.table([some], LISTING), row_group_size=size)
            seen.append(np.frombuffer(b"".join(map(_short, some)), np.uint64))
            count += len(some)
    if not count:
        raise DataError(f"input={given} names no image ({', '.join(IMAGE_SUFFIXES)}).")
    _refuse_doubles(given, np.concatenate(seen))
    target.write(stream.getvalue())
    return count


class Listing:
    """A list that `write_listing` wrote.

    Attributes:
        parts: Row groups, each the work of one part.
        images: Paths in all.
    """

    def __init__(self, place: Place) -> None:
        self._file = parquet.ParquetFile(place.system.open(place.path, "rb"))
        self.parts, self.images = self._file.num_row_groups, self._file.metadata.num_rows

    def part(self, number: int) -> list[str]:
        """Paths of one part of the work."""
        return [os.fsdecode(path) for path in self._file.read_row_group(number).column(0).to_pylist()]


def _folder(folder: Path) -> Iterator[str]:
    """Images at any depth of a local folder; how many were left out is logged at the end."""
    others = Counter[str]()
    for path, why in walked(Path(os.path.abspath(folder))):  # noqa: PTH100 - links stay as they are
        if why is None:
            yield str(path)
        else:
            others[why] += 1
    for why, count in others.items():
        logger.warning("%d file(s) left out (%s)", count, why)


def _remote(place: Place) -> Iterator[str]:
    """Images at an address: a file, a folder with all below, or a glob."""
    magic = glob.has_magic(place.path)
    if not magic and place.system.isfile(place.path):
        yield place.address
        return
    parts = PurePosixPath(place.path).parts
    fixed = next((at for at, part in enumerate(parts) if glob.has_magic(part)), len(parts))
    base, pattern = str(PurePosixPath(*parts[:fixed])), parts[fixed:]
    prefix = place.address[: len(place.address) - len(place.path)]
    for folder, folders, files in place.system.walk(base):
        folders[:] = sorted(name for name in folders if not is_hidden(name))
        for name in sorted(files):
            path = PurePosixPath(str(folder)) / name
            below = path.parts[fixed:]
            if is_image(Path(name)) and not is_hidden(name) and (not magic or fits(below, pattern)):
                yield f"{prefix}{path}"


def _short(path: bytes) -> bytes:
    return hashlib.blake2b(path, digest_size=8).digest()


def _refuse_doubles(given: str, seen: NDArray[np.uint64]) -> None:
    """Raise `DataError` where a path comes twice: its rows could not be told apart."""
    ordered = np.sort(seen)
    twice = ordered[1:][ordered[1:] == ordered[:-1]]
    if len(twice):
        path = next(path for path in named(given) if np.frombuffer(_short(os.fsencode(path)), np.uint64)[0] == twice[0])
        raise DataError(f"input={given} lists {len(twice)} path(s) twice, {path} for one. List each once.")
