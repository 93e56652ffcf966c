"""One way in: however an image is given, decoded alike and scored alike; and what is said of it, by hand."""

import io

import numpy as np
import pytest
from PIL import Image
from toy import card, save, texture

from anomaly_lightning.errors import CheckpointError, DataError, NotCalibratedError, UserError
from anomaly_lightning.runtime.card import RegionCard, ThresholdsCard
from anomaly_lightning.runtime.decision import exceeds, verdict
from anomaly_lightning.runtime.files import images_in
from anomaly_lightning.runtime.inspection import Inspection
from anomaly_lightning.runtime.inspector import Inspector
from anomaly_lightning.runtime.reading import as_image, read_image
from anomaly_lightning.runtime.tiles import Tiling
from anomaly_lightning.runtime.transform import ImageTransform

HEIGHT, WIDTH = 40, 60
TRANSFORM = ImageTransform((20, 30), (0, 0, 0), (1, 1, 1))


class Redness:
    """An engine whose map is the red channel in [0, 1]; counts what it was given."""

    def __init__(self):
        self.batches = []

    def run(self, images):
        self.batches.append(len(images))
        return images[:, 0], images[:, 0].max((1, 2))


def inspector(review=None, **changed):
    known = ThresholdsCard(score=0.5, pixel=0.4, review=review)
    return Inspector(card(TRANSFORM, thresholds=known, **changed), Redness())


def spotted(level=255):
    """(40, 60, 3) uint8: black with a spot of 6 x 8 pixels."""
    values = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    values[10:16, 40:48, 0] = level
    return values


@pytest.mark.parametrize(
    ("score", "review", "reason", "word"),
    [
        (0.5, None, None, "OK"),
        (0.4, 0.4, None, "OK"),
        (0.5, 0.4, None, "REVIEW"),
        (0.6, 0.4, None, "NG"),
        (float("nan"), None, None, "NG"),
        (0.6, None, "black", "INVALID"),
        (0.1, None, "black", "INVALID"),
    ],
)
def test_verdict(score, review, reason, word):
    assert verdict(score, 0.5, review, reason) == word
    maps = np.zeros((2, 3), np.float32)
    assert Inspection(Image.new("RGB", (3, 2)), score, maps, 0.5, 0.5, review, reason).verdict == word


def test_arrays_are_held_against_a_threshold_as_numbers_are():
    scores = np.array([0.4, 0.5, 0.6])
    assert exceeds(scores, 0.5).tolist() == [exceeds(score, 0.5) for score in scores.tolist()] == [False, False, True]


@pytest.mark.parametrize("above", [4e-7, 3e-6, 3e-5, -1e-3])
def test_a_score_that_differs_from_the_threshold_by_the_shape_of_its_batch_does_not_exceed_it(above):
    """Wherever it is asked: of numbers, of float32 and float64, of pixels, in verdicts, metrics and counts."""
    score = 138.4567 * (1 + above)
    assert not exceeds(score, 138.4567)
    assert verdict(score, 138.4567) == "OK"
    assert verdict(0.9 * 138.4567, 138.4567, review=0.9 * 138.4567 / (1 + above)) == "OK"
    for dtype in (np.float32, np.float64):
        assert not exceeds(np.full((2, 3), score, dtype), 138.4567).any()
    assert not Inspection(Image.new("RGB", (3, 2)), 0.0, np.full((2, 3), score, np.float32), 1.0, 138.4567).mask.any()


def test_what_lies_a_thousandth_above_the_threshold_exceeds_it():
    assert exceeds(138.4567 * 1.001, 138.4567)
    assert exceeds(-138.4567 * 0.999, -138.4567), "below zero the margin points upwards, too"
    assert not exceeds(-138.4567 * 0.999999, -138.4567)
    assert exceeds(5e-324, 0.0)


