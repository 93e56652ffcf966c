"""A trained model for use in code: images in, verdicts, scores and maps in the images' own pixels out. No torch."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from anomaly_lightning.errors import DataError, NotCalibratedError, UserError
from anomaly_lightning.runtime.appearance import Statistics, image_statistics
from anomaly_lightning.runtime.bundle import Bundle
from anomaly_lightning.runtime.card import ModelCard
from anomaly_lightning.runtime.engines import Engine, bundle_engine, load_engine
from anomaly_lightning.runtime.inspection import Inspection
from anomaly_lightning.runtime.masks import span
from anomaly_lightning.runtime.reading import Encoded, Source, as_image
from anomaly_lightning.runtime.region import Region
from anomaly_lightning.runtime.tiles import Box, Tiling, crop
from anomaly_lightning.runtime.transform import ImageTransform
from anomaly_lightning.runtime.validity import Validity

Timer = Callable[[str, Callable[[], Any]], Any]
BATCH = 8  # images, or tiles, that go through the engine at once


def _untimed(_: str, work: Callable[[], Any]) -> Any:
    return work()


def _called(source: Source) -> str | Path:
    """What an error calls an image."""
    if isinstance(source, Encoded):
        return source.name
    return source if isinstance(source, str | Path) else "the image"


@dataclass(frozen=True)
class _Seen:
    """An image before the engine: RGB, the network's input (3, h, w) (None with tiles), why INVALID, its looks."""

    image: Image.Image
    planes: NDArray[np.float32] | None
    reason: str | None
    looks: Statistics | None


