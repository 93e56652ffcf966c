"""Splits are disjoint, hold normals where only normals may be, follow their seed, and are blind to the test set."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from anomaly_lightning.data.samples import Category, Sample
from anomaly_lightning.data.splits import POLICIES, ROLES, Splits, make_splits
from anomaly_lightning.errors import DataError


def category(train=50, good=20, defects=30):
    def named(folder, count, defect="good"):
        return tuple(Sample(Path(f"{folder}/{defect}/{i}.png"), defect) for i in range(count))

    return Category("c", named("train", train), named("test", good) + named("test", defects, "hole"))


def roles(splits):
    return {role: [sample.path for sample in getattr(splits, role)] for role in ROLES}


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("sizes", [(4, 1, 1), (4, 4, 11), (50, 20, 30), (220, 70, 50), (7, 0, 0)], ids=str)
@pytest.mark.parametrize("seed", [0, 1, 17])
def test_three_disjoint_sets_that_hold_every_image_once(policy, sizes, seed):
    given = category(*sizes)
    if policy == "pooled_80_20" and sizes == (4, 1, 1):
        pytest.skip("five good images make no three sets of two or more")
    splits = make_splits(given, policy, seed)
    counted = Counter(path for paths in roles(splits).values() for path in paths)
    assert set(counted.values()) == {1}
    assert set(counted) == {sample.path for sample in given.train + given.test}
    assert not any(sample.label for sample in splits.train + splits.validation)
    assert splits.train
    assert splits.validation


def test_official_takes_a_fifth_of_train_good_and_all_of_test():
    given = category()
    splits = make_splits(given)
    assert (len(splits.train), len(splits.validation)) == (40, 10)
    assert splits.test == given.test
    assert set(splits.train + splits.validation) == set(given.train)


def test_pooled_takes_a_fifth_of_all_good_images_for_testing():
    splits = make_splits(category(50, 20, 30), "pooled_80_20")
    assert splits.counts() == {"train": 45, "validation": 11, "test_good": 14, "test_defect": 30}
    origins = {sample.path.parts[0] for sample in splits.train}
    assert origins == {"train", "test"}


def test_the_validation_share_is_what_was_asked_for():
    splits = make_splits(category(100), validation_share=0.35)
    assert len(splits.validation) == 35


@pytest.mark.parametrize("policy", POLICIES)
def test_a_seed_gives_one_split_and_zero_is_a_seed(policy):
    first, again, other = (roles(make_splits(category(), policy, seed)) for seed in (0, 0, 1))
    assert first == again
    assert first["validation"] != other["validation"]


def first_of_permutation(samples, seed, count):
    """Paths of the samples at the first `count` places of the seed's permutation, in the samples' order."""
    import torch

    taken = torch.randperm(len(samples), generator=torch.Generator().manual_seed(seed))[:count].tolist()
    return [samples[place].path for place in sorted(taken)]


@pytest.mark.parametrize("seed", [0, 1, 2, 17])
def test_the_split_is_torchs_permutation_for_the_seed(seed):
    given = category(50, 20, 30)
    assert roles(make_splits(given, seed=seed))["validation"] == first_of_permutation(given.train, seed, 10)
    pooled = make_splits(given, "pooled_80_20", seed)
    pool = given.train + given.test[:20]
    assert roles(pooled)["test"][:14] == first_of_permutation(pool, seed, 14)
    rest = [sample for sample in pool if sample not in pooled.test]
    assert roles(pooled)["validation"] == first_of_permutation(rest, seed, 11)


def test_the_split_is_no_matter_of_names_or_of_torchs_seed():
    import torch

    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first = make_splits(category())
    assert torch.equal(before, torch.random.get_rng_state())
    torch.manual_seed(6)
    assert make_splits(category()) == first


def test_official_is_blind_to_the_test_files():
    given = category()
    first = make_splits(given, seed=3)
    relabelled = tuple(replace(s, defect="good" if s.label else "hole") for s in given.test)
    renamed = tuple(replace(s, path=Path("elsewhere") / s.path) for s in given.test)
    for test in (given.test[::-1], given.test[5:], (), relabelled, renamed):
        splits = make_splits(replace(given, test=test), seed=3)
        assert (splits.train, splits.validation) == (first.train, first.validation)


def test_pooled_is_blind_to_the_defects():
    given = category()
    first = make_splits(given, "pooled_80_20", 3)
    good = tuple(sample for sample in given.test if not sample.label)
    others = tuple(Sample(Path(f"test/new/{i}.png"), "new") for i in range(99))
    for test in (good, good + others, others[:3] + good):
        splits = make_splits(replace(given, test=test), "pooled_80_20", 3)
        assert (splits.train, splits.validation) == (first.train, first.validation)
        assert [s for s in splits.test if not s.label] == [s for s in first.test if not s.label]


def test_sets_that_overlap_or_train_on_defects_are_refused():
    good, bad = Sample(Path("a.png")), Sample(Path("b.png"), "hole")
    with pytest.raises(DataError, match="two of the sets"):
        Splits((good,), (good,), ())
    with pytest.raises(DataError, match=r"b\.png is defective"):
        Splits((good,), (bad,), ())


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"policy": "random"}, r"data\.split=random: expected one of official, pooled_80_20"),
        ({"validation_share": 0.0}, r"data\.validation_share=0\.0"),
        ({"validation_share": 1.0}, r"data\.validation_share=1\.0"),
        ({"selection_share": 1.0}, r"data\.selection_share=1\.0: expected 0, or a share below 1"),
        ({"selection_share": -0.1}, r"data\.selection_share=-0\.1"),
    ],
)
def test_what_makes_no_sense_is_refused_by_its_name(settings, named):
    with pytest.raises(DataError, match=named):
        make_splits(category(), **settings)


def test_too_few_normals_are_refused_by_number():
    with pytest.raises(DataError, match=r"c has 1 image"):
        make_splits(category(train=1))


def test_few_normals_still_validate_on_two():
    assert make_splits(category(train=4)).counts()["validation"] == 2


def test_samples_can_be_left_out():
    given = category()
    splits = make_splits(given)
    out = {splits.train[0], splits.validation[1], splits.test[2]}
    assert set(roles(splits.without(out))["train"]) == set(roles(splits)["train"]) - {s.path for s in out}
    assert splits.without(out).counts() == {"train": 39, "validation": 9, "test_good": 19, "test_defect": 30}


@pytest.mark.parametrize("policy", POLICIES)
def test_normals_that_choose_come_from_the_held_out_ones_and_change_nothing_else(policy):
    whole, parted = make_splits(category(), policy, 3), make_splits(category(), policy, 3, selection_share=0.4)
    assert (parted.train, parted.test) == (whole.train, whole.test)
    assert whole.selection == ()
    held_out = set(whole.validation)
    assert set(parted.selection) | set(parted.validation) == held_out
    assert len(parted.selection) == int(0.4 * len(held_out))
    assert len(parted.selection) + len(parted.validation) == len(held_out)
    assert parted.counts() == whole.counts() | {
        "selection": len(parted.selection),
        "validation": len(parted.validation),
    }
    assert (whole.choosing, parted.choosing) == ("validation", "selection")
    assert parted.selection != make_splits(category(), policy, 4, selection_share=0.4).selection


@pytest.mark.parametrize("share", [0.1, 0.95])
def test_too_few_held_out_normals_are_not_parted(share):
    with pytest.raises(DataError, match=rf"data\.selection_share={share}: of 10 held-out normals"):
        make_splits(category(), selection_share=share)


def test_a_share_that_leaves_too_few_to_train_on_is_refused():
    with pytest.raises(DataError, match=r"data.validation_share=0.95 leaves 1 of the 20 images of good parts"):
        make_splits(category(20, 0, 1), validation_share=0.95)


@pytest.mark.parametrize(("policy", "count"), [("official", 2), ("official", 3), ("pooled_80_20", 5)])
def test_too_few_normals_to_fit_and_to_calibrate_are_refused_with_the_true_number(policy, count):
    left = count if policy == "official" else 3
    with pytest.raises(DataError, match=rf"c has {left} image\(s\) of good parts .*expected at least 4.*data.normal"):
        make_splits(category(count, 0, 1), policy)
