"""Connected regions of a mask: against scipy's labelling, and by hand."""

import numpy as np
import pytest
from scipy import ndimage

from anomaly_lightning.runtime.decision import exceeds
from anomaly_lightning.runtime.masks import predicted
from anomaly_lightning.runtime.regions import DefectRegion, find_regions

EIGHT = np.ones((3, 3))


def drawn(text):
    return np.array([[c == "#" for c in row] for row in text.split()])


def filled(contour, size):
    """(H, W) bool: the pixels inside a polygon along their edges, by the even-odd rule over its vertical edges."""
    inside = np.zeros(size, bool)
    for (x, y), (to_x, to_y) in zip(contour, (*contour[1:], contour[0]), strict=True):
        assert (x == to_x) != (y == to_y), "edges run along one axis, and none is empty"
        if x == to_x:
            inside[min(y, to_y) : max(y, to_y), x:] ^= True
    return inside


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("size", "blur", "share"), [((90, 130), 0, 0.4), ((200, 150), 2, 0.3), ((64, 64), 1, 0.7)])
def test_regions_are_scipys(seed, size, blur, share):
    noise = np.random.default_rng(seed).random(size, np.float32)
    smooth = ndimage.gaussian_filter(noise, blur) if blur else noise
    mask = smooth > np.quantile(smooth, 1 - share)
    labels, count = ndimage.label(mask, EIGHT)
    found = find_regions(mask, noise)
    assert len(found) == count
    wanted = []
    for label, (rows, columns) in enumerate(ndimage.find_objects(labels), start=1):
        box = (columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start)
        wanted.append((float(noise[labels == label].max()), box, int((labels == label).sum()), label))
    wanted.sort(key=lambda region: -region[0])
    assert [(region.peak, region.box, region.area) for region in found] == [region[:3] for region in wanted]
    for region, (*_, label) in zip(found, wanted, strict=True):
        # What is inside the outer outline of a region, which diagonal neighbours hold together, is not its outside.
        whole = ndimage.binary_fill_holes(labels == label, ndimage.generate_binary_structure(2, 1))
        np.testing.assert_array_equal(filled(region.contour, size), whole)


def test_one_pixel():
    values = np.zeros((3, 5), np.float32)
    values[1, 3] = 7
    assert find_regions(values > 5, values) == (
        DefectRegion(box=(3, 1, 1, 1), contour=((3, 1), (4, 1), (4, 2), (3, 2)), area=1, peak=7.0),
    )


def test_nothing_and_everything():
    values = np.ones((4, 6), np.float32)
    assert find_regions(values > 1, values) == ()
    (region,) = find_regions(values > 0, values)
    assert (region.box, region.area) == ((0, 0, 6, 4), 24)
    assert region.contour == ((0, 0), (6, 0), (6, 4), (0, 4))


@pytest.mark.parametrize("picture", ["#.. .#. ..#", "..# .#. #.."])
def test_diagonal_neighbours_are_one_region_with_one_outline(picture):
    mask = drawn(picture)
    (region,) = find_regions(mask, mask.astype(np.float32))
    assert (region.box, region.area, len(region.contour)) == ((0, 0, 3, 3), 3, 12)
    np.testing.assert_array_equal(filled(region.contour, (3, 3)), mask)


def test_a_ring_has_its_outer_outline_and_what_lies_in_it_its_own():
    mask = drawn("##### #...# #.#.# #...# #####")
    values = mask.astype(np.float32)
    values[2, 2] = 9
    inner, ring = find_regions(mask, values)
    assert (inner.box, inner.area, inner.peak) == ((2, 2, 1, 1), 1, 9.0)
    assert (ring.area, ring.contour) == (16, ((0, 0), (5, 0), (5, 5), (0, 5)))


def test_arms_that_meet_late_are_one_region():
    mask = drawn("#.#.#.# #.#.#.# ####### ....... #.....#")
    found = find_regions(mask, mask.astype(np.float32))
    assert sorted(region.area for region in found) == [1, 1, 15]


class TestMasks:
    """From a map to a mask, against scipy's filter."""

    @pytest.mark.parametrize("share", [0.0, 0.15, 0.5, 0.99])
    @pytest.mark.parametrize("side", [1, 2, 9, 200])
    def test_a_pixel_lies_a_share_of_the_way_to_the_largest_value_around_it(self, share, side):
        for seed in range(3):
            values = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(40, 57)), 2.0).astype(np.float32)
            above, threshold = exceeds(values, 0.05), 0.05
            beyond = np.where(above, values - threshold, 0)
            square = 2 * (side // 2) + 1
            largest = ndimage.maximum_filter(beyond, (square, square), mode="constant")
            found = predicted(values, threshold, share, side)
            assert np.array_equal(found, above & (beyond >= share * largest))
            assert found.sum() > 0

    def test_nothing_above_the_threshold_is_an_empty_mask(self):
        assert not predicted(np.zeros((4, 5)), 1.0, 0.3).any()
        assert not predicted(np.ones((4, 5)), float("nan"), 0.3).any()
