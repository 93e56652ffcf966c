"""Which images are for training, validation and testing: pure, seeded, and blind to the test set."""

from dataclasses import dataclass, replace

import torch

from anomaly_lightning.data.samples import Category, Sample
from anomaly_lightning.errors import DataError

POLICIES = ("official", "pooled_80_20")
ROLES = ("train", "validation", "test")


@dataclass(frozen=True)
class Splits:
    """Three disjoint sets; `train` and `validation` hold normals only."""

    train: tuple[Sample, ...]
    validation: tuple[Sample, ...]
    test: tuple[Sample, ...]

    def __post_init__(self) -> None:
        """Refuse sets that overlap, and defects where only normals may be."""
        paths = [sample.path for role in ROLES for sample in getattr(self, role)]
        if len(set(paths)) != len(paths):
            raise DataError("An image stands in two of the sets training, validation, test, or twice in one.")
        defective = [sample.path for sample in self.train + self.validation if sample.label]
        if defective:
            raise DataError(f"Training and validation hold images of good parts only, but {defective[0]} is defective.")

    def without(self, samples: set[Sample]) -> "Splits":
        """The same sets less some samples."""
        kept = {role: tuple(s for s in getattr(self, role) if s not in samples) for role in ROLES}
        return replace(self, **kept)

    def counts(self) -> dict[str, int]:
        """Number of images in each set, as metrics.json has them."""
        defects = sum(sample.label for sample in self.test)
        return {
            "train": len(self.train),
            "validation": len(self.validation),
            "test_good": len(self.test) - defects,
            "test_defect": defects,
        }


def make_splits(category: Category, policy: str = "official", seed: int = 0, validation_share: float = 0.2) -> Splits:
    """Split one category.

    `official` splits train/good into training and validation normals and tests on all of test/. `pooled_80_20` pools
    the good images of both, tests on a fifth of them and all defects, and splits the rest like `official`. The
    first looks at train/good alone, so nothing about the test files can move it.

    Args:
        category: What the layout holds.
        policy: "official" or "pooled_80_20".
        seed: Seed of the permutation; 0 is a seed.
        validation_share: Share of the training normals that validate, in (0, 1); at least one image.

    Raises:
        DataError: Unknown policy, a share outside (0, 1), or too few normals.
    """
    if policy not in POLICIES:
        raise DataError(f"data.split={policy}: expected one of {', '.join(POLICIES)}.")
    if not 0 < validation_share < 1:
        raise DataError(f"data.validation_share={validation_share}: expected a share between 0 and 1.")
    if policy == "official":
        train, validation = _cut(category.train, seed, validation_share, category.name)
        return Splits(train, validation, category.test)
    pool = category.train + tuple(sample for sample in category.test if not sample.label)
    rest, test_good = _cut(pool, seed, 0.2, category.name)
    train, validation = _cut(rest, seed, validation_share, category.name)
    return Splits(train, validation, test_good + tuple(sample for sample in category.test if sample.label))


def _cut(normals: tuple[Sample, ...], seed: int, share: float, name: str) -> tuple[tuple[Sample, ...], ...]:
    """Split normals into (the rest, a share of them), both in their given order."""
    count = len(normals)
    if count < 2:
        raise DataError(f"{name} has {count} image(s) of good parts to split; expected at least 2 (better 50).")
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()
    # Two normals at least, where there are enough: of one alone no spread can be told.
    taken = set(order[: max(min(2, count // 2), int(count * share))])
    rest = tuple(sample for i, sample in enumerate(normals) if i not in taken)
    return rest, tuple(sample for i, sample in enumerate(normals) if i in taken)
