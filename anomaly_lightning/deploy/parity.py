"""Whether an exported model says what its checkpoint says: on real images, through all that an inspector does."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from anomaly_lightning.bench.timing import Rounds
from anomaly_lightning.errors import DataError, ExportError
from anomaly_lightning.runtime.inspection import Inspection
from anomaly_lightning.runtime.inspector import Inspector
from anomaly_lightning.runtime.reading import read_image

# Largest relative difference that counts as equal; int8 is judged by what it costs instead.
TOLERANCE = {"fp32": 1e-4, "fp16": 2e-2}
# OpenVINO fuses steps that round features, and was met 1.3e-4 away from torch in float32.
OPENVINO = 5e-4
# Half a step of what features are rounded to. A difference in the seventh digit, as two thread counts of torch have it,
# becomes a whole step wherever it crosses the border between two; single values of a map can't be told apart by less.
ROUNDING = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
CUT = 4  # images that are cut to a narrower shape where all are square
SHOWN = 20
ROUNDS, WARMUP = 20, 3
TINY = 1e-12


@dataclass
class Parity:
    """What a comparison found.

    Attributes:
        images: How many were compared.
        sizes: (H, W) of each.
        score: Largest relative difference of a score, and the image that has it.
        map: The same of a map in the image's own pixels: largest difference over the map's largest value, or over the
            pixel threshold where that is larger. A good part's map may be zero everywhere.
        flips: Images whose verdict differs, with both verdicts.
        mask_pixels: Share of the pixels whose place in the mask differs.
        unreadable: Images that could not be read, with the reason.
        scores: Of the checkpoint and of the exported model, by image.
    """

    images: int = 0
    sizes: set[tuple[int, int]] = field(default_factory=set)
    score: tuple[float, str] = (0.0, "")
    map: tuple[float, str] = (0.0, "")
    flips: dict[str, list[str]] = field(default_factory=dict)
    mask_pixels: float = 0.0
    unreadable: dict[str, str] = field(default_factory=dict)
    scores: dict[str, tuple[float, float]] = field(default_factory=dict)

    def add(self, name: str, ours: Inspection, theirs: Inspection) -> None:
        """Compare what checkpoint and exported model say of one image.

        Raises:
            ExportError: One of them gives a number that is not finite.
        """
        scores, maps = (ours.score, theirs.score), (ours.anomaly_map, theirs.anomaly_map)
        if not (np.isfinite(scores).all() and all(np.isfinite(values).all() for values in maps)):
            raise ExportError(f"{name}: the checkpoint scores {scores[0]}, the exported model {scores[1]}: not finite.")
        score = abs(scores[1] - scores[0]) / max(abs(scores[0]), TINY)
        peak = max(float(np.abs(maps[0]).max()), ours.pixel_threshold, TINY)
        self.score = max(self.score, (score, name))
        self.map = max(self.map, (float(np.abs(maps[1] - maps[0]).max()) / peak, name))
        if ours.verdict != theirs.verdict:
            self.flips[name] = [ours.verdict, theirs.verdict]
        share = float((ours.mask != theirs.mask).mean())
        self.mask_pixels = (self.mask_pixels * self.images + share) / (self.images + 1)
        self.images += 1
        self.sizes.add((maps[0].shape[0], maps[0].shape[1]))
        self.scores[name] = scores

    def block(self) -> dict[str, Any]:
        """What parity.json says of it."""
        return {
            "images": self.images,
            "sizes": [list(size) for size in sorted(self.sizes)[:SHOWN]],
            "score": dict(zip(("largest_relative_difference", "image"), self.score, strict=True)),
            "map": dict(zip(("largest_relative_difference", "image"), self.map, strict=True)),
            "decisions": {"differ": len(self.flips), "images": dict(list(self.flips.items())[:SHOWN])},
            "mask_pixels_differ": self.mask_pixels,
            "unreadable": dict(list(self.unreadable.items())[:SHOWN]),
        }

    def check(self, precision: str, dtype: str = "float32", format: str = "onnx") -> None:
        """Raise `ExportError` where the exported model is not equal within `tolerances`."""
        found, limits = {"score": self.score, "map": self.map}, tolerances(precision, dtype, format)
        wrong = [
            f"the {what} of {image} differs by {value:.2g} (at most {limits[what]:.2g})"
            for what, (value, image) in found.items()
            if value > limits[what]
        ]
        if self.flips:
            name, (ours, theirs) = next(iter(self.flips.items()))
            wrong.append(f"{len(self.flips)} decisions differ, the first is {name}: {ours} became {theirs}")
        if wrong:
            raise ExportError(
                f"The exported model ({precision}) is not equal to the checkpoint on {self.images} images: "
                f"{'; '.join(wrong)}. Nothing was kept."
            )


def tolerances(precision: str, dtype: str, format: str = "onnx") -> dict[str, float]:
    """Largest relative difference of "score" and "map" that counts as equal.

    Args:
        precision: "fp32" or "fp16".
        dtype: What the model rounds features to, on both sides.
        format: "onnx" or "openvino".
    """
    tolerance = max(TOLERANCE[precision], OPENVINO if format == "openvino" else 0.0)
    return {"score": tolerance, "map": max(tolerance, ROUNDING[dtype])}


def compare(ours: Inspector, theirs: Inspector, images: Sequence[Path]) -> Parity:
    """Hold an exported model against its checkpoint, image by image.

    Where all images are square a swap of height and width would not show: some are shown again, cut to three quarters
    of their width, unless a region says which shape images have.

    Raises:
        ExportError: No image can be read, or a number is not finite.
    """
    found = Parity()
    for path, one, other in zip(images, ours.stream(images), theirs.stream(images), strict=True):
        if isinstance(one, DataError) or isinstance(other, DataError):
            found.unreadable[str(path)] = str(one if isinstance(one, DataError) else other)
            continue
        found.add(str(path), one, other)
    if not found.images:
        raise ExportError(f"None of {len(images)} images can be read, so that nothing can be compared.")
    if ours.card.region is None and all(height == width for height, width in found.sizes):
        for path in [Path(name) for name in found.scores][:CUT]:
            image = _cut(read_image(path, white=ours.transform.white))
            found.add(f"{path}, cut to {image.width}x{image.height}", ours(image), theirs(image))
    return found


def _cut(image: Image.Image) -> Image.Image:
    return image.crop((0, 0, max(1, image.width * 3 // 4), image.height))


def latency(ours: Inspector, theirs: Inspector, images: Sequence[Path]) -> dict[str, Any]:
    """Milliseconds of the network alone, batch 1, for both in turn: {"torch": {...}, "exported": {...}}."""
    planes = [_planes(ours, path) for path in images[:ROUNDS]]
    rounds = Rounds(WARMUP)
    for number in range(ROUNDS + WARMUP):
        batch = planes[number % len(planes)][None]
        for name, inspector in (("torch", ours), ("exported", theirs)):
            rounds.time(name, lambda inspector=inspector, batch=batch: inspector.engine.run(batch))  # type: ignore[misc]
    return rounds.summary("torch")


def _planes(inspector: Inspector, path: Path) -> NDArray[np.float32]:
    return inspector.transform(read_image(path, white=inspector.transform.white))
