"""Where the time of one image goes, from file to verdict, for a checkpoint or a bundle; imports no torch."""

import os
import platform
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from anomaly_lightning.runtime.inspector import Inspector

STAGES = ("decode", "validity", "resize", "network", "post")
QUANTILES = (50, 95, 99)


class Stopwatch:
    """Milliseconds by stage, image after image.

    Attributes:
        images: For each image its stages, and "whole".
    """

    def __init__(self) -> None:
        self.images: list[dict[str, float]] = []
        self._now: dict[str, float] = defaultdict(float)

    def __call__(self, stage: str, work: Callable[[], Any]) -> Any:
        """Do a part of the present image's work; see `Inspector.timer`."""
        start = time.perf_counter()
        try:
            return work()
        finally:
            self._now[stage] += 1000 * (time.perf_counter() - start)

    def image(self, work: Callable[[], Any]) -> Any:
        """Do all of an image's work."""
        self._now = defaultdict(float)
        result = self("whole", work)
        self.images.append(dict(self._now))
        return result

    def summary(self) -> dict[str, dict[str, float]]:
        """p50, p95 and p99 of each stage, in milliseconds; "post" holds the verdict's mask and regions, too."""
        found = {}
        for stage in (*STAGES, "whole"):
            values = [image.get(stage, 0.0) for image in self.images]
            found[stage] = {f"p{q}_ms": float(np.percentile(values, q)) for q in QUANTILES}
        return found


def measure(inspector: Inspector, images: Sequence[Path], rounds: int, warmup: int) -> dict[str, dict[str, float]]:
    """Times of images that are inspected one by one, from file to verdict, mask and regions.

    Args:
        inspector: Its timer is taken for this.
        images: Files that take turns.
        rounds: Images that count.
        warmup: Images before them.
    """
    watch = Stopwatch()
    before, inspector.timer = inspector.timer, watch

    def look(path: Path) -> None:
        said = inspector(path)
        watch("post", lambda: (said.verdict, said.regions))

    try:
        for number in range(rounds + warmup):
            watch.image(lambda number=number: look(images[number % len(images)]))  # type: ignore[misc]
    finally:
        inspector.timer = before
    watch.images = watch.images[warmup:]
    return watch.summary()


def machine() -> dict[str, Any]:
    """What the times were taken on."""
    return {
        "platform": platform.platform(),
        "processor": _processor(),
        "cpus": os.cpu_count(),
        "load_average": [round(value, 2) for value in os.getloadavg()] if hasattr(os, "getloadavg") else None,
    }


def _processor() -> str:
    """Name of the processor, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
