"""The LightningDataModule of the MVNet splits: batches of images."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import pytorch_lightning as pl
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor
from torch.utils.data import DataLoader

from anomaly_lightning.data.dataset import ImageDataset
from anomaly_lightning.data.hashes import ContentHashes
from anomaly_lightning.data.mask_check import MaskCheck, check_masks, mask_files
from anomaly_lightning.data.samples import Category, Sample
from anomaly_lightning.data.splits import LEAST, ROLES, Splits, make_splits
from anomaly_lightning.errors import DataError
from anomaly_lightning.runtime.reading import check_images
from anomaly_lightning.runtime.transform import ImageTransform

ON_CORRUPT = ("error", "skip")


def watched(splits: Splits, trainer: pl.Trainer | None) -> str:
    """Role of the set that validation looks at: in a fit the one that chooses, else the one that calibrates."""
    fitting = trainer is not None and trainer.state.fn == TrainerFn.FITTING
    return splits.choosing if fitting else "validation"


class MVNetDataModule(pl.LightningDataModule):
    """Splits one category and serves batches of images (see `ImageDataset` for what a batch holds).

    Args:
        category: What the layout holds, as `data.samples.read_category` lists it.
        transform: From image to `images`; every path of a run uses this one.
        split: Split policy, "official" or "pooled_80_20".
        validation_share: Share of the training normals that are held out.
        selection_share: Share of those that choose the epoch and other settings; see `data.splits.make_splits`.
        batch_size: Images a batch.
        workers: Processes that load images; 0 = the training process itself.
        seed: Seed of the split and of the shuffling.
        on_corrupt: What an unreadable image does: "error" (all are named before training), or "skip".
        shots: Training normals that are kept, drawn by the seed; None = all. See `data.splits.make_splits`.
        content_hash: What gives hashes of files; None = one that keeps them as long as this process runs.
        splits: Sets that are known already; None = made as the above says.

    Attributes:
        splits: The sets, less what was skipped.
        skipped: Unreadable images that were left out, with the reason, and unreadable masks.
        mask_check: What `check_masks` found, None before.
        untested: Images of defects that tiles are not tested on, for want of a mask.
        content_hash: Content hash of a file, whoever asks; a file that stays as it is is hashed once.
    """

    def __init__(
        self,
        category: Category,
        transform: ImageTransform,
        split: str = "official",
        validation_share: float = 0.2,
        selection_share: float = 0.0,
        batch_size: int = 32,
        workers: int = 0,
        seed: int = 0,
        on_corrupt: str = "error",
        shots: int | None = None,
        content_hash: ContentHashes | None = None,
        splits: Splits | None = None,
    ) -> None:
        super().__init__()
        if on_corrupt not in ON_CORRUPT:
            raise DataError(f"data.on_corrupt={on_corrupt}: expected one of {', '.join(ON_CORRUPT)}.")
        if batch_size < 1:
            raise DataError(f"data.batch_size={batch_size}: expected 1 or more images.")
        self.category, self.transform, self.split = category, transform, split
        self.batch_size, self.workers, self.seed, self.on_corrupt = batch_size, workers, seed, on_corrupt
        if splits is None:
            splits = make_splits(category, split, seed, validation_share, selection_share, shots)
        self.splits: Splits = splits
        self.skipped: dict[Path, str] = {}
        self.mask_check: MaskCheck | None = None
        self.untested: list[Path] = []
        self.content_hash = ContentHashes() if content_hash is None else content_hash
        self._checked = False

    def setup(self, stage: str | None = None) -> None:
        """Find unreadable images, once, before anything is computed."""
        if not self._checked:
            self.leave_out(check_images([sample.path for sample in self.samples()]))

    def samples(self) -> tuple[Sample, ...]:
        """Samples of all sets."""
        return tuple(sample for role in ROLES for sample in getattr(self.splits, role))

    def leave_out(self, unreadable: Mapping[Path, str]) -> None:
        """Take the check's findings: raise with all of them, or go on without them, as `on_corrupt` says.

        Raises:
            DataError: There are unreadable images and `on_corrupt` is "error", or too few are left to train on.
        """
        self._checked = True
        if not unreadable:
            return
        if self.on_corrupt == "error":
            listed = "\n".join(f"  {path}: {reason}" for path, reason in unreadable.items())
            raise DataError(
                f"{len(unreadable)} of {len(self.samples())} images can't be read:\n{listed}\n"
                "Fix or remove them, or leave them out with data.on_corrupt=skip."
            )
        self.skipped |= unreadable
        before = self.splits
        self.splits = before.without({sample for sample in self.samples() if sample.path in unreadable})
        for role in ROLES[:3]:
            left, there = len(getattr(self.splits, role)), len(getattr(before, role))
            if left < min(LEAST, there):
                raise DataError(
                    f"{left} of {there} {role} images of {self.category.name} can be read; expected at least {LEAST}. "
                    f"Add images of good parts, or mend {next(iter(unreadable))} and the like."
                )

    def check_masks(self) -> None:
        """Read every mask of the test set, once: what can't be read or does not fit its image counts as no mask.

        Raises:
            DataError: There are unreadable masks and `on_corrupt` is "error".
        """
        found = self.mask_check = check_masks(self.splits.test)
        if found.unreadable and self.on_corrupt == "error":
            listed = "\n".join(f"  {path}: {reason}" for path, reason in found.unreadable.items())
            raise DataError(
                f"{len(found.unreadable)} mask(s) can't be read:\n{listed}\n"
                "Fix or remove them, or go on as if they were not there with data.on_corrupt=skip."
            )
        self.skipped |= {path: f"a mask that can't be read: {reason}" for path, reason in found.unreadable.items()}
        gone = found.unreadable.keys() | found.unfit.keys()
        test = tuple(replace(sample, mask=None) if sample.mask in gone else sample for sample in self.splits.test)
        self.splits = replace(self.splits, test=test)

    def dataset(self, role: str) -> ImageDataset:
        """Images of one of the sets `ROLES`."""
        return ImageDataset(getattr(self.splits, role), self.transform)

    @cached_property
    def fingerprint(self) -> str:
        """Hex sha256 of what the category holds: roles, defect names, and the content of every image and mask."""
        digest = hashlib.sha256()
        for role, samples in (("train", self.category.train), ("test", self.category.test)):
            for sample in samples:
                files = (sample.path, *mask_files(sample.mask))
                content = [self.content_hash(file) if file.is_file() else "missing" for file in files]
                digest.update(json.dumps([role, sample.defect, *content]).encode())
        self.content_hash.flush()
        return digest.hexdigest()

    def _loader(self, role: str, shuffle: bool = False) -> DataLoader[dict[str, Tensor]]:
        return DataLoader(
            self.dataset(role),
            batch_size=self.batch_size,
            shuffle=shuffle,
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
            pin_memory=self.trainer is not None and self.trainer.strategy.root_device.type == "cuda",
        )

    def train_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        """Shuffled batches of training normals."""
        return self._loader("train", shuffle=True)

    def statistics_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        """Batches of training normals in a fixed order."""
        return self._loader("train")

    def held_out_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        """Batches of the held-out normals that settings are chosen on."""
        return self._loader(self.splits.choosing)

    def val_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        """Batches of held-out normals: in a fit those that choose the epoch, else those that give the threshold."""
        return self._loader(watched(self.splits, self.trainer))

    def test_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        """Batches of test images."""
        return self._loader("test")
