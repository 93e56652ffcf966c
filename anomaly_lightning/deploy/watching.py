"""Files that arrive in a folder: which are new, and whole as far as their size and time of change tell.

A file has settled when both have stayed the same for a while. Whether it decodes is for the reader to see: one that
does not may still be written to.
"""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from anomaly_lightning.runtime.files import images_in
from anomaly_lightning.runtime.signals import handled

TEMPORARY = (".tmp", ".part", ".partial", ".crdownload", ".filepart", "~")

Identity = tuple[str, int, int]  # path below the watched folder, bytes, time of the last change in ns


def identity(file: Path, folder: Path) -> Identity | None:
    """What tells this version of a file from any other; None where it is gone."""
    try:
        state = file.stat()
    except OSError:
        return None
    return str(file.relative_to(folder)), state.st_size, state.st_mtime_ns


@dataclass(frozen=True)
class Seen:
    """A file that waits.

    Attributes:
        which: Its version.
        since: When it was first seen like this, by the monotonic clock, in seconds.
    """

    which: Identity
    since: float


class Arrivals:
    """Looks at one folder, again and again.

    Args:
        folder: Looked at with all folders below.
        output: Where it lies below `folder`, what it holds is no input. Where it is `folder` itself, its heatmaps and
            masks are none (see `runtime.files`).
        done: Says which versions of files are done.
    """

    def __init__(self, folder: Path, output: Path, done: Callable[[Identity], bool]) -> None:
        self.folder, self.output, self.done = folder, output, done
        self._waiting: dict[Path, Seen] = {}

    def settled(self, settle_s: float) -> list[tuple[Path, Identity, float]]:
        """New files that have not changed for so many seconds, and since when, those that came first at the front."""
        now, ready = time.monotonic(), []
        waiting: dict[Path, Seen] = {}
        for file in images_in(self.folder, recursive=True):
            if file.stem.endswith(TEMPORARY) or (self.output != self.folder and file.is_relative_to(self.output)):
                continue
            which = identity(file, self.folder)
            if which is None or self.done(which):
                continue
            before = self._waiting.get(file)
            waiting[file] = before if before is not None and before.which == which else Seen(which, now)
            if now - waiting[file].since >= settle_s:
                ready.append((file, which, waiting[file].since))
        self._waiting = waiting
        return sorted(ready, key=lambda item: item[1][2])


@contextmanager
def stopping(event: threading.Event) -> Iterator[None]:
    """Let SIGINT and SIGTERM set the event instead of ending the process; a second one ends it."""

    def ask(number: int, frame: FrameType | None) -> None:
        if event.is_set():
            raise KeyboardInterrupt
        event.set()

    with handled({signal.SIGINT: ask, signal.SIGTERM: ask}):
        yield
