"""The same splits as an image datamodule, served as features that were computed once."""

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from anomaly_lightning.data.datamodule import MVNetDataModule, watched
from anomaly_lightning.data.hashes import ContentHashes
from anomaly_lightning.data.samples import Sample
from anomaly_lightning.data.splits import ROLES, Splits
from anomaly_lightning.errors import DataError
from anomaly_lightning.features.batches import Batch, KeptBatches, Source
from anomaly_lightning.features.condensed import CondensedFile
from anomaly_lightning.features.extract import fill
from anomaly_lightning.features.extractor import FeatureExtractor
from anomaly_lightning.features.order import Windows
from anomaly_lightning.features.store import FeatureStore, LostError
from anomaly_lightning.runtime.appearance import Statistics, image_statistics
from anomaly_lightning.runtime.reading import ImageError, read_image
from anomaly_lightning.runtime.transform import ImageTransform
from anomaly_lightning.runtime.validity import MOST


def _reason(error: Exception) -> str:
    """Why an image can't be read, without its path."""
    return error.reason if isinstance(error, ImageError) else str(error)


class FeatureDataModule(pl.LightningDataModule):
    """Serves features in place of images; computes, in one pass, those that the store does not hold.

    Args:
        images: The image datamodule whose splits are served.
        extractor: What computes the features.
        store: Where they are kept, keyed by each image's content.
        batch_size: Images a forward of the backbone.
        workers: Threads that decode images beside it.
        on_progress: Told how the pass goes: (images done, images to do).
        roles: Sets that are served; of the others nothing is read.
        shuffle_gb: What the losses look at is shuffled as a whole up to this size (1 GB = 1e9 bytes), beyond it within
            windows of this size, whose like is read ahead at the same time.

    Attributes:
        computed: Images whose features were computed by this process.
        appearances: Statistics of the normals that were decoded for it, so that the validity check needn't.
        features_s: Seconds that the passes took.
    """

    def __init__(
        self,
        images: MVNetDataModule,
        extractor: FeatureExtractor,
        store: FeatureStore,
        batch_size: int = 16,
        workers: int = 2,
        on_progress: Callable[[int, int], None] | None = None,
        roles: Sequence[str] = ROLES,
        shuffle_gb: float = 4.0,
    ) -> None:
        super().__init__()
        self.roles, self.shuffle_gb = tuple(roles), shuffle_gb
        self.images, self.extractor, self.store = images, extractor, store
        self.batch_size, self.workers, self.on_progress = batch_size, workers, on_progress
        self.computed, self.features_s = 0, 0.0
        self.appearances: dict[Path, Statistics] = {}
        self._keys: dict[str, str] | None = None  # by the file
        self._condensed: dict[str, CondensedFile] = {}

    @property
    def splits(self) -> Splits:
        """The image datamodule's sets."""
        return self.images.splits

    @property
    def transform(self) -> ImageTransform:
        """The image datamodule's transform."""
        return self.images.transform

    @property
    def content_hash(self) -> ContentHashes:
        """The image datamodule's hashes of files."""
        return self.images.content_hash

    def setup(self, stage: str | None = None) -> None:
        """Fill the store with what it lacks of the sets, once."""
        if self._keys is not None:
            return
        start = time.perf_counter()
        samples = [sample for role in self.roles for sample in self._samples(role)]
        self._keys, unreadable = self._hashed(samples)
        unreadable |= self._fill([sample for sample in samples if sample.file in self._keys])
        self.images.leave_out(unreadable)
        self.features_s += time.perf_counter() - start

    def batch(self, keys: Sequence[str]) -> Tensor:
        """Stored features (B, C, h, w) float32; those that are damaged or were removed meanwhile are computed anew."""
        try:
            return self.store.batch(keys)
        except LostError as error:
            lost = set(error.keys)
            self._fill([sample for role in self.roles for sample in self._samples(role) if self._key(sample) in lost])
            return self.store.batch(keys)

    def expect(self, start: int, stop: int) -> None:
        """Features of an image are a file of their own: nothing is gained by reading several in one piece."""

    def _samples(self, role: str) -> tuple[Sample, ...]:
        samples: tuple[Sample, ...] = getattr(self.images.splits, role)
        return samples

    def _key(self, sample: Sample) -> str:
        assert self._keys is not None, "setup comes first"
        return self._keys[sample.file]

    def _hashed(self, samples: Sequence[Sample]) -> tuple[dict[str, str], dict[Path, str]]:
        """Content hash of each image, and the reason for each that has none."""
        keys: dict[str, str] = {}
        unreadable: dict[Path, str] = {}
        for sample in samples:
            try:
                keys[sample.file] = self.content_hash(sample.path)
            except (DataError, OSError) as error:
                unreadable[sample.path] = _reason(error)
        self.content_hash.flush()
        return keys, unreadable

    def _fill(self, samples: Sequence[Sample]) -> dict[Path, str]:
        """Compute what is missing; returns the images that can't be read, with the reason."""
        device = self._device()
        extractor = self.extractor.to(device)
        normals = self.splits.normals
        looked_at = {sample.path for sample in normals} if len(normals) <= MOST else set()

        def load(index: int) -> Tensor:
            path = samples[index].path
            image = read_image(path, white=self.transform.white)
            if path in looked_at:
                self.appearances[path] = image_statistics(image)
            return torch.from_numpy(self.transform(image))

        def compute(images: Tensor) -> Tensor:
            # From pinned memory a copy to a GPU does not wait for what the GPU is at.
            waiting = images.pin_memory() if device.type == "cuda" else images
            return extractor(waiting.to(device, non_blocking=True))

        filled = fill(
            self.store,
            [self._key(sample) for sample in samples],
            load,
            compute,
            batch_size=self.batch_size,
            workers=self.workers,
            on_progress=self.on_progress,
        )
        self.computed += filled.computed
        return {samples[index].path: _reason(error) for index, error in filled.failures.items()}

    def serve(self, role: str, rows: Iterable[Tensor]) -> None:
        """Serve for the rest of this fit, in place of a set's features, rows that may be more or fewer than it has.

        Args:
            role: The set, "train" say.
            rows: Batches (B, ...) float of what the losses look at.

        Raises:
            OSError: The disk is full.
        """
        assert self.trainer is not None, "it is called in a fit"
        if role in self._condensed:
            self._condensed.pop(role).close()
        kept = CondensedFile(Path(self.trainer.default_root_dir))
        for batch in rows:
            kept.append(batch)
        self._condensed[role] = kept

    def condense(self, condense: Callable[[Tensor], Tensor]) -> None:
        """Serve for the rest of this fit, in place of features, what a function makes of them, computed once here.

        Args:
            condense: From features (B, C, h, w) float32 on the CPU to (B, ...) float on any device.

        Raises:
            OSError: The disk is full.
        """
        self.teardown("fit")
        for role in ("train", self.splits.choosing):
            self.serve(role, (condense(batch["features"]) for batch in self._loader(role, shared=False)))

    def teardown(self, stage: str) -> None:
        """Let go of what `condense` kept, after the fit."""
        if stage == "fit":
            for kept in self._condensed.values():
                kept.close()
            self._condensed = {}

    def _loader(self, role: str, epoch: Callable[[], int] | None = None, shared: bool = True) -> DataLoader[Batch]:
        """Batches of features of a set."""
        self.setup()
        return self._batches(
            "features", self, [self._key(sample) for sample in self._samples(role)], role, epoch, shared
        )

    def _fitting_loader(self, role: str, epoch: Callable[[], int] | None = None) -> DataLoader[Batch]:
        """Batches of what there is to fit with: condensed where that was asked for, else features."""
        if role not in self._condensed:
            return self._loader(role, epoch)
        kept = self._condensed[role]
        windows = Windows.of(1e9 * self.shuffle_gb, kept.row_bytes)
        return self._batches("condensed", kept, range(len(kept)), role, epoch, shared=True, windows=windows)

    def _batches(
        self,
        name: str,
        source: Source,
        keys: Sequence[str] | Sequence[int],
        role: str,
        epoch: Callable[[], int] | None,
        shared: bool,
        windows: Windows | None = None,
    ) -> DataLoader[Batch]:
        served = [sample.label for sample in self._samples(role)] if name == "features" else [False] * len(keys)
        labels = torch.tensor(served, dtype=torch.bool)  # of what is fitted with, nobody asks for them
        size, seed = self.images.batch_size, self.images.seed
        batches = KeptBatches(name, source, keys, labels, size, epoch, seed, shared, windows)
        return DataLoader(batches, batch_size=None, num_workers=0, pin_memory=self._device().type == "cuda")

    def _device(self) -> torch.device:
        """Where batches are wanted."""
        return self.trainer.strategy.root_device if self.trainer else torch.device("cpu")

    def train_dataloader(self) -> DataLoader[Batch]:
        """Batches of training normals, shuffled anew in every epoch."""
        return self._fitting_loader("train", epoch=lambda: self.trainer.current_epoch if self.trainer else 0)

    def statistics_dataloader(self) -> DataLoader[Batch]:
        """Batches of all training normals in a fixed order, the same in every process of a distributed run."""
        return self._loader("train", shared=False)

    def held_out_dataloader(self) -> DataLoader[Batch]:
        """Batches of all normals that settings are chosen on, the same in every process of a distributed run."""
        return self._loader(self.splits.choosing, shared=False)

    def val_dataloader(self) -> DataLoader[Batch]:
        """Batches of held-out normals: in a fit those that choose the epoch, else those that give the threshold."""
        return self._fitting_loader(watched(self.splits, self.trainer))

    def test_dataloader(self) -> DataLoader[Batch]:
        """Batches of test images."""
        return self._loader("test")
