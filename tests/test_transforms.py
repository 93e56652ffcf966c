"""ImageTransform against torch and torchvision, to the last bit, and against planted defects."""

import json

import msgspec
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torchvision.transforms import v2

from anomaly_lightning.errors import DataError
from anomaly_lightning.runtime.card import TransformCard
from anomaly_lightning.runtime.transform import ImageTransform

tv = v2.functional
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
SHAPES = {"square": (300, 300), "wide": (240, 360), "tall": (360, 240)}


def image(height: int, width: int, seed: int = 0) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def reference(source: Image.Image, size: tuple[int, int]) -> torch.Tensor:
    """(3, h, w) float32 by torchvision."""
    resized = tv.resize(source, list(size), interpolation=v2.InterpolationMode.BILINEAR, antialias=True)
    return tv.normalize(tv.to_dtype(tv.pil_to_tensor(resized), torch.float32, scale=True), list(MEAN), list(STD))


@pytest.mark.parametrize("size", [(70, 90), (30, 40), (200, 17)])
def test_stretch_is_torchvisions_resize_and_normalisation_to_the_last_bit(size):
    source = image(70, 90)
    images = ImageTransform(size, MEAN, STD)(source)
    assert images.dtype == np.float32
    np.testing.assert_array_equal(images, reference(source, size))


def test_all_levels_of_all_channels_are_normalised_as_torchvision_does():
    levels = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)
    source = Image.fromarray(levels)
    for mean, std in ((MEAN, STD), ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), ((0.5,) * 3, (0.5,) * 3)):
        wanted = tv.normalize(tv.to_dtype(tv.pil_to_tensor(source), torch.float32, scale=True), list(mean), list(std))
        np.testing.assert_array_equal(ImageTransform((1, 256), mean, std)(source), wanted)


@pytest.mark.parametrize(("height", "width", "box"), [(50, 100, (8, 0, 16, 32)), (90, 30, (0, 10, 32, 11))])
def test_letterbox_keeps_the_aspect_and_pads_with_zero(height, width, box):
    top, left, rows, columns = box
    source = image(height, width)
    images = ImageTransform(32, MEAN, STD, "letterbox")(source)
    inside = np.zeros((32, 32), bool)
    inside[top : top + rows, left : left + columns] = True
    assert images.shape == (3, 32, 32)
    assert (images[:, ~inside] == 0).all()
    wanted = reference(source, (rows, columns))
    np.testing.assert_array_equal(images[:, top : top + rows, left : left + columns], wanted)


