"""From an inspection to a recorded decision, with its image where that is kept."""

import hashlib
import math
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from anomaly_lightning.errors import ReviewError
from anomaly_lightning.review.keeping import ImageKeeper
from anomaly_lightning.review.records import NewDecision
from anomaly_lightning.runtime.inspection import Inspection
from anomaly_lightning.runtime.regions import DefectRegion

MOST_REGIONS, MOST_CORNERS = 50, 400  # of a decision, and of a region: of a longer outline each n-th corner is kept
LONGEST = 500  # characters of a name

Source = bytes | Image.Image | NDArray[np.uint8]


class Recorder:
    """Records decisions. May be called from any thread.

    Args:
        keeper: Keeps their images, in its store's folder.
    """

    def __init__(self, keeper: ImageKeeper) -> None:
        self.keeper, self.store = keeper, keeper.store

    def __call__(
        self, model: str, model_id: str, name: str, source: Source, said: Inspection, bundle_version: str | None = None
    ) -> int:
        """Record a decision; returns its number once the disk has it.

        Args:
            model: Name of the model that decided.
            model_id: Its id.
            name: Of the image, as its sender called it.
            source: A file's content; or an RGB image or (H, W, 3) uint8.
            said: What the model says.
            bundle_version: Of the model's bundle.

        Raises:
            ReviewError: It can't be written; nothing of it was kept.
        """
        now = datetime.now(UTC)
        known = decided(said) | {"model": model, "model_id": model_id, "bundle_version": bundle_version, "time": now}
        known |= {"name": printable(name), "content": content_of(source)}
        if self.keeper.full:
            self.keeper.trim()
        if not self.keeper.wants(said.verdict) or self.keeper.full:
            return self.store.record(NewDecision(**known))
        return self._with_image(known, source, said, now)

    def _with_image(self, known: dict[str, Any], source: Source, said: Inspection, now: datetime) -> int:
        try:
            image, size = self.keeper.write(source, said, now)
        except OSError as error:
            raise ReviewError(f"{self.keeper.folder}: an image can't be kept: {error}.") from error
        try:
            number = self.store.record(NewDecision(**known, image=image, image_bytes=size))
        except ReviewError:
            self.keeper.forget(image)
            raise
        self.keeper.trim()
        return number


def decided(said: Inspection) -> dict[str, Any]:
    """What an inspection says, as a `NewDecision` has it."""
    return {
        "score": said.score if math.isfinite(said.score) else None,
        "threshold": said.threshold,
        "pixel_threshold": said.pixel_threshold,
        "review": said.review,
        "verdict": said.verdict,
        "reason": said.reason,
        "width": said.image.width,
        "height": said.image.height,
        "regions": [_region(region) for region in said.regions[:MOST_REGIONS]],
        "region_count": len(said.regions),
    }


def content_of(source: Source) -> str:
    """Hex sha256 of a file's content, or of an image's pixels."""
    data = source if isinstance(source, bytes) else np.ascontiguousarray(np.asarray(source)).tobytes()
    return hashlib.sha256(data).hexdigest()


def printable(name: str) -> str:
    """A file's name as text that can be stored: what is no text of its system stands as an escape."""
    return name.encode("utf-8", "backslashreplace").decode()[-LONGEST:] or "image"


def _region(region: DefectRegion) -> dict[str, Any]:
    every = -(-len(region.contour) // MOST_CORNERS)
    contour = [list(point) for point in region.contour[::every]]
    peak = region.peak if math.isfinite(region.peak) else None
    return {"box": list(region.box), "area": region.area, "peak": peak, "contour": contour}
