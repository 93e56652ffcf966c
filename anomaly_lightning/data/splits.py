"""Which images are for training, selection, validation and testing: pure, seeded, and blind to the test set."""

from dataclasses import dataclass, replace
from typing import Any

import torch

from anomaly_lightning.data.samples import Category, Sample
from anomaly_lightning.errors import DataError

POLICIES = ("official", "pooled_80_20")
LEAST = 2  # held-out normals; of one alone no spread can be told
ROLES = ("train", "selection", "validation", "test")


@dataclass(frozen=True)
class Splits:
    """Disjoint sets, of which only `test` may hold defects.

    Attributes:
        train: What the detector is fitted on.
        validation: Held-out normals that the thresholds are calibrated on.
        test: What is tested on.
        selection: Held-out normals that choose the epoch and other settings; empty = `validation` does that, too.
        shots: How many training normals were kept of all that there were; None = all.
    """

    train: tuple[Sample, ...]
    validation: tuple[Sample, ...]
    test: tuple[Sample, ...]
    selection: tuple[Sample, ...] = ()
    shots: int | None = None

    def __post_init__(self) -> None:
        """Refuse sets that overlap, and defects where only normals may be."""
        files = [sample.file for role in ROLES for sample in getattr(self, role)]
        if len(set(files)) != len(files):
            raise DataError(f"An image stands in two of the sets {', '.join(ROLES)}, or twice in one.")
        defective = [sample.path for sample in self.normals if sample.label]
        if defective:
            raise DataError(f"Training and validation hold images of good parts only, but {defective[0]} is defective.")

    @property
    def normals(self) -> tuple[Sample, ...]:
        """All normals that a run may look at before the test."""
        return self.train + self.selection + self.validation

    @property
    def choosing(self) -> str:
        """Role of the held-out normals that choose the epoch and other settings."""
        return "selection" if self.selection else "validation"

    def without(self, samples: set[Sample]) -> "Splits":
        """The same sets less some samples."""
        kept: dict[str, Any] = {role: tuple(s for s in getattr(self, role) if s not in samples) for role in ROLES}
        return replace(self, **kept)

    def counts(self) -> dict[str, int]:
        """Number of images in each set, as metrics.json has them."""
        defects = sum(sample.label for sample in self.test)
        return {
            "train": len(self.train),
            **({"selection": len(self.selection)} if self.selection else {}),
            "validation": len(self.validation),
            "test_good": len(self.test) - defects,
            "test_defect": defects,
        }


def make_splits(
    category: Category,
    policy: str = "official",
    seed: int = 0,
    validation_share: float = 0.2,
    selection_share: float = 0.0,
    shots: int | None = None,
) -> Splits:
    """Split one category.

    `official` splits train/good into training and validation normals and tests on all of test/. `pooled_80_20` pools
    the good images of both, tests on a fifth of them and all defects, and splits the rest like `official`. The
    first looks at train/good alone, so nothing about the test files can move it.

    Args:
        category: What the layout holds.
        policy: "official" or "pooled_80_20".
        seed: Seed of the permutation; 0 is a seed.
        validation_share: Share of the training normals that are held out, in (0, 1); at least one image.
        selection_share: Share of the held-out normals that choose the epoch and other settings, in [0, 1), so that the
            others give the threshold and nothing else; 0 = all do both. It changes nothing about the training set.
        shots: Training normals that are kept, drawn by the seed; 2 shots are those of 1 and another one. The held-out
            normals are the same as without, so that thresholds and metrics of different shots compare. None = all.

    Raises:
        DataError: Unknown policy, a share out of its range, too few normals, or more shots than there are.
    """
    if policy not in POLICIES:
        raise DataError(f"data.split={policy}: expected one of {', '.join(POLICIES)}.")
    if not 0 < validation_share < 1:
        raise DataError(f"data.validation_share={validation_share}: expected a share between 0 and 1.")
    if not 0 <= selection_share < 1:
        raise DataError(f"data.selection_share={selection_share}: expected 0, or a share below 1.")
    normals, test = _parted(category, policy, seed)
    _refuse_few(category.name, len(normals), policy)
    train, held_out = _cut(normals, seed, validation_share, category.name)
    if len(train) < LEAST:
        raise DataError(
            f"data.validation_share={validation_share} leaves {len(train)} of the {len(normals)} images of good parts "
            f"of {category.name} to train on; expected at least {LEAST}. Lower it, or add images of good parts."
        )
    validation, selection = _set_apart(held_out, seed, selection_share)
    return Splits(train if shots is None else _drawn(train, seed, shots), validation, test, selection, shots)


