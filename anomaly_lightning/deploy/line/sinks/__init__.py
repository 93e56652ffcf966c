"""Where lines go. A sink is a subclass of `Sink`; conf/sink/*.yaml names it as `_target_`."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


class DeliveryError(Exception):
    """A message was not delivered, as far as is known; it is tried again."""


class RefusedError(DeliveryError):
    """The receiver will never take this message, however often it is tried."""


@dataclass(frozen=True)
class Message:
    """One line of the journal.

    Attributes:
        row: What it says.
        body: The line itself, ASCII JSON, without its newline.
    """

    row: Mapping[str, Any]
    body: bytes

    @property
    def id(self) -> str:
        """Id of the part; a receiver that has it already has this message."""
        return str(self.row["id"])


class Sink(ABC):
    """Gets every line at least once, in order. All but `beat` are called in one thread of its own."""

    @abstractmethod
    def deliver(self, message: Message) -> None:
        """Deliver a message; returns when the receiver has confirmed that it has it.

        Raises:
            RefusedError: It never will; the line is put aside.
            DeliveryError: It did not; the message is tried again.
        """

    def keep(self) -> None:  # noqa: B027 - most sinks hold no connection
        """Called about once a second where nothing is to be delivered: see to the connection; raises DeliveryError."""

    def beat(self, body: bytes) -> None:  # noqa: B027
        """Hand on a heartbeat (ASCII JSON) without waiting, or forget it. Called from another thread."""

    def close(self) -> None:  # noqa: B027
        """Called once, at the end."""
