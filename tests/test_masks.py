"""Masks that fit and masks that don't."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anomaly_lightning.data.mask_check import MaskCheck, check_masks
from anomaly_lightning.data.masks import MaskFinder, shared_masks
from anomaly_lightning.data.samples import Sample

H, W = 6, 9


def save(path: Path, values: np.ndarray | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((H, W), dtype=np.uint8) if values is None else values).save(path)
    return path


def spot(value: int = 255) -> np.ndarray:
    values = np.zeros((H, W), dtype=np.uint8)
    values[2, 3:5] = value
    return values


NAMES = ("1_mask.png", "1_gt.bmp", "1_label.tif", "mask_1.png", "1.jpg", "seg-1.gif", "1.mask.png", "1.png_MASK.png")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("parent", ["dent", "."])
def test_customary_names_are_found(tmp_path, name, parent):
    mask = save(tmp_path / "masks" / parent / name)
    save(tmp_path / "masks" / parent / "11_mask.png")
    assert MaskFinder(tmp_path / "masks").find(tmp_path / "dent" / "1.png", Path("dent/1.png")) == mask


def test_a_folder_of_masks_is_found(tmp_path):
    save(tmp_path / "dent" / "1" / "000.png")
    assert MaskFinder(tmp_path).find(Path("x/dent/1.png"), Path("dent/1.png")) == tmp_path / "dent" / "1"


def test_the_same_subfolder_comes_first_and_no_other_counts(tmp_path):
    near = save(tmp_path / "dent" / "1.png")
    save(tmp_path / "1_mask.png")
    save(tmp_path / "scratch" / "2.png")
    finder = MaskFinder(tmp_path)
    assert finder.find(Path("x"), Path("dent/1.png")) == near
    assert finder.find(Path("x"), Path("dent/2.png")) is None


def test_a_image_is_not_its_own_mask(tmp_path):
    image = save(tmp_path / "1.png")
    assert MaskFinder(tmp_path).find(image, Path("1.png")) is None


@pytest.mark.parametrize("others", [0, 1])
def test_two_masks_of_one_name_are_named_and_the_odd_one_is_excluded(tmp_path, others):
    png, bmp = save(tmp_path / "1_mask.png"), save(tmp_path / "1_mask.bmp")
    for number in range(others):
        save(tmp_path / f"x{number}.png")
    finder = MaskFinder(tmp_path)
    assert finder.find(Path("1.png"), Path("1.png")) is None
    (trouble,) = finder.troubles
    assert f"several masks of one name: {bmp}, {png}" in trouble.words
    assert trouble.exclude == ((bmp,) if others else (bmp, png))


def test_the_whole_name_of_an_image_tells_its_mask_from_that_of_its_twin(tmp_path):
    png, jpg = save(tmp_path / "1.png_mask.png"), save(tmp_path / "1.jpg_mask.png")
    finder = MaskFinder(tmp_path)
    assert [finder.find(Path("x"), Path(name)) for name in ("1.png", "1.jpg")] == [png, jpg]


def test_a_mask_of_two_images_is_named_and_the_odd_image_is_excluded():
    samples = [Sample(Path(f"dent/{name}"), "dent", Path("masks/1.png")) for name in ("1.jpg", "1.png")]
    (trouble,) = shared_masks([*samples, Sample(Path("dent/2.png"), "dent")])
    assert "masks/1.png, fits dent/1.jpg and dent/1.png" in trouble.words
    assert trouble.exclude == (Path("dent/1.jpg"),)
    assert shared_masks(samples)[0].exclude == (Path("masks/1.png"),)


def test_masks_that_fit_are_silent(tmp_path):
    for value in (1, 255):
        sample = Sample(save(tmp_path / "1.png"), "dent", save(tmp_path / "masks" / "1.png", spot(value)))
        assert check_masks([sample, Sample(tmp_path / "1.png")]) == MaskCheck(defects=1)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (spot() * 0, "is all black"),
        (spot() * 0 + 255, "marks the whole image"),
        (np.add.outer(np.arange(H), np.arange(W)).astype(np.uint8), "holds 14 different values from 0 to 13"),
    ],
)
def test_masks_that_do_not_fit_are_named(tmp_path, values, words):
    mask = save(tmp_path / "masks" / "1.png", values)
    found = check_masks([Sample(save(tmp_path / "1.png"), "dent", mask)]).remarks
    assert len(found) == 1
    assert found[0].startswith(f"{mask}: ")
    assert words in found[0]


def test_a_mask_of_another_size_is_told_from_the_odd(tmp_path):
    mask = save(tmp_path / "masks" / "1.png", spot().T.copy())
    found = check_masks([Sample(save(tmp_path / "1.png"), "dent", mask)])
    assert found == MaskCheck(unfit={mask: f"is 6x9, but its image {tmp_path / '1.png'} is 9x6"}, defects=1)


def test_a_damaged_mask_is_named(tmp_path):
    mask = tmp_path / "1_mask.png"
    mask.write_text("no image")
    found = check_masks([Sample(save(tmp_path / "1.png"), "dent", mask)])
    assert found == MaskCheck(unreadable={mask: "is no image: text ('no image')"}, defects=1)


def test_defects_without_mask_and_marked_good_parts(tmp_path):
    a, b, c = (save(tmp_path / f"{name}.png") for name in "abc")
    masks = tmp_path / "masks"
    samples = [
        Sample(a, "dent", save(masks / "a_mask.png", spot())),
        Sample(b, "dent"),
        Sample(c, "good", save(masks / "c_mask.png", spot())),
    ]
    assert check_masks(samples).lines() == [
        f"1 of 2 images of defects have no mask, the first of them {b}; they are left out of the pixel metrics",
        f"{masks / 'c_mask.png'}: marks a defect, but its image {c} is of a good part",
    ]


def test_folders_of_masks_are_checked_file_by_file(tmp_path):
    save(tmp_path / "truth" / "1" / "000.png", spot())
    save(tmp_path / "truth" / "1" / "001.png", np.add.outer(np.arange(H), np.arange(W)).astype(np.uint8))
    found = check_masks([Sample(save(tmp_path / "1.png"), "dent", tmp_path / "truth" / "1")]).remarks
    assert len(found) == 1
    assert "001.png holds 14 different values" in found[0]
