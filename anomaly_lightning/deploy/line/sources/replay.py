"""source=replay: a folder's images at a fixed rate, as if they came from a belt; for tests of a line."""

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from anomaly_lightning.deploy.line.part import Part, stable_id
from anomaly_lightning.deploy.line.sources import Feed
from anomaly_lightning.deploy.line.sources.folder import is_there, names_of
from anomaly_lightning.deploy.line.sources.pace import Pace
from anomaly_lightning.deploy.watching import identity
from anomaly_lightning.errors import DataError, UserError
from anomaly_lightning.runtime.files import images_in
from anomaly_lightning.runtime.left_out import left_out_below

logger = logging.getLogger(__name__)


class ReplaySource:
    """Images of a folder in natural order, those without a line alone; ends after the last.

    A part is taken when it is due, whether or not the line is ready for it: decoding counts into its latency.

    Args:
        folder: With all folders below.
        per_minute: Parts a minute; null = as fast as the line takes them.
        rounds: How often the folder is gone through.
    """

    repeats = True

    def __init__(self, folder: str | Path, per_minute: float | None, rounds: int) -> None:
        self.folder = Path(folder).expanduser().absolute()
        self.images = images_in(self.folder, recursive=True)
        for group in left_out_below([self.folder]):
            logger.warning("%s", group.words())
        if not self.images:
            raise UserError(f"source.folder={folder}: expected a folder with images in it.")
        if rounds < 1 or (per_minute is not None and per_minute <= 0):
            raise UserError("source.rounds has to be 1 or more, and source.per_minute above 0, or null.")
        self.interval_s, self.rounds = 60 / per_minute if per_minute else 0.0, rounds

    def again(self, names: Mapping[str, Any]) -> bool:
        """Whether the file is there as it was, and that round is still asked for."""
        return is_there(self.folder, names) and names.get("round", 0) <= self.rounds

    def parts(self, feed: Feed) -> Iterator[Part]:
        """Each image of each round that has no line."""
        pace = Pace(self.interval_s, feed)
        for number in range(1, self.rounds + 1):
            for file in self.images:
                which = identity(file, self.folder)
                if which is None or feed.known(part_id := stable_id(which[0], *which, number)):
                    continue
                taken = pace.wait()
                if taken is None:
                    return
                image, error = self._read(feed, file)
                yield Part(part_id, image, taken, {**names_of(file, which), "round": number}, error)

    def _read(self, feed: Feed, file: Path) -> tuple[Image.Image | None, str | None]:
        """The image, or why there is none."""
        try:
            return feed.decode(file), None
        except DataError as error:
            return None, str(error)