class Inspector:
    """Inspects images with a trained model.

    Args:
        card: What the model is.
        engine: What computes its maps and scores.
        validity: Whether to call images of another kind INVALID, where the card knows how.

    Attributes:
        timer: Called with the name of a stage ("decode", "validity", "resize", "network", "post") and its work, which
            it does and whose result it returns; for a benchmark to look at the clock.

    Raises:
        NotCalibratedError: The model has no threshold.
    """

    def __init__(self, card: ModelCard, engine: Engine, validity: bool = True) -> None:
        if card.thresholds is None:
            raise NotCalibratedError
        self.card, self.engine, self.thresholds = card, engine, card.thresholds
        self.transform = ImageTransform.from_card(card.transform)
        self._region = None if card.region is None else Region.from_card(card.region)
        self._tiling = None if card.tiling is None else Tiling.from_card(card.tiling)
        self._validity = Validity.from_card(card.validity) if validity and card.validity is not None else None
        self.timer: Timer = _untimed

    @classmethod
    def load(
        cls,
        path: str | Path,
        device: str = "auto",
        trust: Sequence[str] = (),
        validity: bool = True,
        threads: int | None = None,
        compile: bool = False,
    ) -> "Inspector":
        """Inspector of a trained model.

        Args:
            path: A run's best.ckpt, or the folder of an exported bundle, which needs no torch.
            device: "auto" (a GPU where there is one); of a checkpoint what torch calls a device, of a bundle "cpu",
                "cuda", "tensorrt" or "openvino".
            trust: Further packages whose detectors may be created from what a checkpoint says.
            validity: As above.
            threads: For one forward on the CPU; None = $OMP_NUM_THREADS, else one a core.
            compile: Whether torch compiles a checkpoint's model first: a minute, a C++ compiler, then faster.

        Raises:
            CheckpointError: The checkpoint or bundle can't be used; the message says why. Nothing of it was executed.
            NotCalibratedError: Its run has not come to the calibration.
            UserError: There is no such device or compiler, or the framework that reads the file is not installed.
        """
        return cls(*load_engine(Path(path), device, trust, threads, compile), validity)

    @classmethod
    def of_bundle(
        cls, bundle: Bundle, device: str = "auto", validity: bool = True, threads: int | None = None
    ) -> "Inspector":
        """Inspector of a bundle that was read; arguments and errors as those of `load`."""
        return cls(bundle.manifest.card, bundle_engine(bundle, device, threads), validity)

    @overload
    def __call__(self, source: Source) -> Inspection: ...
    @overload
    def __call__(self, source: list[Any] | tuple[Any, ...]) -> list[Inspection]: ...
    def __call__(self, source: Source | list[Any] | tuple[Any, ...]) -> Inspection | list[Inspection]:
        """What is said of an image, or of each of a list.

        Args:
            source: A path; a PIL image of any mode, as `Image.open` gives it; an array (H, W, 3) uint8 in RGB order; or
                a list of these.

        Raises:
            DataError: An image can't be read, or does not fit the model's region.
            UserError: It is none of these; the message says what it has to become.
        """
        if not isinstance(source, list | tuple):
            return self._inspect([self._look(source)])[0]
        found = []
        for said in self.stream(source):
            if isinstance(said, DataError):
                raise said
            found.append(said)
        return found

    def stream(
        self, sources: Iterable[Source], batch_size: int = BATCH, workers: int = 2
    ) -> Iterator[Inspection | DataError]:
        """What is said of each image, or why it can't be read, in order; decoding overlaps with scoring.

        Args:
            sources: As above, read ahead by one batch.
            batch_size: Images that are scored at once; with tiles it is one image, whose tiles make the batches.
            workers: Threads that decode.

        Raises:
            UserError: Nothing would ever be scored.
        """
        if batch_size < 1:
            raise UserError(f"batch_size={batch_size}: expected a number of images, 1 or more.")
        waiting, size = iter(sources), 1 if self._tiling else batch_size
        with ThreadPoolExecutor(max(1, workers)) as pool:
            ahead = [pool.submit(self._try, source) for source in islice(waiting, size)]
            while ahead:
                seen = [future.result() for future in ahead]
                ahead = [pool.submit(self._try, source) for source in islice(waiting, size)]
                said = iter(self._inspect([item for item in seen if isinstance(item, _Seen)]))
                yield from (next(said) if isinstance(item, _Seen) else item for item in seen)

    def _try(self, source: Source) -> _Seen | DataError:
        try:
            return self._look(source)
        except DataError as error:
            return error

    def _look(self, source: Source) -> _Seen:
        """All that can be said of an image before the engine."""
        image = self.timer("decode", lambda: as_image(source, self.transform.white))
        if self._region is not None:
            self._region.check((image.height, image.width), _called(source))
        reason, looks = self.timer("validity", lambda: self._judged(image))
        return _Seen(image, self._resized(image) if self._tiling is None else None, reason, looks)

    def _judged(self, image: Image.Image) -> tuple[str | None, Statistics | None]:
        """Why an image is INVALID, None where it is not; and the statistics that say so."""
        if self._validity is None:
            return None, None
        looks = image_statistics(image)
        return self._validity.reason(looks), looks

    def _resized(self, image: Image.Image) -> NDArray[np.float32]:
        planes: NDArray[np.float32] = self.timer("resize", lambda: self.transform(image))
        return planes

    def _run(self, planes: Sequence[NDArray[np.float32]]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Maps (B, H, W) and scores (B,) of what `_resized` gave."""
        maps, scores = self.timer("network", lambda: self.engine.run(np.stack(planes)))
        return maps, scores

    def _inspect(self, seen: Sequence[_Seen]) -> list[Inspection]:
        if self._tiling is not None:
            return [self._tiled(item, self._tiling) for item in seen]
        planes = [item.planes for item in seen if item.planes is not None]
        if not planes:
            return []
        maps, scores = self._run(planes)
        return [self._said(*each) for each in zip(seen, scores.tolist(), maps, strict=True)]

    def _said(self, seen: _Seen, score: float, values: NDArray[np.float32]) -> Inspection:
        """What follows from a score and a map (h, w) over the network's input."""
        own = self._restored(values, (seen.image.height, seen.image.width))
        return self._concluded(seen, score, own)

    def _restored(self, values: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
        own: NDArray[np.float32] = self.timer("post", lambda: self.transform.restore(values, size))
        return own

    def _concluded(self, seen: _Seen, score: float, own: NDArray[np.float32]) -> Inspection:
        """What follows from a score and a map (H, W) in the image's own pixels."""
        if self._region is not None:
            own = own * self._region.mask((own.shape[0], own.shape[1]))
        known = self.thresholds
        return Inspection(
            seen.image,
            score,
            own,
            known.score,
            known.pixel,
            known.review,
            seen.reason,
            seen.looks,
            mask_share=self.card.scoring.mask_share,
            mask_side=span(own.shape if self._tiling is None else self._tiling.size, self.transform.size),
        )

    def _tiled(self, seen: _Seen, tiling: Tiling) -> Inspection:
        """What is said of a large image, tile by tile: its score is that of its most anomalous tile, as calibrated."""
        size, scores = (seen.image.height, seen.image.width), list[float]()
        boxes = tiling.boxes(size)

        def maps() -> Iterator[tuple[Box, NDArray[np.float32]]]:
            for start in range(0, len(boxes), BATCH):
                some = boxes[start : start + BATCH]
                found, worst = self._run([self._resized(crop(seen.image, box)) for box in some])
                scores.extend(worst.tolist())
                yield from ((box, self._restored(own, box[2:])) for box, own in zip(some, found, strict=True))

        own = tiling.blend(maps(), size)
        return self._concluded(seen, max(scores), own)
