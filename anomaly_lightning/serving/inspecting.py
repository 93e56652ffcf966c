"""What a worker does with one image: decode, inspect, draw. All that costs time is here, behind the queue."""

import base64
import io
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from anomaly_lightning.runtime.heatmap import heatmap
from anomaly_lightning.runtime.inspection import Inspection
from anomaly_lightning.runtime.reading import read_bytes
from anomaly_lightning.serving.models import Model

Note = Callable[[Model, str, bytes | NDArray[np.uint8], Inspection], int | None]
Drawing = Literal["none", "overlay", "colors"]
FAST = 1  # zlib's level: a third of the default's time for a few more bytes


@dataclass(frozen=True)
class Wish:
    """What an answer holds beside verdict, score and regions.

    Attributes:
        heatmap: "overlay", the image with its map on it; "colors", the map alone.
        raw_map: The anomaly map itself.
        contours: The outlines of the regions.
        regions: Most regions that are listed, those with the largest peaks.
    """

    heatmap: Drawing = "none"
    raw_map: bool = False
    contours: bool = False
    regions: int = 100


@dataclass(frozen=True)
class Inspected:
    """An inspection, how long its parts took, in seconds, and its number in the store; None = it was not recorded."""

    said: Inspection
    seconds: dict[str, float] = field(default_factory=dict)
    decision: int | None = None


@dataclass
class Stopwatch:
    """Seconds between calls of `lap`, by name."""

    last: float = field(default_factory=time.perf_counter)
    seconds: dict[str, float] = field(default_factory=dict)

    def lap(self, name: str) -> None:
        """Note what has passed since the call before."""
        now = time.perf_counter()
        self.seconds[name], self.last = now - self.last, now


def job(
    model: Model,
    name: str,
    source: bytes | NDArray[np.uint8],
    max_pixels: int,
    finish: Callable[[Inspection], Any],
    note: Note | None,
) -> Callable[[], tuple[Inspected, Any]]:
    """Work on one image for a worker; the time until it begins counts as `queue`.

    Args:
        model: Inspects it.
        name: What errors call it.
        source: A file's content, or (H, W, 3) uint8 in RGB order.
        max_pixels: Limit on the pixels of a file.
        finish: Makes what is asked for of the inspection; its result comes back, too.
        note: Records the decision, before anybody is told; None = it is not recorded.
    """
    watch = Stopwatch()

    def work() -> tuple[Inspected, Any]:
        watch.lap("queue")
        white = model.inspector.transform.white
        image = read_bytes(source, name, max_pixels, white) if isinstance(source, bytes) else source
        watch.lap("decode")
        said = model.inspector(image)
        watch.lap("inspect")
        finished = finish(said)
        watch.lap("draw")
        number = None if note is None else note(model, name, source, said)
        if note is not None:
            watch.lap("keep")
        return Inspected(said, watch.seconds, number), finished

    return work


def as_json(said: Inspection, wish: Wish) -> dict[str, Any]:
    """What an answer says of one image, as plain JSON values; a score that is no number is null."""
    regions = said.regions[: wish.regions]
    answer: dict[str, Any] = {
        "verdict": said.verdict,
        "score": number(said.score),
        "threshold": said.threshold,
        "pixel_threshold": said.pixel_threshold,
        "review": said.review,
        "reason": said.reason,
        "width": said.image.width,
        "height": said.image.height,
        "region_count": len(said.regions),
        "regions": [{"box": list(r.box), "area": r.area, "peak": number(r.peak)} for r in regions],
    }
    if wish.contours:
        for entry, region in zip(answer["regions"], regions, strict=True):
            entry["contour"] = [list(point) for point in region.contour]
    if wish.heatmap != "none":
        answer["heatmap"] = base64.b64encode(drawn(said, wish.heatmap)).decode()
    if wish.raw_map:
        answer["map"] = base64.b64encode(raw(said)).decode()
    return answer


def drawn(said: Inspection, kind: Drawing) -> bytes:
    """PNG of the heatmap, in the image's own pixels."""
    values = said.heatmap() if kind == "overlay" else heatmap(said.anomaly_map, said.pixel_threshold)
    return as_png(Image.fromarray(values))


def as_png(image: Image.Image) -> bytes:
    """An image as a PNG file, quickly."""
    stream = io.BytesIO()
    image.save(stream, "PNG", compress_level=FAST)
    return stream.getvalue()


def raw(said: Inspection) -> bytes:
    """The anomaly map as a .npy file: (H, W) float32."""
    stream = io.BytesIO()
    np.save(stream, said.anomaly_map)
    return stream.getvalue()


def number(value: float) -> float | None:
    """A number that JSON knows: None for NaN and infinities."""
    return value if math.isfinite(value) else None
