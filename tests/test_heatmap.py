"""The drawing: a colour means the same on every image, outlines lie inside, nothing else is scaled."""

import numpy as np
import pytest
from matplotlib import colormaps
from PIL import Image
from scipy import ndimage

from anomaly_lightning.runtime.heatmap import PREDICTED, TRUTH, TURBO, heatmap, outline, overlay, scaled


def slope(top):
    """(40, 64) float from 0 to `top`, off the diagonal."""
    return np.linspace(0, top, 64, dtype=np.float32)[None].repeat(40, 0)


def grey(value=120, height=40, width=64):
    return Image.fromarray(np.full((height, width, 3), value, np.uint8))


def test_the_threshold_has_the_colour_of_the_middle():
    drawn = heatmap(np.array([[0.0, 0.5, 1.0, 50.0]], np.float32), 0.5)
    wanted = (np.array([colormaps["turbo"](v)[:3] for v in (0.0, 0.5, 1.0, 1.0)]) * 255).astype(np.uint8)
    assert drawn.dtype == np.uint8
    assert np.array_equal(drawn[0], wanted)


def test_the_colours_are_matplotlibs_turbo():
    values = np.random.default_rng(0).random((40, 64), np.float32)
    wanted = (colormaps["turbo"](values)[..., :3] * 255).astype(np.uint8)
    np.testing.assert_array_equal(heatmap(values, 0.5), wanted)
    assert len(np.unique(TURBO, axis=0)) == 256


@pytest.mark.parametrize("size", [(40, 64), (700, 310), (1000, 1500)])
def test_the_outline_is_what_scipys_erosion_leaves(size):
    mask = ndimage.gaussian_filter(np.random.default_rng(0).random(size), 4) > 0.5
    width = max(1, round(min(size) / 300))
    wanted = mask & ~ndimage.binary_erosion(mask, iterations=width, border_value=1)
    assert wanted.any()
    np.testing.assert_array_equal(outline(mask), wanted)


def test_a_value_has_one_colour_whatever_else_is_on_the_image():
    quiet, loud = slope(0.4), slope(0.4).copy()
    loud[0, :] = 1000.0  # scaling by the image's own range would turn all the rest dark
    assert np.array_equal(heatmap(quiet, 1.0)[1:], heatmap(loud, 1.0)[1:])
    assert np.array_equal(overlay(grey(), quiet, 1.0)[1:], overlay(grey(), loud, 1.0)[1:])


def test_scaling_is_anchored_at_the_threshold_alone():
    np.testing.assert_allclose(scaled(slope(3.0), 2.0), slope(3.0) / 4)
    assert scaled(np.array([[-1.0, 99.0]]), 2.0).tolist() == [[0.0, 1.0]]


@pytest.mark.parametrize("threshold", [float("nan"), 0.0, -1.0])
def test_without_a_threshold_nothing_is_claimed(threshold):
    assert not scaled(slope(3.0), threshold).any()
    drawn = overlay(grey(), slope(3.0), threshold)
    assert (drawn == drawn[0, 0]).all()


def test_the_outline_is_the_inner_border():
    mask = np.zeros((40, 64), bool)
    mask[10:20, 30:50] = True
    border = outline(mask)
    inner = np.zeros_like(mask)
    inner[11:19, 31:49] = True
    assert np.array_equal(border, mask & ~inner)
    assert not (outline(np.ones((40, 64), bool))).any()  # the image's own edge is no border
    assert not outline(np.zeros((40, 64), bool)).any()


def test_the_outline_grows_with_the_image():
    mask = np.zeros((900, 1200), bool)
    mask[100:500, 300:600] = True
    assert outline(mask)[:, 450].sum() == 2 * 3


def test_the_overlay_shows_prediction_and_truth_where_they_are():
    found = np.zeros((40, 64), np.float32)
    found[5:15, 40:60] = 1.0
    truth = np.zeros((40, 64), bool)
    truth[25:35, 2:12] = True
    drawn = overlay(grey(), found, 0.5, truth=truth)
    assert drawn.shape == (40, 64, 3)
    assert drawn.dtype == np.uint8
    magenta, white = ((drawn == colour).all(-1) for colour in (PREDICTED, TRUTH))
    assert np.array_equal(magenta, outline(found > 0.5))
    assert np.array_equal(white, outline(truth))


def test_the_overlay_is_stronger_where_the_error_is_larger_and_keeps_the_image():
    values = np.zeros((40, 64), np.float32)
    values[:, 32:] = 0.9
    dark, light = overlay(grey(0), values, 1.0), overlay(grey(255), values, 1.0)
    seen = light.astype(int) - dark  # how much of the image comes through
    assert (seen[:, :32] > seen[:, 32:] + 50).all()
    assert (seen > 60).all()