def interpolated(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(..., h, w) to (..., H, W) by torch, in float64: in float32 its positions are a few 1e-6 off."""
    whole = torch.from_numpy(values).double().reshape(1, -1, *values.shape[-2:])
    return F.interpolate(whole, size, mode="bilinear", align_corners=False).reshape(*values.shape[:-2], *size).numpy()


@pytest.mark.parametrize("original", [(70, 90), (20, 17), (30, 40), (1, 200)])
def test_restore_after_stretch_is_torchs_interpolation(original):
    values = np.random.default_rng(0).random((2, 30, 40), np.float32)
    restored = ImageTransform((30, 40), MEAN, STD).restore(values, original)
    assert restored.dtype == np.float32
    np.testing.assert_allclose(restored, interpolated(values, original), atol=1e-6, rtol=0)


def test_restore_after_letterbox_cuts_the_padding_off():
    values = np.full((32, 32), 1e6, np.float32)
    values[8:24] = np.random.default_rng(0).random((16, 32), np.float32)
    restored = ImageTransform(32, MEAN, STD, "letterbox").restore(values, (50, 100))
    np.testing.assert_allclose(restored, interpolated(values[8:24], (50, 100)), atol=1e-6, rtol=0)


def test_a_coarse_map_never_shows_the_padding():
    values = np.full((4, 4), 1e6)
    values[1:3] = 1.0
    restored = ImageTransform(32, MEAN, STD, "letterbox").restore(values, (50, 100))
    np.testing.assert_array_equal(restored, np.ones((50, 100)))


@pytest.mark.parametrize("resize", ["stretch", "letterbox"])
@pytest.mark.parametrize("original", [(1, 1), (1, 3000), (3000, 1), (5, 7)])
def test_extreme_images_go_there_and_back(resize, original):
    transform = ImageTransform((24, 16), MEAN, STD, resize)
    assert transform(Image.new("RGB", (original[1], original[0]))).shape == (3, 24, 16)
    assert transform.mask(np.ones(original, bool)).any()
    assert transform.restore(np.ones((3, 2)), original).shape == original


@pytest.mark.parametrize("resize", ["stretch", "letterbox"])
def test_mask_falls_on_the_pixels_that_the_image_falls_on(resize):
    mask = np.zeros((60, 90), bool)
    mask[20:40, 50:80] = True
    transform = ImageTransform((48, 40), (0, 0, 0), (1, 1, 1), resize)
    shown = Image.fromarray(np.repeat(mask[..., None] * np.uint8(255), 3, axis=2))
    small = transform.mask(mask)
    assert small.dtype == bool
    assert small.shape == (48, 40)
    assert ((transform(shown)[0] > 0.5) != small).mean() < 0.01


def test_a_mask_at_its_own_size_stays_as_it_is():
    mask = np.random.default_rng(0).random((24, 16)) > 0.5
    np.testing.assert_array_equal(ImageTransform((24, 16), MEAN, STD).mask(mask), mask)


def hits(transform: ImageTransform, height: int, width: int, pool: int = 8, defect: int = 12) -> int:
    """How often of 100 the peak of a toy map lies inside a planted defect's box."""
    rng = np.random.default_rng(0)
    normal = rng.integers(90, 110, (height, width, 3), dtype=np.uint8)
    count = 0
    for _ in range(100):
        top, left = rng.integers(0, height - defect + 1), rng.integers(0, width - defect + 1)
        broken = normal.copy()
        broken[top : top + defect, left : left + defect] = 255
        difference = np.abs(transform(Image.fromarray(broken)) - transform(Image.fromarray(normal))).mean(0)
        coarse = F.avg_pool2d(torch.from_numpy(difference)[None], pool)[0].numpy()
        row, column = divmod(int(transform.restore(coarse, (height, width)).argmax()), width)
        count += top <= row < top + defect and left <= column < left + defect
    return count


@pytest.mark.parametrize("resize", ["stretch", "letterbox"])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_peak_lies_inside_a_planted_defect(shape, resize):
    assert hits(ImageTransform(256, MEAN, STD, resize), *SHAPES[shape]) >= 95


def test_the_card_goes_there_and_back():
    transform = ImageTransform(24, MEAN, STD, "letterbox")
    card = msgspec.convert(json.loads(msgspec.json.encode(transform.card())), TransformCard)
    assert card == TransformCard((24, 24), MEAN, STD, "letterbox")
    again = ImageTransform.from_card(card)
    np.testing.assert_array_equal(again(image(31, 47)), transform(image(31, 47)))


@pytest.mark.parametrize(
    ("size", "mean", "std", "resize", "words"),
    [
        (0, MEAN, STD, "stretch", "at least 1 pixel"),
        ((8, 8, 8), MEAN, STD, "stretch", "height, width"),
        (8, MEAN[:1], STD, "stretch", "three numbers"),
        (8, MEAN, (1, 0, 1), "stretch", "above 0"),
        (8, MEAN, STD, "crop", "stretch, letterbox"),
    ],
)
def test_senseless_settings_are_refused(size, mean, std, resize, words):
    with pytest.raises(DataError, match=words):
        ImageTransform(size, mean, std, resize)


def test_an_image_that_is_not_rgb_is_refused():
    with pytest.raises(ValueError, match="mode L"):
        ImageTransform(8, MEAN, STD)(Image.new("L", (8, 8)))
