"""How long to wait before the next try: longer each time, and never all machines at once."""

import random


class Backoff:
    """Seconds to wait after each failure in a row.

    They double from `first_s` to `longest_s`; each is drawn from the upper half below that, so that lines which lost
    the same broker don't return in step ("equal jitter", M. Brooker, Exponential Backoff And Jitter, AWS 2015).

    Args:
        first_s: Upper end of the first wait.
        longest_s: Upper end of the last ones.
    """

    def __init__(self, first_s: float = 0.5, longest_s: float = 30.0) -> None:
        self.first_s, self.longest_s, self.failures = first_s, longest_s, 0

    def next(self) -> float:
        """Count a failure; returns seconds."""
        highest = min(self.longest_s, self.first_s * 2.0 ** min(self.failures, 32))
        self.failures += 1
        return random.uniform(highest / 2, highest)

    def reset(self) -> None:
        """Forget the failures: something worked."""
        self.failures = 0