def test_what_is_said_of_a_spot():
    said = inspector()(spotted())
    assert said.verdict == "NG"
    assert said.score == pytest.approx(1.0)
    assert (said.anomaly_map.shape, said.anomaly_map.dtype) == ((HEIGHT, WIDTH), np.float32)
    assert (said.mask.shape, said.mask.dtype) == ((HEIGHT, WIDTH), bool)
    np.testing.assert_array_equal(said.mask, said.anomaly_map > 0.4)
    (region,) = said.regions
    left, top, width, height = region.box
    assert abs(left - 40) <= 1
    assert abs(top - 10) <= 1
    assert abs(width - 8) <= 2
    assert abs(height - 6) <= 2
    assert region.area == said.mask.sum()
    assert region.peak == pytest.approx(said.anomaly_map.max())
    drawn = said.heatmap()
    assert (drawn.shape, drawn.dtype) == ((HEIGHT, WIDTH, 3), np.uint8)
    assert said.image.size == (WIDTH, HEIGHT)
    assert inspector()(spotted(90)).verdict == "OK"
    assert inspector(review=0.3)(spotted(90)).verdict == "REVIEW"


def grey16(tmp_path, rng):
    values = rng.integers(0, 65536, (HEIGHT, WIDTH)).astype(np.uint16)
    return save(values, tmp_path / "deep.png"), save(values, tmp_path / "deep.tif")


def written(tmp_path, rng):
    """Files of many forms."""
    colours = Image.fromarray(texture(rng, HEIGHT, WIDTH))
    alpha = colours.copy()
    alpha.putalpha(Image.fromarray(rng.integers(0, 256, (HEIGHT, WIDTH), dtype=np.uint8)))
    turned = Image.Exif()
    turned[0x0112] = 6
    made = {
        "rgb.png": (colours, {}),
        "turned.jpg": (colours, {"exif": turned}),
        "turned.tif": (colours, {"exif": turned}),
        "alpha.png": (alpha, {}),
        "grey.png": (colours.convert("L"), {}),
        "palette.png": (colours.quantize(16), {}),
        "palette.gif": (colours.quantize(16), {}),
        "bits.png": (colours.convert("1"), {}),
        "cmyk.tif": (colours.convert("CMYK"), {}),
        "float.tif": (Image.fromarray(rng.random((HEIGHT, WIDTH), np.float32)), {}),
    }
    for name, (image, options) in made.items():
        image.save(tmp_path / name, **options)
    return [*grey16(tmp_path, rng), *(tmp_path / name for name in made)]


def test_a_path_an_open_image_and_an_array_are_one_image(tmp_path):
    inspect = inspector()
    for path in written(tmp_path, np.random.default_rng(0)):
        known = inspect(path)
        with Image.open(path) as opened:
            before = (opened.mode, opened.size)
            others = [inspect(opened), inspect(str(path)), inspect(np.asarray(known.image))]
            assert (opened.mode, opened.size) == before, "the caller's image stays as it is"
        with Image.open(io.BytesIO(path.read_bytes())) as opened:
            others.append(inspect(opened))
        for said in others:
            assert said.score == known.score, path
            np.testing.assert_array_equal(said.anomaly_map, known.anomaly_map)
            np.testing.assert_array_equal(np.asarray(said.image), np.asarray(known.image))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.zeros((4, 5), np.uint8), r"grey image: pass PIL.Image.fromarray\(array\)"),
        (np.zeros((4, 5), np.uint16), r"uint16 \(4, 5\).*grey image"),
        (np.zeros((4, 5, 1), np.uint8), r"array\[..., 0\]"),
        (np.zeros((4, 5, 4), np.uint8), "RGBA"),
        (np.zeros((3, 4, 5), np.uint8), r"transpose\(1, 2, 0\)"),
        (np.zeros((2, 4, 5, 3), np.uint8), r"list\(array\)"),
        (np.zeros((4, 5, 3), np.float32), r"255 \* array"),
        (np.zeros((4, 5, 3), np.int64), "RGB order, got int64"),
        (np.zeros((0, 5, 3), np.uint8), "no pixels"),
        (None, "got builtins.NoneType"),
        (b"bytes", "got builtins.bytes"),
    ],
)
def test_what_is_no_image_is_told_what_it_has_to_become(values, words):
    with pytest.raises(UserError, match=words):
        inspector()(values)


