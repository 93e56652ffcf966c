"""Defects made on normals: seeded, exact in their masks, on the object, and no natural variation."""

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import binary_dilation, gaussian_filter
from toy import command

from anomaly_lightning.data.defects import KINDS, DefectMaker, Recipe
from anomaly_lightning.data.defects.foreground import foreground, otsu, separable
from anomaly_lightning.data.defects.making import VISIBLE, changed_pixels, draw
from anomaly_lightning.data.defects.outlines import bar, patch, scar, softened
from anomaly_lightning.data.defects.variation import Variation
from anomaly_lightning.data.synthetic.noise import pixel
from anomaly_lightning.data.synthetic.shapes import cover, path, stroke, window
from anomaly_lightning.data.synthetic.specimen import Key, specimen
from anomaly_lightning.errors import DataError

SIZE = (96, 128)


@pytest.fixture(scope="module")
def normals():
    """Eight normals of a texture and of an object, (96, 128, 3) uint8."""
    return {
        name: [specimen(Key(0, name, "train", "good", index, SIZE)).image for index in range(8)]
        for name in ("leather", "screw")
    }


def maker(normals, **recipe):
    return DefectMaker(normals.__getitem__, len(normals), Recipe(**recipe), seed=3)


def test_the_same_numbers_give_the_same_image_and_others_another(normals):
    first, again = maker(normals["leather"]), maker(normals["leather"])
    for key in ((0, 0), (5, 2)):
        assert np.array_equal(first(*key).image, again(*key).image)
        assert np.array_equal(first(*key).mask, again(*key).mask)
    assert not np.array_equal(first(0, 0).image, first(0, 1).image)
    assert not np.array_equal(first(0).image, DefectMaker(normals["leather"].__getitem__, 8, Recipe(), 4)(0).image)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_visible_changes_outside_the_mask_and_something_inside(normals, kind):
    made = [maker(normals["leather"], kinds=(kind,), most=1)(number) for number in range(3)]
    for one in made:
        difference = np.abs(one.image.astype(int) - one.clean).max(axis=2)
        assert one.kinds == (kind,)
        assert one.mask.any()
        assert not one.mask.all()
        assert difference[~one.mask].max(initial=0) <= 8 * VISIBLE, "a faint rim, or a single pixel, at most"
        assert (difference[~one.mask] > VISIBLE).mean() < 0.02
        assert difference[one.mask].mean() > VISIBLE


def test_a_mask_is_what_changed_grown_by_one_pixel():
    clean = np.full((40, 50, 3), 100, np.uint8)
    changed = clean.copy()
    changed[10:20, 30:40] = 160
    mask = changed_pixels(clean, changed)
    assert mask[10:20, 30:40].all()
    grown = np.zeros((40, 50), bool)
    grown[9:21, 29:41] = True
    assert not mask[~grown].any()
    assert not changed_pixels(clean, clean).any()


@pytest.mark.parametrize("sigma", [0.3, 1.5, 4.0])
def test_smoothing_around_an_outline_is_smoothing_all_of_the_image(sigma):
    for seed in range(6):
        covered = patch(np.random.default_rng(seed), SIZE, (0.0, 40.0 * seed - 100.0), 0.5)
        assert np.array_equal(softened(covered, sigma), gaussian_filter(covered, sigma))
    assert not softened(np.zeros(SIZE, np.float32), sigma).any()


@pytest.mark.parametrize("length", [10.0, 90.0, 400.0])
def test_a_stroke_covers_nothing_outside_its_window(length):
    for seed in range(6):
        points = path(np.random.default_rng(seed), (0.0, 60.0 * seed - 180.0), length, 1.5)
        near = window(points, SIZE, 2.5 + pixel(SIZE))
        whole, part = (
            np.array(cover(stroke(points, SIZE, 5.0), SIZE)),
            cover(stroke(points, SIZE, 5.0, near=near), SIZE),
        )
        assert np.array_equal(whole[near], part)
        whole[near] = 0
        assert not whole.any()


def test_a_mask_is_found_in_the_box_of_the_outline_as_in_the_whole_image(normals):
    for seed in range(12):
        rng = np.random.default_rng(seed)
        changed, mask = draw(normals["leather"][0], normals["leather"][1], None, "shade", 0.5, 1.0, rng)
        assert np.array_equal(mask, changed_pixels(normals["leather"][0], changed))


@pytest.mark.parametrize("drawn", [patch, scar, bar])
def test_lengths_grow_with_the_size(drawn):
    small, large = (
        np.mean([drawn(np.random.default_rng(seed), SIZE, (0.0, 0.0), size).mean() for seed in range(8)])
        for size in (0.4, 1.0)
    )
    assert 0 < small < 0.6 * large


