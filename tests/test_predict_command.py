"""predict on whatever a user points it at: a row each, the outputs in the image's pixels, an honest status."""

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage
from toy import HEIGHT, WIDTH, command, flat, save, texture

from anomaly_lightning.deploy.inputs import find_images
from anomaly_lightning.deploy.outputs import output_names
from anomaly_lightning.runtime.inspector import Inspector


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Nested folders with equal stems, a truncated image, a text that is called an image, and other files."""
    place, rng = tmp_path_factory.mktemp("input"), np.random.default_rng(1)
    save(texture(rng), place / "a.png")
    save(texture(rng), place / "a.jpg")
    save(texture(rng, 33, 90), place / "left" / "a.png")
    save(texture(rng, 90, 33), place / "right" / "deep" / "a.png")
    save(np.full((40, 50), 99, np.uint8), place / "grey.bmp")
    whole = (place / "a.png").read_bytes()
    (place / "cut.png").write_bytes(whole[:200])
    (place / "text.png").write_text("hello")
    (place / "notes.txt").write_text("no image, and not called one")
    return place


@pytest.fixture
def predict(checkpoint, tmp_path):
    def run(what, *more):
        given = (f"checkpoint={checkpoint}", f"input={what}", f"output={tmp_path}/out", "device=cpu")
        return command("predict", *given, *more, cwd=tmp_path)

    return run


def rows(out):
    with (out / "decisions.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_a_folder_with_everything_in_it(predict, folder, tmp_path):
    ran = predict(folder, "maps=true", "batch_size=2")
    assert ran.code == 1
    assert "Traceback" not in ran.out
    assert "7 images: " in flat(ran.out)
    assert "2 unreadable" in flat(ran.out)
    listed = {row["path"]: row for row in rows(tmp_path / "out")}
    wanted = {"a.png", "a.jpg", "left/a.png", "right/deep/a.png", "grey.bmp", "cut.png", "text.png"}
    assert set(listed) == {str(folder / name) for name in wanted}
    for name in wanted:
        row = listed[str(folder / name)]
        if name in ("cut.png", "text.png"):
            assert row["decision"] == row["score"] == ""
            assert name in row["error"]
            continue
        assert row["error"] == ""
        expected = "NG" if float(row["score"]) > float(row["threshold"]) else "OK"
        assert row["decision"] == ("INVALID" if row["reason"] else expected)
    for kind in ("heatmaps", "masks", "maps"):
        assert sum(path.is_file() for path in (tmp_path / "out" / kind).rglob("*")) == 5, kind


def test_regions_are_rows_that_fit_the_masks(predict, folder, tmp_path):
    predict(folder, "maps=true")
    with (tmp_path / "out" / "regions.csv").open(newline="") as stream:
        listed = list(csv.DictReader(stream))
    names = output_names(*find_images(str(folder)))
    for row in rows(tmp_path / "out"):
        if row["error"]:
            continue
        name = names[Path(row["path"])]
        values = np.load(tmp_path / "out" / "maps" / f"{name}.npy")
        with Image.open(tmp_path / "out" / "masks" / f"{name}.png") as mask:
            labels, count = ndimage.label(np.asarray(mask) > 0, np.ones((3, 3)))
        own = [region for region in listed if region["path"] == row["path"]]
        assert [int(region["number"]) for region in own] == list(range(1, count + 1))
        found = ndimage.find_objects(labels)
        boxes = {(s[1].start, s[0].start, s[1].stop - s[1].start, s[0].stop - s[0].start) for s in found}
        sides = ("left", "top", "width", "height")
        assert {tuple(int(region[side]) for side in sides) for region in own} == boxes
        assert sum(int(region["area"]) for region in own) == (labels > 0).sum()
        if own:
            assert float(own[0]["peak"]) == pytest.approx(values.max())
    assert listed


@pytest.mark.parametrize(("name", "size"), [("left/a", (33, 90)), ("right/deep/a", (90, 33))])
def test_outputs_are_in_the_images_own_pixels(predict, folder, tmp_path, name, size):
    predict(folder, "maps=true")
    values = np.load(tmp_path / "out" / "maps" / f"{name}.npy")
    assert (values.shape, values.dtype) == (size, np.float32)
    with Image.open(tmp_path / "out" / "masks" / f"{name}.png") as mask:
        assert (mask.height, mask.width) == size
        assert set(np.unique(np.asarray(mask))) <= {0, 255}
    with Image.open(tmp_path / "out" / "heatmaps" / f"{name}.png") as drawn:
        assert (drawn.height, drawn.width, drawn.mode) == (*size, "RGB")


def test_a_defect_is_found_where_it_is(predict, root, tmp_path):
    values = texture(np.random.default_rng(3))
    values[44:56, 6:22] = (250, 20, 20)  # lower left: swapping height and width would put it elsewhere
    image = save(values, tmp_path / "bad.png")
    predict(image, "maps=true")
    found = np.load(tmp_path / "out" / "maps" / "bad.npy")
    assert found.shape == (HEIGHT, WIDTH)
    row, column = np.unravel_index(found.argmax(), found.shape)
    assert 38 <= row <= 59
    assert 0 <= column <= 30


def test_one_image(predict, folder, tmp_path):
    ran = predict(folder / "a.png")
    assert ran.code == 0, ran.out
    assert len(rows(tmp_path / "out")) == 1
    assert (tmp_path / "out" / "heatmaps" / "a.png").is_file()
    assert not (tmp_path / "out" / "maps").exists()


@pytest.mark.parametrize("pattern", ["*.png", "**/a.png"])
def test_a_glob(predict, folder, tmp_path, pattern):
    ran = predict(f"{folder}/{pattern}", "hydra.job_logging.root.level=ERROR")
    names = {row["path"][len(str(folder)) + 1 :] for row in rows(tmp_path / "out")}
    assert names == (
        {"a.png", "cut.png", "text.png"} if pattern == "*.png" else {"a.png", "left/a.png", "right/deep/a.png"}
    )
    assert ran.code == (1 if pattern == "*.png" else 0)


def test_an_empty_folder(predict, tmp_path):
    (tmp_path / "empty").mkdir()
    ran = predict(tmp_path / "empty")
    assert ran.code == 1
    assert "the folder holds no image" in flat(ran.out)
    assert "Traceback" not in ran.out


@pytest.mark.parametrize("what", ["nowhere.png", "*.tif"])
def test_nothing_there(predict, tmp_path, what):
    ran = predict(tmp_path / what)
    assert ran.code == 1
    assert "no such image or folder" in flat(ran.out)


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("checkpoint=nowhere.ckpt", "There is no checkpoint nowhere.ckpt"),
        ("checkpoint={run}/checkpoints/last.ckpt", "NotCalibratedError"),
        ("checkpoint={run}/metrics.json", "metrics.json is no model: expected a file that ends in .ckpt"),
        ("device=tpu9", "tpu9"),
        ("batchsize=3", "batchsize"),
        ("batch_size=0", "batch_size=0: expected a number of images, 1 or more"),
    ],
)
def test_mistakes_are_one_paragraph(predict, folder, run_folder, argument, said):
    ran = predict(folder / "a.png", argument.format(run=run_folder))
    assert ran.code == 1
    assert said in flat(ran.out)
    assert "Traceback" not in ran.out


def test_names_of_outputs_are_distinct(tmp_path):
    names = ["a.png", "a.jpg", "a_jpg.png", "a_png.png", "b/a.png", "b.png", "a.b.png", "a_b.png", "a_jpg.jpg"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    found, base = find_images(str(tmp_path))
    outputs = output_names(found, base)
    assert len(found) == len(names)
    assert len(set(outputs.values())) == len(names)
    assert not any(path.is_absolute() or ".." in path.parts for path in outputs.values())


def awkward(folder):
    """Files of the forms that two ways of decoding would read differently."""
    rng = np.random.default_rng(4)
    colours = Image.fromarray(texture(rng))
    alpha, turned = colours.convert("RGBA"), Image.Exif()
    alpha.putalpha(Image.fromarray(rng.integers(0, 256, (HEIGHT, WIDTH), dtype=np.uint8)))
    turned[0x0112] = 3
    folder.mkdir()
    save((rng.random((HEIGHT, WIDTH)) * 65535).astype(np.uint16), folder / "16 bit.png")
    alpha.save(folder / "alpha.png")
    colours.save(folder / "turned.jpg", exif=turned)
    colours.quantize(16).save(folder / "palette.png")
    colours.convert("L").save(folder / "grey.png")
    colours.convert("CMYK").save(folder / "cmyk.tif")
    return sorted(folder.iterdir())


@pytest.mark.parametrize("batch", [1, 8])
def test_the_inspector_says_of_any_form_what_predict_writes_to_the_last_digit(predict, checkpoint, tmp_path, batch):
    files = awkward(tmp_path / "forms")
    assert predict(tmp_path / "forms", f"batch_size={batch}", "maps=true").code == 0
    written = {Path(row["path"]): row for row in rows(tmp_path / "out")}
    assert sorted(written) == files
    inspect = Inspector.load(checkpoint, device="cpu")
    opened = [Image.open(file) for file in files]
    ways = {"path": files, "text": list(map(str, files)), "image": opened}
    ways["array"] = [np.asarray(said.image) for said in inspect(files)]
    for way, sources in ways.items():
        found = inspect(sources) if batch == 8 else [inspect(source) for source in sources]
        for file, said in zip(files, found, strict=True):
            row = written[file]
            assert (repr(said.score), said.verdict, said.reason or "") == (
                row["score"],
                row["decision"],
                row["reason"],
            ), f"{file.name} as {way}"
            np.testing.assert_array_equal(said.anomaly_map, np.load(tmp_path / "out" / "maps" / f"{file.stem}.npy"))
    assert len({row["score"] for row in written.values()}) == len(files), "the forms are told apart"
