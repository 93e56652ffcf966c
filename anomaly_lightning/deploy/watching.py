"""predict watch=<folder>: images are scored as they arrive, whole files only, each once, across restarts too.

A file is taken when its size and time of change have stayed the same for `settle_s`, and it decodes to its end. One
that does not decode gets `patience_s` from its last change: a slow copy may go on; after that it gets an error line.
Its line is written after its heatmap and mask, so that a crash in between repeats an image and never loses one: the
line exists once, the images are the same again.
"""

import logging
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from anomaly_lightning.data.intake import left_out_below
from anomaly_lightning.deploy.journal import Identity, Journal, identity
from anomaly_lightning.errors import DataError, UserError
from anomaly_lightning.runtime.files import images_in
from anomaly_lightning.runtime.inspection import Inspection
from anomaly_lightning.runtime.inspector import Inspector

logger = logging.getLogger(__name__)

TEMPORARY = (".tmp", ".part", ".partial", ".crdownload", ".filepart", "~")


@dataclass(frozen=True)
class Seen:
    """A file that waits.

    Attributes:
        which: Its version.
        since: When it was first seen like this, by the monotonic clock, in seconds.
    """

    which: Identity
    since: float


class Watcher:
    """Scores what arrives in one folder until it is told to stop.

    Args:
        inspector: Of a calibrated model.
        folder: Looked at with all folders below.
        journal: Where the lines go.
        output: The folder of the outputs; where it lies below `folder`, what it holds is no input. Where it is `folder`
            itself, its heatmaps and masks are none (see `runtime.files`).
        poll_s: Seconds between two looks.
        settle_s: Seconds that a file must not change before it is read.
        patience_s: Seconds after its last change that a file which can't be read may yet become whole.
    """

    def __init__(
        self,
        inspector: Inspector,
        folder: Path,
        journal: Journal,
        output: Path,
        poll_s: float,
        settle_s: float,
        patience_s: float,
    ) -> None:
        if not folder.is_dir():
            raise UserError(f"watch={folder}: expected a folder that is there.")
        if min(poll_s, settle_s, patience_s) < 0:
            raise UserError("poll_s, settle_s and patience_s are seconds, 0 or more.")
        self.inspector, self.folder, self.journal, self.output = inspector, folder, journal, output
        self.poll_s, self.settle_s, self.patience_s = poll_s, settle_s, patience_s
        self.stop = threading.Event()
        self._waiting: dict[Path, Seen] = {}

    def results(self) -> Iterator[tuple[Path, Identity, Inspection | DataError]]:
        """Each image with what is said of it, or with why it can't be read, as they arrive; ends when stopped."""
        for group in left_out_below([self.folder]):
            logger.warning("%s", group.words())
        while not self.stop.is_set():
            for file, which in self._settled():
                result = self._score(file, which)
                if result is not None:
                    yield file, which, result
                if self.stop.is_set():
                    return
            self.stop.wait(self.poll_s)

    def _settled(self) -> list[tuple[Path, Identity]]:
        """New files that have not changed for a while, those that came first at the front."""
        now, ready = time.monotonic(), []
        waiting: dict[Path, Seen] = {}
        for file in images_in(self.folder, recursive=True):
            if file.stem.endswith(TEMPORARY) or (self.output != self.folder and file.is_relative_to(self.output)):
                continue
            which = identity(file, self.folder)
            if which is None or which in self.journal.done:
                continue
            before = self._waiting.get(file)
            waiting[file] = before if before is not None and before.which == which else Seen(which, now)
            if now - waiting[file].since >= self.settle_s:
                ready.append((file, which))
        self._waiting = waiting
        return sorted(ready, key=lambda item: item[1][2])

    def _score(self, file: Path, which: Identity) -> Inspection | DataError | None:
        """What is said of a file; None where it changed meanwhile, or may yet become whole."""
        try:
            said = self.inspector(file)
        except DataError as error:
            unchanged = identity(file, self.folder) == which
            patient = time.monotonic() - self._waiting[file].since < self.patience_s
            return error if unchanged and not patient else None
        return said if identity(file, self.folder) == which else None


@contextmanager
def stopping(event: threading.Event) -> Iterator[None]:
    """Let SIGINT and SIGTERM set the event instead of ending the process; a second one ends it."""

    def ask(number: int, frame: FrameType | None) -> None:
        if event.is_set():
            raise KeyboardInterrupt
        event.set()

    before: dict[int, Any] = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
