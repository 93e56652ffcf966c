"""Whether an image is one of the kind that a model was trained on, by simple statistics: the verdict INVALID.

A camera that is covered, blinded, out of focus, or pointed at another product gives images on which neither OK nor NG
means anything. The check knows no network: it compares brightness, contrast, texture, colours and size with those of
the normals. Texture is looked at on three scales and in two directions: a blur takes from the fine ones, a motion from
those along it, noise adds to them, another product has others. Less texture counts over the whole image, more of it
in its calmer half alone: noise is everywhere, a defect is not, and a defect must not be called INVALID.

Each measure has its own range: the median, and how far the normals reach to either side, at least 4 robust standard
deviations. An image's distance is that of its worst measure, 1 at the end of the range. The limit comes from
cross-fitting: each normal is measured against ranges that it had no part in, and the limit lies above the largest
distance so found, by a margin. For images drawn like the normals, the share that is refused is then at most about
1 / (n + 1): the conformal bound, without the margin.
"""

import os
import random
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from anomaly_lightning.errors import CheckpointError
from anomaly_lightning.runtime.appearance import TEXTURES, Statistics, image_statistics
from anomaly_lightning.runtime.card import ValidityCard
from anomaly_lightning.runtime.reading import read_image

Drawn = TypeVar("Drawn")

FEWEST = 8  # normals; below that no spread can be told
FOLDS = 10
MOST = 1000  # normals that are looked at; more would only cost time
MARGIN = 1.25  # the limit is so many times the largest distance of the normals
LEAST_LIMIT = 2.4  # and at least that: a camera drifts, and a large defect is no other product
LEAST_REACH = 4.0  # robust standard deviations that the normals reach to either side, at least

# Name of each measure, and the smallest standard deviation that is believed of it.
MEASURES = {
    "brightness": 3.0,
    "log_contrast": 0.06,
    "dark": 0.02,
    "bright": 0.02,
    "red_green": 2.0,
    "blue_yellow": 2.0,
    "log_aspect": 0.02,
    "log_height": 0.07,  # half the size is another setting of the camera: 4 * 0.07 * 2.4 < log(2)
    "colours": 0.02,
    **{f"log_{name}": 0.12 for name in TEXTURES},
    **{f"log_calm_{name}": 0.12 for name in TEXTURES},
}
_UPWARDS = ("dark", "bright", "colours", *(f"log_calm_{name}" for name in TEXTURES))
_DOWNWARDS = tuple(f"log_{name}" for name in TEXTURES)
# Texture that says nothing, in squared levels: what rounding makes, where there is less of it; what a sensor's noise of
# 3 grey levels makes (6 is the sum of the squared weights 1, -2, 1), where there is more.
_ROUNDING = 1.0
_SENSOR_NOISE = 6 * 3.0**2
WORDS = {
    ("brightness", -1): "too dark",
    ("brightness", 1): "overexposed",
    ("dark", 1): "too dark",
    ("bright", 1): "overexposed",
    ("log_contrast", -1): "no contrast",
    ("log_contrast", 1): "too much contrast",
    **{(name, -1): "blurred, or another product" for name in _DOWNWARDS},
    **{(f"log_calm_{name}", 1): "noisy, or another product" for name in TEXTURES},
    ("red_green", -1): "other colours",
    ("red_green", 1): "other colours",
    ("blue_yellow", -1): "other colours",
    ("blue_yellow", 1): "other colours",
    ("log_aspect", -1): "another aspect",
    ("log_aspect", 1): "another aspect",
    ("log_height", -1): "another size",
    ("log_height", 1): "another size",
    ("colours", 1): "other colours, or another product",
}
BLACK, WHITE = 0.98, 0.5  # shares of black or saturated pixels that name the reason by themselves


