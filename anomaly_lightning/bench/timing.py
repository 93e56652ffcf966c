"""Times of pieces of work that take turns, so that whatever else the machine does meets all of them alike."""

import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

Durations = dict[str, list[tuple[float, float]]]


class Rounds:
    """Times named pieces of work, round after round.

    Args:
        warmup: Rounds at the beginning that are left out.

    Attributes:
        durations: For each name one (wall, cpu) a round, in seconds; cpu is the sum over this process's threads.
    """

    def __init__(self, warmup: int) -> None:
        self.warmup = warmup
        self.durations: Durations = {}

    def time(self, name: str, work: Callable[[], Any]) -> Any:
        """Do the work, note how long it took, and return what it returned."""
        wall, cpu = time.perf_counter(), time.process_time()
        result = work()
        spent = time.perf_counter() - wall, time.process_time() - cpu
        self.durations.setdefault(name, []).append(spent)
        return result

    def summary(self, base: str, images: int = 1) -> dict[str, dict[str, float]]:
        """Times and ratios of each name.

        Args:
            base: Name of the work that the others are compared with.
            images: Images a round; the milliseconds are those of one image.

        Returns:
            For each name `p50_ms`, `p95_ms`, `p99_ms` (wall, an image), `ratio` (median over the rounds of its wall
            time over that of `base` in the same round), `cpu_ratio` (of the sums of CPU time).
        """
        counted = {name: np.array(spent[self.warmup :]) for name, spent in self.durations.items()}
        return {name: _ratios(spent, counted[base], images) for name, spent in counted.items()}


def _ratios(spent: np.ndarray, base: np.ndarray, images: int) -> dict[str, float]:
    """Times and ratios of (rounds, 2) seconds of wall and CPU time."""
    p50, p95, p99 = np.percentile(1000 * spent[:, 0] / images, (50, 95, 99))
    return {
        "p50_ms": float(p50),
        "p95_ms": float(p95),
        "p99_ms": float(p99),
        "ratio": float(np.median(spent[:, 0] / base[:, 0])),
        "cpu_ratio": float(spent[:, 1].sum() / max(base[:, 1].sum(), 1e-9)),
    }


def cycle(items: list[Any], size: int, rounds: int) -> Iterable[list[Any]]:
    """For each round the next `size` items, from the start again where they run out."""
    for number in range(rounds):
        yield [items[(number * size + at) % len(items)] for at in range(size)]
