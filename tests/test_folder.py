"""Own images in folders of every shape."""

from pathlib import Path

import pytest

from anomaly_lightning.data.folder import read_folder
from anomaly_lightning.data.masks import shared_masks
from anomaly_lightning.errors import DataError


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def listed(samples, root: Path) -> list[tuple]:
    return [(str(s.path.relative_to(root)), s.defect, s.mask and str(s.mask.relative_to(root))) for s in samples]


def test_normals_only_is_enough(tmp_path):
    touch(tmp_path, "a/2.png", "a/10.JPG", "a/deep/er/1.bmp", "b/1.png", "a/notes.txt", "a/.hidden.png")
    category = read_folder("widgets", [tmp_path / "a", tmp_path / "b"])
    assert category.name == "widgets"
    assert category.test == ()
    assert listed(category.train, tmp_path) == [
        ("a/2.png", "good", None),
        ("a/10.JPG", "good", None),
        ("a/deep/er/1.bmp", "good", None),
        ("b/1.png", "good", None),
    ]


def test_folders_given_twice_or_within_each_other_count_once(tmp_path):
    touch(tmp_path, "a/1.png", "a/b/2.png")
    category = read_folder("x", [tmp_path / "a", tmp_path / "a" / "b", tmp_path / "a"])
    assert len(category.train) == 2


def test_abnormal_flat_and_by_type(tmp_path):
    touch(tmp_path, "ok/1.png", "bad/1.png", "bad/dent/2.png", "bad/dent/deep/3.png", "bad/good/4.png")
    test = read_folder("x", [tmp_path / "ok"], tmp_path / "bad").test
    assert sorted((s.path.name, s.defect) for s in test) == [
        ("1.png", "defect"),
        ("2.png", "dent"),
        ("3.png", "dent"),
        ("4.png", "good"),
    ]


def test_what_is_abnormal_a_mask_or_for_testing_is_not_trained_on(tmp_path):
    touch(tmp_path, "all/1.png", "all/ng/2.png", "all/masks/2_mask.png", "all/later/3.png")
    folder = tmp_path / "all"
    category = read_folder("x", [folder], folder / "ng", folder / "masks", [folder / "later"])
    assert listed(category.train, folder) == [("1.png", "good", None)]
    assert listed(category.test, folder) == [("later/3.png", "good", None), ("ng/2.png", "defect", "masks/2_mask.png")]


def test_masks_in_the_same_subfolders(tmp_path):
    touch(tmp_path, "ok/1.png", "bad/dent/1.png", "bad/hole/1.png", "bad/hole/2.png")
    touch(tmp_path, "gt/dent/1_mask.png", "gt/hole/1_gt.bmp")
    test = read_folder("x", [tmp_path / "ok"], tmp_path / "bad", tmp_path / "gt").test
    assert listed(test, tmp_path) == [
        ("bad/dent/1.png", "dent", "gt/dent/1_mask.png"),
        ("bad/hole/1.png", "hole", "gt/hole/1_gt.bmp"),
        ("bad/hole/2.png", "hole", None),
    ]


def test_masks_beside_the_images(tmp_path):
    touch(tmp_path, "ok/1.png", "bad/dent/1.png", "bad/dent/1_mask.png", "bad/2.jpg", "bad/mask_2.png")
    test = read_folder("x", [tmp_path / "ok"], tmp_path / "bad", tmp_path / "bad").test
    assert sorted(listed(test, tmp_path / "bad")) == [
        ("2.jpg", "defect", "mask_2.png"),
        ("dent/1.png", "dent", "dent/1_mask.png"),
    ]


def test_masks_beside_the_images_that_nobody_stated_are_asked_about(tmp_path):
    touch(tmp_path, "ok/1.png", "bad/1.png", "bad/1_mask.png")
    (trouble,) = read_folder("x", [tmp_path / "ok"], tmp_path / "bad").troubles
    assert f"1_mask.png lies beside {tmp_path / 'bad' / '1.png'}" in trouble.words
    assert f"set data.masks={tmp_path / 'bad'}" in trouble.words


def test_one_mask_for_two_images_is_refused(tmp_path):
    touch(tmp_path, "ok/1.png", "bad/dent/1.png", "bad/hole/1.png", "gt/1.png")
    (trouble,) = shared_masks(read_folder("x", [tmp_path / "ok"], tmp_path / "bad", tmp_path / "gt").test)
    assert "same subfolders" in trouble.words
    assert trouble.exclude == (tmp_path / "gt" / "1.png",)  # both are as likely to own it


def test_masks_of_which_none_fits_are_refused(tmp_path):
    touch(tmp_path, "ok/1.png", "bad/1.png", "gt/one.png")
    with pytest.raises(DataError, match=r"no mask fits an image .*like 1.png.*000_mask"):
        read_folder("x", [tmp_path / "ok"], tmp_path / "bad", tmp_path / "gt")


def test_missing_and_empty_folders_are_named(tmp_path):
    touch(tmp_path, "ok/1.png", "bad/1.png", "empty/readme.txt")
    ok, bad, empty, gone = (tmp_path / name for name in ("ok", "bad", "empty", "gone"))
    for arguments, words in [
        (([gone],), r"data.normal=.*gone is not a folder"),
        (([ok, empty],), r"data.normal=.*empty holds no image"),
        (([],), r"data.normal=\[\]: expected at least one folder"),
        (([ok], gone), r"data.abnormal=.*gone is not a folder"),
        (([ok], bad, gone), r"masks in .*gone, but there is no such folder"),
        (([ok], None, bad), r"data.masks=.* needs data.abnormal"),
        (([ok], ok), r"data.normal=.*ok holds only images that belong to \[.*ok\], too"),
        (([ok], None, None, [empty]), r"data.normal_test=.*empty holds no image"),
    ]:
        with pytest.raises(DataError, match=words):
            read_folder("x", *arguments)


def test_names_with_spaces_newlines_and_signs(tmp_path):
    touch(tmp_path, "o k/1 {}%s\n.png", "b/Kratzer ß/é 1.png", "gt/Kratzer ß/é 1_mask.png")
    category = read_folder("x", [tmp_path / "o k"], tmp_path / "b", tmp_path / "gt")
    assert category.train[0].path.name == "1 {}%s\n.png"
    assert category.test[0].mask == tmp_path / "gt/Kratzer ß/é 1_mask.png"
