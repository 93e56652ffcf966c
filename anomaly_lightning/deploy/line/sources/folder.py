"""source=folder: images as they arrive in a folder, whole files only, each version of each file once."""

import logging
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from anomaly_lightning.deploy.line.part import Part, stable_id
from anomaly_lightning.deploy.line.sources import Feed, SourceLostError
from anomaly_lightning.deploy.watching import Arrivals, Identity, identity
from anomaly_lightning.errors import DataError, UserError
from anomaly_lightning.runtime.left_out import left_out_below

logger = logging.getLogger(__name__)


def names_of(file: Path, which: Identity) -> dict[str, Any]:
    """What a line says of a file."""
    name, size, changed = which
    return {"path": str(file), "name": name, "bytes": size, "mtime_ns": changed}


def is_there(folder: Path, names: Mapping[str, Any]) -> bool:
    """Whether the version of a file that a line names is still there."""
    which = (names.get("name"), names.get("bytes"), names.get("mtime_ns"))
    return isinstance(which[0], str) and identity(folder / which[0], folder) == which


class FolderSource:
    """Images that arrive in one folder, those that came first at the front.

    Args:
        folder: Looked at with all folders below; its images stay where they are.
        poll_s: Seconds between two looks.
        settle_s: Seconds that a file must not change before it is read.
        patience_s: Seconds after its last change that a file which can't be read may yet become whole.
    """

    repeats = True

    def __init__(self, folder: str | Path, poll_s: float, settle_s: float, patience_s: float) -> None:
        self.folder = Path(folder).expanduser().absolute()
        if not self.folder.is_dir():
            raise UserError(f"{folder}: expected a folder that is there, whose images are to be watched for.")
        if min(poll_s, settle_s, patience_s) < 0:
            raise UserError("poll_s, settle_s and patience_s are seconds, 0 or more.")
        self.poll_s, self.settle_s, self.patience_s = poll_s, settle_s, patience_s

    def again(self, names: Mapping[str, Any]) -> bool:
        """Whether the file is there as it was."""
        return is_there(self.folder, names)

    def parts(self, feed: Feed) -> Iterator[Part]:
        """Each image when it is whole; one that stays broken as a part with an error."""
        for group in left_out_below([self.folder]):
            logger.warning("%s", group.words())
        arrivals = Arrivals(self.folder, feed.output, lambda which: feed.known(stable_id(which[0], *which)))
        while not feed.stop.is_set():
            if not self.folder.is_dir():
                raise SourceLostError(f"{self.folder} is not there any more.")
            for file, which, since in arrivals.settled(self.settle_s):
                part = self._part(feed, file, which, since)
                if part is not None:
                    yield part
                if feed.stop.is_set():
                    return
            feed.stop.wait(self.poll_s)

    def _part(self, feed: Feed, file: Path, which: Identity, since: float) -> Part | None:
        """A file as a part; None where it changed meanwhile, or may yet become whole."""
        taken, image, error = time.monotonic(), None, None
        try:
            image = feed.decode(file)
        except DataError as damage:
            error = str(damage)
        if identity(file, self.folder) != which:
            return None
        if error is not None and time.monotonic() - since < self.patience_s:
            return None
        # With its suffix: a.png and a.jpg may come hours apart, and neither may overwrite the other's images.
        return Part(stable_id(which[0], *which), image, taken, names_of(file, which), error, file=which[0])
