"""The synthetic categories: deterministic, exact in their truth, readable as real ones, safe to make at once."""

import hashlib
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anomaly_lightning.data import synthetic
from anomaly_lightning.data.layouts import categories_in, read_category
from anomaly_lightning.data.samples import GOOD
from anomaly_lightning.data.synthetic import CATEGORIES, generate
from anomaly_lightning.data.synthetic.catalogue import RECIPES
from anomaly_lightning.data.synthetic.noise import cells, generator, grid, smooth_noise
from anomaly_lightning.data.synthetic.specimen import VISIBLE_LEVELS, Key, specimen
from anomaly_lightning.errors import DataError

SIZE = (64, 96)
KINDS = [(category, defect) for category in CATEGORIES for defect in RECIPES[category].defects]


def small(root: Path, category: str = "grid", **changes: int) -> Path:
    counts = {"seed": 0, "train": 2, "test_good": 1, "defects_each": 1, **changes}
    return generate(root, category, size=SIZE, **counts)


def contents(folder: Path) -> dict[str, str]:
    files = sorted(p for p in folder.rglob("*.png"))
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_the_promised_categories_have_at_least_three_kinds_of_defect() -> None:
    assert {"leather", "tile", "grid", "bottle", "screw"} <= set(CATEGORIES)
    assert all(len(RECIPES[category].defects) >= 3 for category in CATEGORIES)


@pytest.mark.parametrize("category", CATEGORIES)
def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path: Path, category: str) -> None:
    first = contents(small(tmp_path / "a", category) / category)
    again = contents(small(tmp_path / "b", category) / category)
    other = contents(small(tmp_path / "c", category, seed=1) / category)
    assert first == again
    images = [name for name in first if "_mask" not in name]
    assert all(first[name] != other[name] for name in images)
    assert len({first[name] for name in images}) == len(images)


def test_a_image_does_not_depend_on_how_many_others_are_made(tmp_path: Path) -> None:
    few = contents(small(tmp_path) / "grid")
    many = contents(small(tmp_path, train=3, defects_each=2) / "grid")
    assert few.items() <= many.items()


@pytest.mark.parametrize(("category", "defect"), KINDS)
def test_the_mask_is_exactly_where_the_defect_changed_the_image(category: str, defect: str) -> None:
    for index in range(2):
        drawn = specimen(Key(0, category, "test", defect, index, SIZE))
        change = np.abs(drawn.image.astype(int) - drawn.clean.astype(int)).max(axis=2)
        np.testing.assert_array_equal(drawn.mask, change > VISIBLE_LEVELS)
        assert drawn.image.shape == (*SIZE, 3)
        assert 0 < drawn.mask.mean() < 0.4, f"{defect} covers {drawn.mask.mean():.1%} of the image"


def test_good_and_defective_images_of_one_number_differ_in_more_than_the_defect() -> None:
    good = specimen(Key(0, "leather", "test", GOOD, 0, SIZE))
    assert not good.mask.any()
    assert not np.array_equal(good.image, specimen(Key(0, "leather", "test", "cut", 0, SIZE)).clean)
    assert not np.array_equal(good.image, specimen(Key(0, "leather", "train", GOOD, 0, SIZE)).image)


def test_the_layout_is_read_as_any_other_category(tmp_path: Path) -> None:
    root = small(tmp_path, "tile", train=3, test_good=2, defects_each=2)
    read = read_category(root, "tile")
    assert categories_in(root) == ["tile"]
    assert len(read.train) == 3
    assert [s.defect for s in read.test] == [GOOD] * 2 + [d for d in sorted(RECIPES["tile"].defects) for _ in range(2)]
    for sample in read.test:
        assert (sample.mask is None) == (sample.defect == GOOD)
        with Image.open(sample.path) as image:
            assert (image.mode, image.size) == ("RGB", SIZE[::-1])
        if sample.mask:
            with Image.open(sample.mask) as mask:
                assert (mask.mode, mask.size) == ("L", SIZE[::-1])
                assert set(np.unique(np.asarray(mask))) == {0, 255}
    assert (root / "tile" / "train" / GOOD / "000.png").is_file()


def test_a_finished_category_is_reused_and_other_parameters_are_not_taken_for_it(tmp_path: Path) -> None:
    root = small(tmp_path)
    before = (root / "grid" / "manifest.json").stat().st_mtime_ns
    assert small(tmp_path) == root
    assert (root / "grid" / "manifest.json").stat().st_mtime_ns == before
    assert small(tmp_path, "screw") == root
    assert small(tmp_path, seed=1) != root
    assert generate(tmp_path, "grid", 0, 2, 1, 1, size=SIZE[::-1]) != root
    assert json.loads((root / "grid" / "manifest.json").read_text())["size"] == list(SIZE)


