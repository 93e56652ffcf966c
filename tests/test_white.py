"""Grey images of 10, 12 or 14 bits in 16 are seen as bright as their camera saw them, in every path alike."""

import csv
import json
import struct

import numpy as np
import pytest
from PIL import Image
from toy import BARE, SMALL, command, flat, save, texture

from anomaly_lightning.data.white import find_white
from anomaly_lightning.errors import DataError
from anomaly_lightning.runtime.inspector import Inspector
from anomaly_lightning.runtime.reading import as_image, read_image


def ramp(top):
    """(2, 300) uint16 from 0 to `top`."""
    return np.linspace(0, top, 600).round().astype(np.uint16).reshape(2, 300)


@pytest.mark.parametrize(
    ("top", "white"), [(200, 1023), (1023, 1023), (1024, 4095), (4095, 4095), (16383, 16383), (16384, None)]
)
def test_the_smallest_level_that_holds_the_training_images_is_white(tmp_path, top, white):
    dark, bright = save(ramp(top // 2), tmp_path / "0.png"), save(ramp(top), tmp_path / "1.tif")
    (tmp_path / "2.png").write_text("no image")
    colour = save(np.full((2, 3, 3), 255, np.uint8), tmp_path / "3.png")
    assert find_white("auto", [dark, bright, tmp_path / "2.png", colour, tmp_path / "gone.png"]) == white


def test_images_that_say_themselves_what_white_is_have_no_part_in_it(tmp_path):
    grey = save(np.full((2, 3), 9, np.uint8), tmp_path / "grey.png")
    floats = save(np.full((2, 3), 0.5, np.float32), tmp_path / "float.tif")
    assert find_white("auto", [grey, floats]) is None
    assert find_white("auto", []) is None


@pytest.mark.parametrize(("given", "white"), [(3000, 3000), (65535, None)])
def test_a_level_that_is_given_is_taken(given, white):
    assert find_white(given, []) == white


@pytest.mark.parametrize("given", ["Auto", 0, -1, 65536, 4095.0, None, True])
def test_what_is_no_level_is_refused(given):
    with pytest.raises(DataError, match=r"data\.white=.*: expected auto, or the grey level"):
        find_white(given, [])


@pytest.mark.parametrize("bits", [10, 12, 14])
def test_levels_of_a_camera_become_its_upper_eight_bits(tmp_path, bits):
    values = np.arange(2**bits, dtype=np.uint16).reshape(16, -1)
    seen = read_image(save(values, tmp_path / "a.png"), white=2**bits - 1)
    np.testing.assert_array_equal(np.asarray(seen)[..., 1], values >> (bits - 8))


def test_another_level_is_white_and_what_is_brighter_too(tmp_path):
    path = save(np.array([[0, 1500, 3000, 3001, 60000]], np.uint16), tmp_path / "a.png")
    assert np.asarray(read_image(path, white=3000))[0, :, 0].tolist() == [0, 127, 255, 255, 255]


def test_without_a_level_or_in_8_bits_nothing_changes(tmp_path):
    deep, flat_ = save(ramp(65535), tmp_path / "a.png"), save(np.arange(256, dtype=np.uint8)[None], tmp_path / "b.png")
    np.testing.assert_array_equal(np.asarray(read_image(deep))[..., 0], ramp(65535) // 257)
    np.testing.assert_array_equal(np.asarray(read_image(flat_, white=4095))[..., 0], np.arange(256)[None])


def twelve_bit_tiff(path, *levels):
    """A TIFF of one row of two values of 12 bits."""
    entries = {256: 2, 257: 1, 258: 12, 259: 1, 262: 1, 273: 8, 277: 1, 278: 1, 279: 3}
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries.items())
    packed = ((levels[0] << 12) | levels[1]).to_bytes(3, "big") + b"\0"
    head = b"II*\0" + struct.pack("<I", 8 + len(packed))
    path.write_bytes(head + packed + struct.pack("<H", len(entries)) + directory + b"\0" * 4)
    return path


def test_a_12_bit_tiff_says_itself_what_is_white_open_or_not(tmp_path):
    path = twelve_bit_tiff(tmp_path / "a.tif", 4095, 2048)
    assert find_white("auto", [twelve_bit_tiff(tmp_path / "dark.tif", 9, 3)]) is None
    with Image.open(path) as opened:
        for image in (read_image(path), read_image(path, white=1023), as_image(opened), as_image(opened, white=1023)):
            assert np.asarray(image)[0, :, 0].tolist() == [255, 128]


def deep(values):
    """(H, W) uint16 of 12 bits, of a colour image."""
    return values.mean(2).astype(np.uint16) * 16


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """One category as 12 bits in 16 and as the same in 8 bits, each trained."""
    folder, small = tmp_path_factory.mktemp("deep"), [v for v in SMALL if not v.startswith("model.")]
    for kind, made in (("deep", deep), ("flat", lambda values: (deep(values) >> 4).astype(np.uint8))):
        rng = np.random.default_rng(0)
        for number in range(12):
            save(made(texture(rng)), folder / kind / "widget" / "train" / "good" / f"{number}.png")
        for number in range(3):
            save(made(texture(rng)), folder / kind / "widget" / "test" / "good" / f"{number}.png")
            values = texture(rng)
            values[20:30, 30:50] = 250
            save(made(values), folder / kind / "widget" / "test" / "spot" / f"{number}.png")
        where = (f"data.root={folder / kind}", f"hydra.run.dir={folder / kind / 'run'}")
        names = ("category=custom", "category.name=widget", "model=pca")
        ran = command("train", *small, *BARE, *names, *where, cwd=folder)
        assert ran.code == 0, ran.out
        if kind == "deep":
            assert "level 4095 in images of 16 bits (detected from the training images)" in flat(ran.out)
        else:
            assert "16 bits" not in ran.out
    return folder


def table(path):
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_training_evaluation_and_prediction_see_what_8_bits_would_show(runs, tmp_path):
    scores = {}
    for kind in ("deep", "flat"):
        run = runs / kind / "run"
        checkpoint = run / "checkpoints" / "best.ckpt"
        scores[kind] = [float(row["score"]) for row in table(run / "predictions.csv")]
        evaluated = command(
            "evaluate", f"checkpoint={checkpoint}", "bootstrap=0", f"hydra.run.dir={tmp_path / kind}", cwd=tmp_path
        )
        assert evaluated.code == 0, evaluated.out
        again = [float(row["score"]) for row in table(tmp_path / kind / "predictions.csv")]
        assert again == pytest.approx(scores[kind], rel=1e-3)
        inspector = Inspector.load(checkpoint, "cpu")
        said = inspector([row["path"] for row in table(run / "predictions.csv")])
        assert [item.score for item in said] == pytest.approx(scores[kind], rel=1e-3)
        assert {item.reason for item in said} == {None}
    assert scores["deep"] == scores["flat"]
    assert json.loads((runs / "deep" / "run" / "run.json").read_text())["card"]["transform"]["white"] == 4095
    assert json.loads((runs / "flat" / "run" / "run.json").read_text())["card"]["transform"]["white"] is None
    shown = [
        np.asarray(Image.open(tmp_path / kind / "heatmaps" / "spot" / "0.png")).astype(int) for kind in ("deep", "flat")
    ]
    assert np.abs(shown[0] - shown[1]).max() <= 1


def test_the_audit_sees_them_as_training_does(runs, tmp_path):
    given = ("category=custom", "category.name=widget", f"data.root={runs / 'deep'}", "rank=false")
    ran = command("audit", *given, "backbone=tiny", f"output={tmp_path}", cwd=tmp_path)
    assert ran.code == 0, ran.out
    assert "Level 4095 counts as white" in flat(ran.out)
    images = json.loads((tmp_path / "audit.json").read_text())["images"]
    assert min(image["brightness"] for image in images) > 80


def test_tiles_are_cut_with_the_white_level(runs, tmp_path):
    small = [v for v in SMALL if not v.startswith(("model.", "data.image_size"))]
    given = ("category=custom", "category.name=widget", "model=pca", f"data.root={runs / 'deep'}", "data.tile=48")
    where = f"hydra.run.dir={tmp_path / 'run'}"
    ran = command("train", *small, *BARE, *given, "data.tile_overlap=8", "data.image_size=48", where, cwd=tmp_path)
    assert ran.code == 0, ran.out
    run = tmp_path / "run"
    tile = Image.open(table(run / "predictions.csv")[0]["path"])
    assert np.asarray(tile).max() > 100
    whole = runs / "deep" / "widget" / "test" / "good" / "0.png"
    assert Inspector.load(run / "checkpoints" / "best.ckpt", "cpu")(whole).reason is None