def test_a_reversed_view_is_what_it_shows():
    bgr = spotted()[..., ::-1]
    assert inspector()(bgr[..., ::-1]).score == pytest.approx(1.0)
    assert inspector()(bgr).score == 0.0


def test_a_damaged_open_image_is_a_data_error(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    whole = save(noise, tmp_path / "cut.png").read_bytes()
    with (
        Image.open(io.BytesIO(whole[: len(whole) // 2])) as opened,
        pytest.raises(DataError, match=r"the image: truncated"),
    ):
        inspector()(opened)


def test_lists_are_one_answer_each_in_order_and_go_in_batches():
    inspect = inspector()
    images = [spotted(level) for level in range(0, 250, 10)]
    said = inspect(images)
    assert [item.score for item in said] == [inspect(image).score for image in images]
    assert inspect.engine.batches[:4] == [8, 8, 8, 1]
    assert inspect(()) == []


def test_a_stream_says_why_an_image_cannot_be_read_and_goes_on(tmp_path):
    (tmp_path / "text.png").write_text("hello")
    inspect = inspector()
    said = list(inspect.stream([spotted(), tmp_path / "text.png", spotted(90), tmp_path / "gone.png"], batch_size=2))
    assert [isinstance(item, DataError) for item in said] == [False, True, False, True]
    assert [said[0].verdict, said[2].verdict] == ["NG", "OK"]
    with pytest.raises(DataError, match="hello"):
        inspect([spotted(), tmp_path / "text.png"])
    alone = list(inspect.stream([tmp_path / "gone.png"]))
    assert len(alone) == 1


@pytest.mark.parametrize("size", [0, -1])
def test_a_stream_in_batches_of_nothing_is_refused(size):
    with pytest.raises(UserError, match=rf"batch_size={size}: expected a number of images, 1 or more"):
        list(inspector().stream([spotted()], batch_size=size))


def test_only_the_region_counts():
    left = RegionCard((HEIGHT, WIDTH), ((0, 0), (0.5, 0), (0.5, 1), (0, 1)), fixed=False)
    said = inspector(region=left)(np.full((HEIGHT, WIDTH, 3), 200, np.uint8))
    assert (said.anomaly_map[:, :30] > 0).all()
    assert not said.anomaly_map[:, 30:].any()
    assert said.regions[0].box == (0, 0, 30, 40)
    with pytest.raises(DataError, match=r"the image is 60x90 pixels, another aspect"):
        inspector(region=left)(np.zeros((90, 60, 3), np.uint8))


def test_tiles_go_through_the_engine_and_the_worst_gives_the_score():
    tiling = Tiling((20, 30), 10)
    inspect = inspector(tiling=tiling.card())
    said = inspect(spotted())
    assert said.score == pytest.approx(1.0)
    assert (sum(inspect.engine.batches), max(inspect.engine.batches)) == (len(tiling.boxes((HEIGHT, WIDTH))), 8)
    np.testing.assert_allclose(said.anomaly_map, spotted()[..., 0] / 255, atol=1e-6)
    assert [item.score for item in inspect([spotted(), spotted(51)])] == pytest.approx([1.0, 0.2])


def test_a_model_without_a_threshold_is_refused():
    with pytest.raises(NotCalibratedError):
        Inspector(card(TRANSFORM, thresholds=None), Redness())


def test_what_is_no_model_is_told(tmp_path):
    with pytest.raises(CheckpointError, match=r"is no model: expected a file that ends in \.ckpt"):
        Inspector.load(tmp_path / "model.pt")


def test_a_checkpoint_scores_as_its_files_do(checkpoint, root):
    inspect = Inspector.load(checkpoint, "cpu")
    paths = images_in(root / "widget" / "test", recursive=True)
    for path, said in zip(paths, inspect(paths), strict=True):
        alone = inspect(np.asarray(as_image(path)))
        assert said.score == pytest.approx(alone.score, rel=1e-5)
        assert said.verdict == alone.verdict
        assert said.image.tobytes() == read_image(path).tobytes()
