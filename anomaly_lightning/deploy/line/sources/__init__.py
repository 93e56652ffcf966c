"""Where parts come from. A source is any class with these two methods; conf/source/*.yaml names it as `_target_`."""

import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

from PIL import Image

from anomaly_lightning.deploy.line.part import Part
from anomaly_lightning.errors import UserError


class SourceLostError(UserError):
    """What a source reads from is gone for now: the line waits, longer each time, and asks for `parts` again."""


@dataclass
class Feed:
    """What a line tells its source.

    Attributes:
        stop: Set when no more parts are wanted; a source looks at it at least every few seconds.
        decode: Reads an image file as the model wants it: RGB. Raises DataError.
        known: Whether a part of this id has its line, or is on its way to it; only for sources that repeat.
        output: The line's own outputs, which are no input.
        held_s: Seconds for which the line has held its source up (behind=hold).
        session: Of this process: distinct from that of all others.
    """

    stop: threading.Event
    decode: Callable[[Path], Image.Image]
    known: Callable[[str], bool]
    output: Path
    held_s: Callable[[], float] = lambda: 0.0
    session: str = field(default_factory=lambda: f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid4().hex[:8]}")
    _numbers: Iterator[int] = field(default_factory=lambda: count(1))

    def new_id(self) -> str:
        """An id for a part that can't be had again."""
        return f"{self.session}-{next(self._numbers):07d}"


class Source(Protocol):
    """Gives parts, one at a time.

    Attributes:
        repeats: Whether it gives a part again after a crash, under the same id, until `Feed.known` says that it is
            known: files do, a camera does not.
    """

    repeats: bool

    def parts(self, feed: Feed) -> Iterator[Part]:
        """The parts as they come, until there are no more or `feed.stop` is set.

        The line takes the next one when it wants it, in one thread. Called again after a `SourceLostError`.

        Raises:
            SourceLostError: What it reads from is gone for now.
            UserError: It can't work as it is set up; the line stops.
        """

    def again(self, names: Mapping[str, Any]) -> bool:
        """Whether a part that was open when the last process ended will be given again.

        Args:
            names: Its `Part.names`, as they were read back.
        """