@dataclass(frozen=True)
class Validity:
    """What images of the training normals' kind look like.

    Attributes:
        middle: Median of each measure in `MEASURES`, in its order.
        below: How far the normals reach below it.
        above: How far the normals reach above it.
        histogram: Mean colour histogram, as `Statistics` has it.
        limit: Largest distance that is accepted.
        normals: How many normals it was fitted on.
    """

    middle: tuple[float, ...]
    below: tuple[float, ...]
    above: tuple[float, ...]
    histogram: tuple[float, ...]
    limit: float
    normals: int

    @classmethod
    def fit(cls, normals: Sequence[Statistics]) -> "Validity | None":
        """Fit on the statistics of N normals; None where there are fewer than 8."""
        if len(normals) < FEWEST:
            return None
        folds = np.arange(len(normals)) % min(FOLDS, len(normals))
        largest = 1.0
        for fold in range(folds.max() + 1):
            known = cls._of([s for s, f in zip(normals, folds, strict=True) if f != fold])
            held_out = [s for s, f in zip(normals, folds, strict=True) if f == fold]
            largest = max(largest, *(float(known.distances(s).max()) for s in held_out))
        return cls._of(normals, max(LEAST_LIMIT, MARGIN * largest))

    @classmethod
    def _of(cls, normals: Sequence[Statistics], limit: float = np.inf) -> "Validity":
        histogram = np.array([s.histogram for s in normals]).mean(0)
        values = np.stack([_measured(s, histogram) for s in normals])  # (N, F)
        middle = np.median(values, axis=0)
        spread = np.maximum(1.4826 * np.median(np.abs(values - middle), axis=0), list(MEASURES.values()))
        below = np.maximum(LEAST_REACH * spread, middle - values.min(0))
        above = np.maximum(LEAST_REACH * spread, values.max(0) - middle)
        return cls(_floats(middle), _floats(below), _floats(above), _floats(histogram), limit, len(normals))

    @property
    def false_rate(self) -> float:
        """Most of the good images, drawn like the normals, that are refused: 1 / (n + 1)."""
        return 1 / (self.normals + 1)

    def distances(self, statistics: Statistics) -> NDArray[np.float64]:
        """How far each measure lies from its median, (F,); 1 at the end of the normals' range."""
        return np.abs(self._signed(statistics))

    def reason(self, statistics: Statistics) -> str | None:
        """Why an image is not one of this kind; None where it is."""
        signed = self._signed(statistics)
        distances = np.abs(signed)
        if distances.max() <= self.limit:
            return None
        if statistics.dark >= BLACK and self.middle[_DARK] < BLACK:
            return "black"
        if statistics.bright >= WHITE and self.middle[_BRIGHT] < WHITE:
            return "overexposed"
        # Another size changes the texture too, so that it has the first word.
        worst = int(distances[_SIZES].argmax()) + _SIZES.start
        if distances[worst] <= self.limit:
            worst = int(distances.argmax())
        name = list(MEASURES)[worst]
        words = WORDS.get((name, int(np.sign(signed[worst]))), "far off the training images")
        if name in ("log_aspect", "log_height"):
            return f"{words}: {statistics.width}x{statistics.height}"
        return f"{words} ({distances[worst]:.1f} times the normals' range, limit {self.limit:.1f})"

    def card(self) -> ValidityCard:
        """What `from_card` takes."""
        ranges = (self.middle, self.below, self.above, self.histogram)
        return ValidityCard(tuple(MEASURES), *ranges, self.limit, self.normals)

    @classmethod
    def from_card(cls, card: ValidityCard) -> "Validity":
        """Make the check that a card describes.

        Raises:
            CheckpointError: It was written by another version, with other measures.
        """
        if card.measures != tuple(MEASURES):
            raise CheckpointError(
                f"The model's validity check measures {list(card.measures)}, this version {list(MEASURES)}; "
                "switch it off with validity=false, or train again."
            )
        return cls(card.middle, card.below, card.above, card.histogram, card.limit, card.normals)

    def _signed(self, statistics: Statistics) -> NDArray[np.float64]:
        """Signed distances (F,); some measures count to one side only."""
        offset = _measured(statistics, np.array(self.histogram)) - np.array(self.middle)
        signed = np.asarray(offset / np.where(offset < 0, np.array(self.below), np.array(self.above)))
        return np.clip(signed, _LOWEST, _HIGHEST)


def fit_validity(
    normals: Sequence[Path],
    seed: int = 0,
    white: int | None = None,
    known: Mapping[Path, Statistics] | None = None,
) -> Validity | None:
    """Fit on images of good parts, no more than 1000 of them, drawn by the seed; None with fewer than 8.

    Args:
        normals: The files.
        seed: Of the draw.
        white: Grey level that counts as white in images of 16 bits; None = 65535.
        known: Statistics of files that need not be read again.
    """
    there = known or {}

    def look(path: Path) -> Statistics:
        return there[path] if path in there else image_statistics(read_image(path, white=white))

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return Validity.fit(list(pool.map(look, drawn(normals, seed))))


def drawn(normals: Sequence[Drawn], seed: int) -> list[Drawn]:
    """Those of the normals that are looked at: all of them, or 1000, the same ones for the same seed."""
    return list(normals) if len(normals) <= MOST else random.Random(seed).sample(normals, MOST)


_DARK, _BRIGHT = (list(MEASURES).index(name) for name in ("dark", "bright"))
_SIZES = slice(list(MEASURES).index("log_aspect"), list(MEASURES).index("log_height") + 1)
_LOWEST = np.array([0.0 if name in _UPWARDS else -np.inf for name in MEASURES])
_HIGHEST = np.array([0.0 if name in _DOWNWARDS else np.inf for name in MEASURES])


def _measured(s: Statistics, histogram: NDArray[np.float64]) -> NDArray[np.float64]:
    """The measures of one image, (F,), in the order of `MEASURES`."""
    colours = np.sqrt(((np.sqrt(np.array(s.histogram)) - np.sqrt(histogram)) ** 2).sum() / 6)  # Hellinger, in [0, 1]
    texture = np.log(np.array(s.texture) + _ROUNDING)
    calm = np.log(np.array(s.calm) + _SENSOR_NOISE)
    return np.array(
        [
            s.brightness,
            np.log(s.contrast + 1),
            s.dark,
            s.bright,
            s.red_green,
            s.blue_yellow,
            np.log(s.width / s.height),
            np.log(s.height),
            colours,
            *texture,
            *calm,
        ],
        dtype=np.float64,
    )


def _floats(values: Any) -> tuple[float, ...]:
    return tuple(float(value) for value in values)
