"""The images beside a store: which are kept, what is drawn of them, and which go when there are too many bytes.

Below the store's folder `images` holds images as they came, byte for byte, and `views` what is drawn of them: a
small one and the heatmap. A crash while an image is written may leave files that no decision names.
"""

import logging
import secrets
from contextlib import suppress
from datetime import datetime
from io import BytesIO
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from anomaly_lightning.review.marks import as_text
from anomaly_lightning.review.store import ReviewStore
from anomaly_lightning.runtime.files import SUFFIXES, mark_cache
from anomaly_lightning.runtime.heatmap import TURBO, levels
from anomaly_lightning.runtime.inspection import Inspection
from anomaly_lightning.runtime.reading import FORMATS

logger = logging.getLogger(__name__)

Keep = Literal["all", "flagged", "none"]
KEEPS: dict[str, tuple[str, ...]] = {"all": ("NG", "REVIEW", "OK", "INVALID"), "flagged": ("NG", "REVIEW"), "none": ()}
View = Literal["small", "heatmap"]
VIEWS: dict[View, str] = {"small": ".small.jpg", "heatmap": ".heatmap.png"}
SMALL, LARGEST_HEATMAP = 320, 256  # pixels of the longer side; a heatmap is smooth, and looks the same enlarged
SPARE = 0.05  # share of the limit that is made free at once, so that not each new image deletes an old one


def view_of(image: str, view: View) -> Path:
    """Path of what is drawn of a kept image, relative to the store's folder as the image's is."""
    whole = Path(image)
    return Path("views", *whole.parts[1:-1], whole.name + VIEWS[view])


class ImageKeeper:
    """Writes and deletes the images of a store.

    Args:
        store: Whose folder they lie in.
        keep: Images of which verdicts: "all", "flagged" (NG and REVIEW) or "none".
        max_bytes: From so many bytes on the oldest images without a mark are deleted.
    """

    def __init__(self, store: ReviewStore, keep: Keep, max_bytes: int) -> None:
        self.store, self.keep, self.max_bytes, self.folder = store, keep, max_bytes, store.path.parent
        self.full = False
        self._delete(store.doomed())  # which a crash may have left

    def wants(self, verdict: str) -> bool:
        """Whether an image of such a verdict is kept."""
        return verdict in KEEPS[self.keep]

    def write(
        self, source: bytes | Image.Image | NDArray[np.uint8], said: Inspection, time: datetime
    ) -> tuple[str, int]:
        """Write an image and what is drawn of it.

        Args:
            source: A file's content, which is kept as it is; or an image or (H, W, 3) uint8, kept as PNG.
            said: What was said of it.
            time: When; it names the folder and begins the name.

        Returns:
            Path relative to the store's folder, and bytes on the disk.

        Raises:
            OSError: The disk does not take it; nothing of it stays.
        """
        data = source if isinstance(source, bytes) else _png(source)
        name = f"{time:%H%M%S}-{secrets.token_hex(6)}{_suffix(data)}"
        image = f"images/{time:%Y-%m-%d}/{name}"
        contents = {Path(image): data, view_of(image, "small"): _small(said), view_of(image, "heatmap"): _heatmap(said)}
        if not (self.folder / "views").is_dir():
            mark_cache(self.folder / "views")  # nobody's images
        try:
            for path, content in contents.items():
                whole = self.folder / path
                whole.parent.mkdir(parents=True, exist_ok=True)
                whole.write_bytes(content)
        except OSError:
            self.forget(image)
            raise
        return image, sum(map(len, contents.values()))

    def forget(self, image: str) -> None:
        """Delete an image and what is drawn of it, what is there of them."""
        for path in (Path(image), *(view_of(image, view) for view in VIEWS)):
            with suppress(OSError):
                (self.folder / path).unlink(missing_ok=True)

    def trim(self) -> int:
        """Delete the oldest images without a mark where all together are too large; returns how many went."""
        count = 0
        while self.store.kept().bytes > self.max_bytes:
            gone = self.store.give_up(int(self.max_bytes * (1 - SPARE)))
            if not gone:
                if self.store.kept().bytes > self.max_bytes:  # else another thread or process was first
                    self._say_full()
                    return count
                continue
            self._delete(self.store.doomed())
            count += len(gone)
            logger.warning(
                "kept images have reached their limit of %.1f MB: the oldest %d without a mark are deleted, %s to %s",
                self.max_bytes / 1e6, len(gone), as_text(gone[0].time), as_text(gone[-1].time),
            )  # fmt: skip
        self.full = False
        return count

    def _say_full(self) -> None:
        """Say, once, that marked images alone are above the limit: they are never deleted."""
        if not self.full:
            logger.error(
                "marked images alone have %.1f MB, above the limit of %.1f MB: no further one is kept. Raise keep_mb.",
                self.store.kept().bytes / 1e6, self.max_bytes / 1e6,
            )  # fmt: skip
        self.full = True

    def _delete(self, images: list[str]) -> None:
        for image in images:
            self.forget(image)
        self.store.deleted([image for image in images if not (self.folder / image).exists()])


def _png(source: Image.Image | NDArray[np.uint8]) -> bytes:
    stream = BytesIO()
    image = source if isinstance(source, Image.Image) else Image.fromarray(source)
    image.save(stream, "PNG", compress_level=1)
    return stream.getvalue()


def _suffix(data: bytes) -> str:
    """What files of this content are called."""
    with Image.open(BytesIO(data), formats=FORMATS) as image:
        return SUFFIXES.get(str(image.format), (".img",))[0]


def _small(said: Inspection) -> bytes:
    """JPEG for a list of many."""
    small, stream = said.image.copy(), BytesIO()
    small.thumbnail((SMALL, SMALL), reducing_gap=2)
    small.save(stream, "JPEG", quality=85)
    return stream.getvalue()


def _heatmap(said: Inspection) -> bytes:
    """PNG of the heatmap's colours, scaled down to where nothing is lost for the eye."""
    height, width = said.anomaly_map.shape
    share = min(1.0, LARGEST_HEATMAP / max(height, width))
    size = max(1, round(width * share)), max(1, round(height * share))
    values = np.asarray(Image.fromarray(said.anomaly_map).resize(size, Image.Resampling.BILINEAR))
    image, stream = Image.fromarray(levels(values, said.pixel_threshold), "P"), BytesIO()
    image.putpalette(TURBO.tobytes())
    image.save(stream, "PNG", compress_level=3)
    return stream.getvalue()