def test_another_version_of_the_generator_draws_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = small(tmp_path)
    monkeypatch.setattr(synthetic, "GENERATOR_VERSION", synthetic.GENERATOR_VERSION + 1)
    assert small(tmp_path) != root


@pytest.mark.parametrize("damage", ["image", "mask", "manifest", "parameters"])
def test_a_damaged_category_is_drawn_anew(tmp_path: Path, damage: str) -> None:
    root = small(tmp_path)
    whole = contents(root / "grid")
    if damage == "image":
        (root / "grid" / "train" / GOOD / "001.png").unlink()
    elif damage == "mask":
        shutil.rmtree(root / "grid" / "ground_truth")
    elif damage == "manifest":
        (root / "grid" / "manifest.json").write_text('{"cut off')
    else:
        (root / "grid" / "manifest.json").write_text("{}")
    assert small(tmp_path) == root
    assert contents(root / "grid") == whole


def test_what_a_killed_run_left_is_not_taken_for_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def dies_at_the_third(key: Key) -> object:
        calls.append(key)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return specimen(key)

    with monkeypatch.context() as patch:
        patch.setattr(synthetic, "specimen", dies_at_the_third)
        patch.setattr(synthetic.shutil, "rmtree", lambda *_, **__: None)  # a killed process cleans nothing up
        with pytest.raises(KeyboardInterrupt):
            small(tmp_path)
    left = [p for p in tmp_path.iterdir() if p.name.startswith(".drawing-")]
    assert len(left) == 1
    root = small(tmp_path)
    assert len(read_category(root, "grid").train) == 2
    assert categories_in(root) == ["grid"]


def test_several_at_once_end_with_one_whole_category(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        roots = set(pool.map(lambda _: small(tmp_path), range(4)))
    assert len(roots) == 1
    assert contents(roots.pop() / "grid") == contents(small(tmp_path / "alone") / "grid")
    assert not list(tmp_path.glob(".d*"))


def test_an_unknown_category_lists_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"'lether'.*bottle, carpet, grid"):
        generate(tmp_path, "lether")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "named"),
    [({"train": 0}, "train=0"), ({"defects_each": -1}, "defects_each=-1"), ({"seed": -1}, "seed=-1")],
)
def test_senseless_counts_are_refused_by_name(tmp_path: Path, changes: dict[str, int], named: str) -> None:
    with pytest.raises(DataError, match=named):
        small(tmp_path, **changes)


def test_a_size_too_small_for_its_defects_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"\(16, 96\)"):
        generate(tmp_path, "leather", size=(16, 96))


def test_light_and_exposure_vary_between_good_images() -> None:
    means = [specimen(Key(0, "leather", "train", GOOD, index, SIZE)).image.mean() for index in range(12)]
    assert np.std(means) > 3


def test_screws_lie_at_any_angle() -> None:
    angles = []
    for index in range(24):
        grey = specimen(Key(0, "screw", "train", GOOD, index, SIZE)).image.mean(axis=2)
        rows, columns = np.nonzero(grey < 0.6 * np.median(grey))
        _, vectors = np.linalg.eigh(np.cov(np.stack([rows, columns])))
        angles.append(np.degrees(np.arctan2(vectors[0, 1], vectors[1, 1])) % 180)
    assert np.all(np.histogram(angles, bins=4, range=(0, 180))[0] > 0)


def test_smooth_noise_is_standardised_and_long_where_it_should_be() -> None:
    field = smooth_noise(generator(0), (128, 192), 40, 4)
    assert field.shape == (128, 192)
    assert field.mean() == pytest.approx(0, abs=1e-3)
    assert field.std() == pytest.approx(1, abs=1e-3)
    assert np.abs(np.diff(field, axis=0)).mean() > 5 * np.abs(np.diff(field, axis=1)).mean()


def test_cells_give_the_distances_to_the_two_nearest_points() -> None:
    y, x = (axis / np.float32(32) for axis in grid((48, 80)))
    field = cells(generator(3), y, x)
    rows, columns = (int(np.floor(axis).max() - np.floor(axis).min()) + 3 for axis in (y, x))
    jitter = generator(3).random((4, rows * columns), dtype=np.float32)
    down, right = np.divmod(np.arange(rows * columns), columns)
    points = np.stack([jitter[0] + down + np.floor(y).min() - 1, jitter[1] + right + np.floor(x).min() - 1], axis=1)
    away = np.sort(np.hypot(y[..., None] - points[:, 0], x[..., None] - points[:, 1]), axis=-1)
    np.testing.assert_allclose(field.first, away[..., 0], atol=1e-5)
    assert np.median(np.abs(field.border - (away[..., 1] - away[..., 0]))) < 1e-5
