"""source=video: the frames of a video file; they can be had again, so a restart goes on where it was."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from anomaly_lightning.deploy.line.part import Part, stable_id
from anomaly_lightning.deploy.line.sources import Feed, SourceLostError
from anomaly_lightning.deploy.line.sources.capturing import Frames, opencv
from anomaly_lightning.deploy.line.sources.folder import is_there, names_of
from anomaly_lightning.deploy.line.sources.pace import Pace
from anomaly_lightning.deploy.watching import identity
from anomaly_lightning.errors import UserError


class VideoSource:
    """Every n-th frame of a video file; ends after the last.

    Args:
        file: Anything that FFmpeg reads.
        every: A part is each frame whose number is a multiple of this.
        real_time: Give frames at the rate at which they were recorded; false = as fast as the line takes them.
    """

    repeats = True

    def __init__(self, file: str | Path, every: int, real_time: bool) -> None:
        self.file = Path(file).expanduser().absolute()
        if not self.file.is_file():
            raise UserError(f"source.file={file}: expected a video file that is there.")
        if every < 1:
            raise UserError(f"source.every={every}: expected a number of frames, 1 or more.")
        self.every, self.real_time = every, real_time
        opencv()

    def again(self, names: Mapping[str, Any]) -> bool:
        """Whether the file is there as it was, and that frame is still asked for."""
        return is_there(self.file.parent, names) and names.get("frame", 0) % self.every == 0

    def parts(self, feed: Feed) -> Iterator[Part]:
        """Each chosen frame that has no line."""
        which = identity(self.file, self.file.parent)
        try:
            frames = Frames(str(self.file), "CAP_FFMPEG")
        except SourceLostError as error:
            raise UserError(str(error)) from error
        if which is None:
            raise UserError(f"{self.file} is not there any more.")
        with frames:
            yield from self._frames(feed, frames, which)

    def _frames(self, feed: Feed, frames: Frames, which: tuple[str, int, int]) -> Iterator[Part]:
        rate = frames.get("CAP_PROP_FPS")
        pace = Pace(self.every / rate if self.real_time and rate > 0 else 0.0, feed)
        number = -1
        while frames.grab():
            number += 1
            if number % self.every or feed.known(part_id := stable_id(which[0], *which, number)):
                continue
            taken = pace.wait()
            if taken is None:
                return
            image = frames.read()
            names = {**names_of(self.file, which), "frame": number}
            yield Part(part_id, image, taken, names, None if image is not None else "the frame is damaged")
