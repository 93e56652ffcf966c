"""Files read ahead by threads, never more than a few at once, with the hash of their content."""

import hashlib
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from anomaly_lightning.deploy.scale.place import Place, is_address
from anomaly_lightning.errors import UserError
from anomaly_lightning.runtime.damage import ImageError
from anomaly_lightning.runtime.reading import open_file

MOST_BYTES = 2**31  # of one file; more than any image that is decoded takes


@dataclass(frozen=True)
class Fetched:
    """A file's content, or why it can't be had.

    Attributes:
        path: As it was listed.
        data: All bytes.
        content_hash: Hex sha256 of them; None where the file could not be read.
        error: Why it could not.
    """

    path: str
    data: bytes = b""
    content_hash: str | None = None
    error: str | None = None


def fetched(paths: Iterable[str], workers: int, ahead: int) -> Iterator[Fetched]:
    """Contents of files, in order.

    Args:
        paths: Local, or addresses.
        workers: Threads that read.
        ahead: Files that wait in memory at most.
    """
    waiting = iter(paths)
    with ThreadPoolExecutor(max(1, workers)) as pool:
        futures = deque(pool.submit(fetch, path) for path in islice(waiting, ahead))
        while futures:
            yield futures.popleft().result()
            futures.extend(pool.submit(fetch, path) for path in islice(waiting, 1))


def fetch(path: str) -> Fetched:
    """Content of one file."""
    try:
        data = _remote(path) if is_address(path) else _local(Path(path))
    except ImageError as error:
        return Fetched(path, error=error.reason)
    except (OSError, UserError) as error:
        return Fetched(path, error=f"can't be read: {error}")
    return Fetched(path, data, hashlib.sha256(data).hexdigest())


def _local(path: Path) -> bytes:
    with open_file(path) as stream:
        data = stream.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise ImageError(path, f"has more than {MOST_BYTES} bytes")
    return data


def _remote(address: str) -> bytes:
    place = Place.at(address)
    if (size := place.system.size(place.path)) is not None and size > MOST_BYTES:
        raise ImageError(Path(address), f"has {size} bytes, more than {MOST_BYTES}")
    data: bytes = place.system.cat_file(place.path)
    return data
