"""Parts at a fixed rate, as a belt brings them."""

import time

from anomaly_lightning.deploy.line.sources import Feed


class Pace:
    """Says when the next part is due.

    The clock does not wait for a line that is too slow, but stands still while the line holds its source up.

    Args:
        interval_s: Seconds between two parts; 0 = as fast as the line takes them.
        feed: Of the line.
    """

    def __init__(self, interval_s: float, feed: Feed) -> None:
        self.interval_s, self._feed, self._number = interval_s, feed, 0
        self._start = time.monotonic() - feed.held_s()

    def wait(self) -> float | None:
        """Wait until the next part is due; returns when it was, by the monotonic clock, or None: stopped."""
        if self._feed.stop.is_set():
            return None
        if not self.interval_s:
            return time.monotonic()
        due = self._start + self._feed.held_s() + self._number * self.interval_s
        self._number += 1
        return None if self._feed.stop.wait(max(0.0, due - time.monotonic())) else due
