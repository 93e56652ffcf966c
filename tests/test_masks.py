"""Masks that fit and masks that don't."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anomaly_lightning.data.masks import MaskCheck, MaskFinder, check_masks, refuse_shared_masks
from anomaly_lightning.data.samples import Sample
from anomaly_lightning.errors import DataError

H, W = 6, 9


def save(path: Path, values: np.ndarray | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((H, W), dtype=np.uint8) if values is None else values).save(path)
    return path


def spot(value: int = 255) -> np.ndarray:
    values = np.zeros((H, W), dtype=np.uint8)
    values[2, 3:5] = value
    return values


@pytest.mark.parametrize("name", ["1_mask.png", "1_gt.bmp", "1_label.tif", "mask_1.png", "1.jpg"])
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


def test_two_masks_of_one_name_are_refused(tmp_path):
    save(tmp_path / "1_mask.png")
    save(tmp_path / "1_mask.bmp")
    with pytest.raises(DataError, match=r"several masks of one name: .*1_mask.bmp, .*1_mask.png"):
        MaskFinder(tmp_path).find(Path("1.png"), Path("1.png"))


def test_a_mask_of_two_images_is_refused():
    samples = [Sample(Path(f"{d}/1.png"), d, Path("masks/1.png")) for d in ("dent", "scratch")]
    with pytest.raises(DataError, match=r"dent/1.png and scratch/1.png"):
        refuse_shared_masks(samples)


def test_masks_that_fit_are_silent(tmp_path):
    for value in (1, 255):
        sample = Sample(save(tmp_path / "1.png"), "dent", save(tmp_path / "masks" / "1.png", spot(value)))
        assert check_masks([sample, Sample(tmp_path / "1.png")]) == MaskCheck({}, {}, [])


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
    assert found == MaskCheck({}, {mask: f"is 6x9, but its image {tmp_path / '1.png'} is 9x6"}, [])


def test_a_damaged_mask_is_named(tmp_path):
    mask = tmp_path / "1_mask.png"
    mask.write_text("no image")
    found = check_masks([Sample(save(tmp_path / "1.png"), "dent", mask)])
    assert found == MaskCheck({mask: "is no image: text ('no image')"}, {}, [])


def test_defects_without_mask_and_marked_good_parts(tmp_path):
    a, b, c = (save(tmp_path / f"{name}.png") for name in "abc")
    masks = tmp_path / "masks"
    samples = [
        Sample(a, "dent", save(masks / "a_mask.png", spot())),
        Sample(b, "dent"),
        Sample(c, "good", save(masks / "c_mask.png", spot())),
    ]
    assert check_masks(samples).remarks == [
        f"{b}: an image of a defect (dent) without a mask",
        f"{masks / 'c_mask.png'}: marks a defect, but its image {c} is of a good part",
    ]


def test_folders_of_masks_are_checked_file_by_file(tmp_path):
    save(tmp_path / "truth" / "1" / "000.png", spot())
    save(tmp_path / "truth" / "1" / "001.png", np.add.outer(np.arange(H), np.arange(W)).astype(np.uint8))
    found = check_masks([Sample(save(tmp_path / "1.png"), "dent", tmp_path / "truth" / "1")]).remarks
    assert len(found) == 1
    assert "001.png holds 14 different values" in found[0]
