"""Queues between the threads of a line, none of which waits for another that has ended."""

from queue import Full, Queue
from threading import Event
from typing import TypeVar

Item = TypeVar("Item")

LOOK_S = 0.05  # seconds between two looks at whether the line has ended


def put(queue: Queue[Item], item: Item, dead: Event) -> None:
    """Put something into a queue as soon as there is room, unless the line ends first."""
    while not dead.is_set():
        try:
            queue.put(item, timeout=LOOK_S)
            return
        except Full:
            continue
