"""The MVNet layout as lists of samples."""

import re
from pathlib import Path

import numpy as np
import pytest
from toy import make_category, save

from anomaly_lightning.data.layouts import categories_in, read_category
from anomaly_lightning.errors import DataError
from anomaly_lightning.runtime.files import images_in, natural_key


def touch(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def test_a_category_is_listed_with_labels_masks_and_defects(tmp_path):
    folder = make_category(tmp_path)
    category = read_category(tmp_path, "widget")
    assert category.name == "widget"
    assert [sample.path.name for sample in category.train] == [f"{i}.png" for i in range(15)]
    assert [sample.defect for sample in category.test] == ["good"] * 5 + ["scratch"] * 3 + ["spot"] * 4
    for sample in category.train + category.test:
        assert sample.label == (sample.defect != "good")
        expected = folder / "ground_truth" / sample.defect / f"{sample.path.stem}_mask.png"
        assert sample.mask == (expected if sample.label else None)


def test_the_natural_order_is_that_of_texts_and_numbers_in_turn():
    rng, signs = np.random.default_rng(0), [*"aAb-_ .0123456789\u0663", "/"]
    paths = [Path("".join(rng.choice(signs, rng.integers(1, 12)))) for _ in range(3000)]

    def parts(path):
        split = re.split(r"(\d+)", path.as_posix().lower())
        return [int(part) if number % 2 else part for number, part in enumerate(split)]

    assert sorted(paths, key=natural_key) == sorted(paths, key=parts)


def test_order_is_natural_and_the_same_on_every_file_system():
    names = ["10.png", "2.png", "1.png", "a10b2.png", "a10b10.png", "a9.png", "B1.png"]
    ordered = sorted((Path(name) for name in names), key=natural_key)
    wanted = ["1.png", "2.png", "10.png", "a9.png", "a10b2.png", "a10b10.png", "B1.png"]
    assert [path.name for path in ordered] == wanted


def test_any_suffix_in_any_case_and_nothing_hidden(tmp_path):
    good = tmp_path / "c" / "train" / "good"
    wanted = ["1.png", "2.JPG", "3.jpeg", "4.Bmp", "5.tif", "6.TIFF", "7.webp"]
    touch(*(good / name for name in wanted), good / ".8.png", good / "notes.txt", good / "Thumbs.db")
    (good / "9.png").mkdir()  # a folder that is called like an image
    assert [path.name for path in images_in(good)] == wanted


def test_images_below_are_found_only_when_asked_for(tmp_path):
    touch(tmp_path / "a.png", tmp_path / "b" / "c" / "d.png")
    assert [path.name for path in images_in(tmp_path)] == ["a.png"]
    assert [path.name for path in images_in(tmp_path, recursive=True)] == ["a.png", "d.png"]
    assert images_in(tmp_path / "nowhere") == []


def test_a_mask_may_have_the_images_own_name_and_may_be_missing(tmp_path):
    folder = make_category(tmp_path)
    masks = folder / "ground_truth" / "spot"
    (masks / "0_mask.png").rename(masks / "0.png")
    (masks / "1_mask.png").unlink()
    spots = [sample for sample in read_category(tmp_path, "widget").test if sample.defect == "spot"]
    assert spots[0].mask == masks / "0.png"
    assert spots[1].mask is None
    assert spots[1].label


def test_a_category_without_a_test_folder_has_no_test_samples(tmp_path):
    save(np.zeros((3, 5, 3), np.uint8), tmp_path / "c" / "train" / "good" / "0.png")
    assert read_category(tmp_path, "c").test == ()


def test_categories_are_folders_with_train_good(tmp_path):
    make_category(tmp_path, "b", normals=1, test_good=1)
    make_category(tmp_path, "a", normals=1, test_good=1)
    (tmp_path / "notes").mkdir()
    assert categories_in(tmp_path) == ["a", "b"]
    assert categories_in(tmp_path / "nowhere") == []


def test_a_root_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match=r"data\.root=.*nowhere is not a folder.*<root>/widget/train/good"):
        read_category(tmp_path / "nowhere", "widget")


@pytest.mark.parametrize("state", ["missing", "without train/good", "empty"])
def test_a_missing_or_empty_category_names_the_folder_and_lists_those_there(tmp_path, state):
    make_category(tmp_path, "bolt", normals=2, test_good=1)
    if state != "missing":
        (tmp_path / "widget" / ("train/good" if state == "empty" else "")).mkdir(parents=True)
    with pytest.raises(DataError) as caught:
        read_category(tmp_path, "widget")
    text = str(caught.value)
    assert str(tmp_path / "widget" / "train" / "good") in text
    assert "bolt" in text
    assert {"missing": "no folder", "without train/good": "no folder", "empty": "no image"}[state] in text


def test_a_root_without_categories_says_so(tmp_path):
    with pytest.raises(DataError, match="No category was found"):
        read_category(tmp_path, "widget")