def test_changes_grow_with_the_contrast(normals):
    def changed(contrast):
        making = maker(normals["leather"], most=1, least=0.0, kinds=("shade",), vary=False, contrast=contrast)
        made = [making(number) for number in range(8)]
        return np.mean([np.abs(one.image.astype(float) - one.clean).max() for one in made])

    assert changed(0.3) < 0.6 * changed(1.0)


def test_only_an_object_before_a_plain_background_is_separable(normals):
    assert separable(normals["screw"])
    assert not separable(normals["leather"])
    assert not separable([])
    truth = np.zeros((60, 80), bool)
    truth[20:45, 30:60] = True
    image = np.where(truth[..., None], 200, 30).astype(np.uint8).repeat(3, 2)
    found = foreground(image)
    assert found is not None
    assert found.pixels[truth].all()
    assert found.pixels.sum() < 1.8 * truth.sum()
    np.testing.assert_allclose(found.behind, 30)


def test_otsu_finds_the_gap_between_two_classes():
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(10, 1, 700), rng.normal(50, 1, 300)])
    threshold, clear = otsu(values)
    assert 13 < threshold < 47
    assert clear == pytest.approx(0.997, abs=0.003)
    assert otsu(rng.uniform(0, 1, 5000))[1] == pytest.approx(0.75, abs=0.02)  # of a uniform density it is 3/4


def test_defects_lie_on_a_separable_object(normals):
    made = [maker(normals["screw"])(number) for number in range(8)]
    for one in made:
        found = foreground(one.clean)
        if found is not None:
            assert not (one.mask & ~binary_dilation(found.pixels, iterations=2)).any()


@pytest.mark.parametrize("name", ["leather", "screw"])
def test_hardly_any_defect_is_hidden_in_the_normals_own_variation(normals, name):
    """The share of defects that change less than two normals differ by, with the recipe and without its look."""
    faint = {"contrast": 0.2, "kinds": ("shade", "grain"), "most": 1}

    def hidden(**recipe):
        making = maker(normals[name], **recipe)
        made = [making(number % 8, number // 8) for number in range(12)]
        return np.mean([making.variation.strength(one.clean, one.image, one.mask) < 1 for one in made])

    assert hidden() <= 1 / 12
    assert hidden(**faint, least=0.0) >= 0.5
    assert hidden(**faint) < hidden(**faint, least=0.0)


def test_strength_is_told_in_what_two_normals_differ_by():
    rng = np.random.default_rng(0)
    normals = [np.clip(128 + 20 * rng.standard_normal((64, 64, 3)), 0, 255).astype(np.uint8) for _ in range(12)]
    variation, everywhere = Variation(normals), np.ones((64, 64), bool)
    assert variation.strength(normals[0], normals[5], everywhere) == pytest.approx(1, abs=0.1)
    assert variation.strength(normals[0], normals[0], everywhere) == 0
    assert variation.strength(normals[0], normals[5], ~everywhere) == 0
    spot = np.zeros((64, 64), bool)
    spot[10:30, 40:50] = True
    changed = np.where(spot[..., None], 250, normals[0]).astype(np.uint8)
    assert variation.strength(normals[0], changed, spot) > 3


def test_defects_are_made_on_normals_that_are_all_the_same():
    black = np.zeros((64, 64, 3), np.uint8)
    maker = DefectMaker(lambda number: black, 4, Recipe(vary=False))
    for version in range(8):
        made = maker(0, version)
        assert np.array_equal(made.mask.any(), (made.image != made.clean).any())
    # In levels: a patch of +8 is four times the least that a camera repeats, whose smoothing a wide mask hardly feels.
    changed, mask = black + np.uint8(8), np.ones((64, 64), bool)
    assert maker.variation.strength(black, changed, mask) == pytest.approx(8 / 2.0, rel=1e-3)


def test_a_recipe_without_a_meaning_is_refused(normals):
    for wrong in ({"size": 0.0}, {"contrast": -1.0}, {"most": 0}, {"least": -1.0}, {"kinds": ()}, {"kinds": ("rust",)}):
        with pytest.raises(DataError, match="Made defects"):
            Recipe(**wrong)
    with pytest.raises(DataError, match="none"):
        DefectMaker(normals["leather"].__getitem__, 0, Recipe())


def test_the_command_draws_a_sheet(root, tmp_path):
    ran = command(
        "defects", "category=custom", "category.name=widget", f"data.root={root}", "data.image_size=[64,48]",
        "count=7", f"output={tmp_path}/sheet.png", cwd=tmp_path,
    )  # fmt: skip
    assert ran.code == 0, ran.out
    assert Image.open(tmp_path / "sheet.png").size == (6 * 48, 2 * 3 * 64)
    assert "normals differ" in ran.out
