"""The geometry of ImageTransform, against torch's own interpolation and against planted defects."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from anomaly_lightning.errors import DataError
from anomaly_lightning.runtime.transform import ImageTransform

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
SHAPES = {"square": (300, 300), "wide": (240, 360), "tall": (360, 240)}


def image(height: int, width: int, seed: int = 0) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def test_stretch_is_pillows_antialiased_bilinear_then_normalised():
    source = image(70, 90)
    resized = np.asarray(source.resize((40, 30), Image.Resampling.BILINEAR)) / 255
    images = ImageTransform((30, 40), MEAN, STD)(source)
    assert images.dtype == torch.float32
    np.testing.assert_allclose(images.permute(1, 2, 0).numpy(), (resized - MEAN) / STD, atol=1e-5)


@pytest.mark.parametrize(("height", "width", "box"), [(50, 100, (8, 0, 16, 32)), (90, 30, (0, 10, 32, 11))])
def test_letterbox_keeps_the_aspect_and_pads_with_zero(height, width, box):
    top, left, rows, columns = box
    source = image(height, width)
    images = ImageTransform(32, MEAN, STD, "letterbox")(source)
    inside = torch.zeros(32, 32, dtype=torch.bool)
    inside[top : top + rows, left : left + columns] = True
    assert images.shape == (3, 32, 32)
    assert (images[:, ~inside] == 0).all()
    resized = np.asarray(source.resize((columns, rows), Image.Resampling.BILINEAR)) / 255
    wanted = torch.from_numpy((resized - MEAN) / STD).permute(2, 0, 1).float()
    torch.testing.assert_close(images[:, top : top + rows, left : left + columns], wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize("original", [(70, 90), (20, 17), (30, 40), (1, 200)])
def test_restore_after_stretch_is_torchs_interpolation(original):
    values = torch.rand(2, 30, 40)
    restored = ImageTransform((30, 40), MEAN, STD).restore(values, original)
    wanted = F.interpolate(values[None], original, mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(restored, wanted, atol=1e-5, rtol=0)


def test_restore_after_letterbox_cuts_the_padding_off():
    values = torch.full((32, 32), 1e6)
    values[8:24] = torch.rand(16, 32)
    restored = ImageTransform(32, MEAN, STD, "letterbox").restore(values, (50, 100))
    wanted = F.interpolate(values[None, None, 8:24], (50, 100), mode="bilinear", align_corners=False)[0, 0]
    torch.testing.assert_close(restored, wanted, atol=1e-5, rtol=0)


def test_a_coarse_map_never_shows_the_padding():
    values = torch.full((4, 4), 1e6)
    values[1:3] = 1.0
    restored = ImageTransform(32, MEAN, STD, "letterbox").restore(values, (50, 100))
    torch.testing.assert_close(restored, torch.ones(50, 100))


@pytest.mark.parametrize("resize", ["stretch", "letterbox"])
@pytest.mark.parametrize("original", [(1, 1), (1, 3000), (3000, 1), (5, 7)])
def test_extreme_images_go_there_and_back(resize, original):
    transform = ImageTransform((24, 16), MEAN, STD, resize)
    assert transform(Image.new("RGB", (original[1], original[0]))).shape == (3, 24, 16)
    assert transform.mask(torch.ones(original, dtype=torch.bool)).any()
    assert transform.restore(torch.rand(3, 2), original).shape == original


@pytest.mark.parametrize("resize", ["stretch", "letterbox"])
def test_mask_falls_on_the_pixels_that_the_image_falls_on(resize):
    mask = torch.zeros(60, 90, dtype=torch.bool)
    mask[20:40, 50:80] = True
    transform = ImageTransform((48, 40), (0, 0, 0), (1, 1, 1), resize)
    shown = Image.fromarray(np.repeat(mask.numpy()[..., None] * np.uint8(255), 3, axis=2))
    small = transform.mask(mask)
    assert small.dtype == torch.bool
    assert small.shape == (48, 40)
    assert ((transform(shown)[0] > 0.5) != small).float().mean() < 0.01


def test_a_mask_at_its_own_size_stays_as_it_is():
    mask = torch.rand(24, 16) > 0.5
    assert torch.equal(ImageTransform((24, 16), MEAN, STD).mask(mask), mask)


def hits(transform: ImageTransform, height: int, width: int, pool: int = 8, defect: int = 12) -> int:
    """How often of 100 the peak of a toy map lies inside a planted defect's box."""
    rng = np.random.default_rng(0)
    normal = rng.integers(90, 110, (height, width, 3), dtype=np.uint8)
    count = 0
    for _ in range(100):
        top, left = rng.integers(0, height - defect + 1), rng.integers(0, width - defect + 1)
        broken = normal.copy()
        broken[top : top + defect, left : left + defect] = 255
        difference = (transform(Image.fromarray(broken)) - transform(Image.fromarray(normal))).abs()
        coarse = F.avg_pool2d(difference.mean(0)[None], pool)[0]
        row, column = divmod(int(transform.restore(coarse, (height, width)).argmax()), width)
        count += top <= row < top + defect and left <= column < left + defect
    return count


@pytest.mark.parametrize("resize", ["stretch", "letterbox"])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_peak_lies_inside_a_planted_defect(shape, resize):
    assert hits(ImageTransform(256, MEAN, STD, resize), *SHAPES[shape]) >= 95


def test_config_goes_there_and_back():
    transform = ImageTransform(24, MEAN, STD, "letterbox")
    config = transform.to_config()
    assert config == {"size": [24, 24], "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.25, 0.3], "resize": "letterbox"}
    again = ImageTransform.from_config(config)
    assert torch.equal(again(image(31, 47)), transform(image(31, 47)))


def test_config_with_other_keys_is_refused():
    with pytest.raises(DataError, match="antialias"):
        ImageTransform.from_config({**ImageTransform(8, MEAN, STD).to_config(), "antialias": False})


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


def test_a_image_that_is_not_rgb_is_refused():
    with pytest.raises(ValueError, match="mode L"):
        ImageTransform(8, MEAN, STD)(Image.new("L", (8, 8)))
