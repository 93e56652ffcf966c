"""source=rtsp, source=camera: frames as they are taken; those that a crash or a lost connection swallows are gone."""

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any

from anomaly_lightning.deploy.line.part import Part
from anomaly_lightning.deploy.line.sources import Feed, SourceLostError
from anomaly_lightning.deploy.line.sources.capturing import Frames, opencv
from anomaly_lightning.errors import UserError


class LiveSource(ABC):
    """Frames of a camera, with an id of their own each.

    Args:
        every_s: Seconds between two parts; 0 = each frame is a part, as with a camera that is triggered.
    """

    repeats = False

    def __init__(self, every_s: float) -> None:
        if every_s < 0:
            raise UserError(f"source.every_s={every_s}: expected seconds, 0 or more.")
        self.every_s = every_s
        opencv()

    @abstractmethod
    def open(self) -> Frames:
        """The camera, open; raises SourceLostError where it can't be had now."""

    def again(self, names: Mapping[str, Any]) -> bool:
        """Never: the frame was in memory alone."""
        return False

    def parts(self, feed: Feed) -> Iterator[Part]:
        """Frames that are due, the newest each; frames in between are grabbed, so that none of them is stale."""
        with self.open() as frames:
            due = time.monotonic()
            while not feed.stop.is_set():
                if not frames.grab():
                    raise SourceLostError(f"{frames.what} gives no more frames.")
                now = time.monotonic()
                if now < due:
                    continue
                due = max(due + self.every_s, now - self.every_s)
                image = frames.read()
                yield Part(feed.new_id(), image, now, error=None if image is not None else "the frame is damaged")


class RtspSource(LiveSource):
    """A camera in the network.

    Args:
        url: rtsp://..., or any other stream that FFmpeg reads.
        every_s: As above.
        timeout_s: Seconds without an answer or a frame after which the connection counts as lost.
    """

    def __init__(self, url: str, every_s: float, timeout_s: float) -> None:
        super().__init__(every_s)
        if timeout_s <= 0:
            raise UserError(f"source.timeout_s={timeout_s}: expected seconds above 0.")
        self.url, self.timeout_s = url, timeout_s

    def open(self) -> Frames:
        """The stream, open."""
        limit = int(self.timeout_s * 1000)
        return Frames(
            self.url, "CAP_FFMPEG", {"CAP_PROP_OPEN_TIMEOUT_MSEC": limit, "CAP_PROP_READ_TIMEOUT_MSEC": limit}
        )


class CameraSource(LiveSource):
    """A camera of this machine: Video4Linux, or what the system has.

    Args:
        device: Its number (0 is /dev/video0) or path.
        width: Of the frames in pixels; None = as the camera is.
        height: Likewise.
        fps: Frames a second; None = as the camera is.
        every_s: As above.
    """

    def __init__(self, device: int | str, width: int | None, height: int | None, fps: float | None, every_s: float):
        super().__init__(every_s)
        self.device = device
        asked = {"CAP_PROP_FRAME_WIDTH": width, "CAP_PROP_FRAME_HEIGHT": height, "CAP_PROP_FPS": fps}
        self.asked = {name: value for name, value in asked.items() if value is not None}

    def open(self) -> Frames:
        """The camera, open and as it was asked for; raises UserError where it refuses that."""
        frames = Frames(self.device, "CAP_ANY", {name: round(value) for name, value in self.asked.items()})
        for name, value in self.asked.items():
            if round(frames.get(name)) != round(value):
                found = frames.get(name)
                frames.__exit__()
                raise UserError(f"The camera {self.device} refuses {name}={value} and would give {found}.")
        return frames