def only_tested(category: Category, policy: str = "official", seed: int = 0) -> Splits:
    """The test set of `make_splits` alone, for a model that has been trained on other images."""
    return Splits((), (), _parted(category, policy, seed)[1])


def enough_normals(category: Category, policy: str = "official", seed: int = 0) -> bool:
    """Whether the normals are as many as training and calibration take at least."""
    return len(_parted(category, policy, seed)[0]) >= 2 * LEAST


def _parted(category: Category, policy: str, seed: int) -> tuple[tuple[Sample, ...], tuple[Sample, ...]]:
    """Normals to train and calibrate with, and what is tested on."""
    if policy != "pooled_80_20":
        return category.train, category.test
    pool = category.train + tuple(sample for sample in category.test if not sample.label)
    normals, test_good = _cut(pool, seed, 0.2, category.name)
    return normals, test_good + tuple(sample for sample in category.test if sample.label)


def _drawn(train: tuple[Sample, ...], seed: int, shots: int) -> tuple[Sample, ...]:
    """So many training normals, in their given order."""
    if not isinstance(shots, int) or not 1 <= shots <= len(train):
        raise DataError(f"data.shots={shots}: expected null, or 1 to {len(train)}, the training normals there are.")
    # Not the permutation that held normals out: the first of these would be neighbours there, too.
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(1_000_003 + seed)).tolist()
    taken = set(order[:shots])
    return tuple(sample for i, sample in enumerate(train) if i in taken)


def _refuse_few(name: str, count: int, policy: str) -> None:
    """Raise where the normals can't be split into some to train on and some to calibrate with."""
    if count >= 2 * LEAST:
        return
    pooled = " (data.split=pooled_80_20 keeps a fifth of all for testing; data.split=official does not)"
    raise DataError(
        f"{name} has {count} image(s) of good parts to train on and to calibrate with"
        f"{pooled if policy == 'pooled_80_20' else ''}; expected at least {2 * LEAST}: {LEAST} for either (better 50). "
        "Add images of good parts to the training folder (data.root, data.normal or data.manifest)."
    )


def _set_apart(held_out: tuple[Sample, ...], seed: int, share: float) -> tuple[tuple[Sample, ...], tuple[Sample, ...]]:
    """Split held-out normals into (those that give the threshold, those that choose)."""
    if share == 0:
        return held_out, ()
    chosen = int(len(held_out) * share)
    if min(chosen, len(held_out) - chosen) < LEAST:
        raise DataError(
            f"data.selection_share={share}: of {len(held_out)} held-out normals {chosen} would choose the epoch and "
            f"{len(held_out) - chosen} would give the threshold; expected at least {LEAST} for either. "
            "Add good images, raise data.validation_share, or set data.selection_share=0: all of them then do both."
        )
    validation, selection = _cut(held_out, seed, share, "the held-out set")
    return validation, selection


def _cut(normals: tuple[Sample, ...], seed: int, share: float, name: str) -> tuple[tuple[Sample, ...], ...]:
    """Split normals into (the rest, a share of them), both in their given order."""
    count = len(normals)
    if count < 2:
        raise DataError(f"{name} has {count} image(s) of good parts to split; expected at least 2 (better 50).")
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()
    taken = set(order[: max(min(LEAST, count // 2), int(count * share))])
    rest = tuple(sample for i, sample in enumerate(normals) if i not in taken)
    return rest, tuple(sample for i, sample in enumerate(normals) if i in taken)
