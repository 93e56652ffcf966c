"""Every form an image file may come in, and every way it may be bad."""

import hashlib
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anomaly_lightning.errors import DataError
from anomaly_lightning.runtime import reading
from anomaly_lightning.runtime.files import content_hash
from anomaly_lightning.runtime.reading import ImageError, check_images, read_image, read_mask

H, W = 6, 9


def ramp(dtype: str = "uint8", top: int = 255) -> np.ndarray:
    return np.linspace(0, top, H * W).reshape(H, W).astype(dtype)


def save(path: Path, image: Image.Image, **options) -> Path:
    image.save(path, **options)
    return path


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, height: int, data: bytes, bits: int = 8, colour: int = 0) -> bytes:
    """A PNG file by hand, whose header may claim anything."""
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def read(path: Path) -> np.ndarray:
    image = read_image(path)
    assert image.mode == "RGB"
    return np.asarray(image)


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "gif", "webp", "pgm", "jp2"])
def test_grey_becomes_three_equal_channels(tmp_path, suffix):
    options = {"lossless": True} if suffix == "webp" else {}
    path = save(tmp_path / f"a.{suffix}", Image.fromarray(ramp()), **options)
    np.testing.assert_array_equal(read(path), np.repeat(ramp()[..., None], 3, axis=2))


def test_colour_stays_as_it_is(tmp_path):
    values = np.random.default_rng(0).integers(0, 256, (H, W, 3), dtype=np.uint8)
    np.testing.assert_array_equal(read(save(tmp_path / "a.png", Image.fromarray(values))), values)


def test_one_bit_becomes_black_and_white(tmp_path):
    values = ramp() > 99
    path = save(tmp_path / "a.png", Image.fromarray(values))
    np.testing.assert_array_equal(read(path)[..., 1], values * 255)


@pytest.mark.parametrize("form", ["RGBA", "LA"])
def test_alpha_is_composited_on_black(tmp_path, form):
    image = Image.new("L", (W, H), 200).convert(form)
    alpha = np.repeat([[0, 128, 255]], H, axis=0).repeat(3, axis=1).astype(np.uint8)
    image.putalpha(Image.fromarray(alpha))
    seen = read(save(tmp_path / "a.png", image))[0, ::3, 0]
    np.testing.assert_allclose(seen, [0, 200 * 128 / 255, 200], atol=1)


def test_palette_with_transparency(tmp_path):
    image = Image.new("P", (W, H), 1)
    image.putpalette([9, 9, 9, 10, 200, 30])
    image.putpixel((0, 0), 0)
    path = save(tmp_path / "a.png", image, transparency=0)
    assert read(path)[0, 0].tolist() == [0, 0, 0]
    assert read(path)[1, 1].tolist() == [10, 200, 30]


def test_a_transparent_colour_key_becomes_black(tmp_path):
    path = save(tmp_path / "a.png", Image.new("RGB", (W, H), (1, 200, 3)), transparency=(1, 200, 3))
    assert not read(path).any()


def test_cmyk_jpeg(tmp_path):
    path = save(tmp_path / "a.jpg", Image.new("CMYK", (W, H), (0, 255, 255, 0)), quality=100)
    np.testing.assert_allclose(read(path)[2, 3], [255, 0, 0], atol=2)


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("top", [65535, 4095, 200])
def test_16_bit_grey_is_scaled_by_its_form_and_not_by_its_values(tmp_path, suffix, top):
    values = ramp("uint16", top)
    path = save(tmp_path / f"a.{suffix}", Image.fromarray(values))
    np.testing.assert_array_equal(read(path)[..., 2], values // 257)


def test_16_bit_colour_keeps_the_upper_byte(tmp_path):
    values = np.random.default_rng(0).integers(0, 65536, (H, W, 3)).astype(">u2")
    path = tmp_path / "a.png"
    path.write_bytes(png(W, H, b"".join(b"\0" + row.tobytes() for row in values), bits=16, colour=2))
    np.testing.assert_array_equal(read(path), values >> 8)


def test_12_bit_tiff_is_white_at_4095(tmp_path):
    # Two samples of 12 bits make three bytes: 0xfff, 0x800.
    entries = {256: 2, 257: 1, 258: 12, 259: 1, 262: 1, 273: 8, 277: 1, 278: 1, 279: 3}
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries.items())
    data = b"\xff\xf8\x00" + b"\0"
    head = b"II*\0" + struct.pack("<I", 8 + len(data))
    path = tmp_path / "a.tif"
    path.write_bytes(head + data + struct.pack("<H", len(entries)) + directory + b"\0" * 4)
    assert read(path)[0, :, 0].tolist() == [255, 128]


def test_32_bit_integers_are_read_like_16_bit(tmp_path):
    path = save(tmp_path / "a.tif", Image.fromarray(ramp("int32", 65535)))
    np.testing.assert_array_equal(read(path)[..., 0], ramp("int32", 65535) // 257)


def test_floats_are_white_at_1(tmp_path):
    path = save(tmp_path / "a.tif", Image.fromarray(ramp("float32", 1)))
    np.testing.assert_array_equal(read(path)[..., 0], np.rint(ramp("float32", 1) * 255))


@pytest.mark.parametrize("value", [-0.5, 1.5, float("nan"), float("inf")])
def test_floats_out_of_range_are_refused(tmp_path, value):
    values = ramp("float32", 1)
    values[2, 3] = value
    with pytest.raises(ImageError, match=r"float values from .* expected 0 to 1"):
        read_image(save(tmp_path / "a.tif", Image.fromarray(values)))


def test_integers_out_of_range_are_refused(tmp_path):
    with pytest.raises(ImageError, match="expected 0 to 65535"):
        read_image(save(tmp_path / "a.tif", Image.fromarray(ramp("int32", 70000))))


@pytest.mark.parametrize(("orientation", "turn"), [(1, 0), (3, 2), (6, 3), (8, 1)])
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
def test_exif_orientation_is_applied(tmp_path, suffix, orientation, turn):
    values = np.zeros((16, 32, 3), dtype=np.uint8)
    values[:8, :8] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    seen = read(save(tmp_path / f"a.{suffix}", Image.fromarray(values), exif=exif))
    np.testing.assert_allclose(seen, np.rot90(values, turn), atol=40)


@pytest.mark.parametrize("suffix", ["gif", "png", "tif", "webp"])
def test_the_first_frame_of_several_is_read(tmp_path, suffix):
    frames = [Image.new("RGB", (W, H), colour) for colour in ("red", "lime", "blue")]
    path = tmp_path / f"a.{suffix}"
    frames[0].save(path, save_all=True, append_images=frames[1:], **({"lossless": True} if suffix == "webp" else {}))
    assert read(path)[1, 2].tolist() == [255, 0, 0]


def test_content_decides_and_not_the_name(tmp_path):
    path = save(tmp_path / "a.png", Image.fromarray(ramp()), format="BMP")
    np.testing.assert_array_equal(read(path)[..., 0], ramp())


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "0 bytes"),
        (b"version https://git-lfs.github.com/spec/v1\noid", r"is no image: text \('version https://git-lfs"),
        (b"\0" * 500, "zero bytes only"),
        (b"PK\x03\x04" + bytes(range(200)), "starts with bytes 50 4b 03 04"),
        (b"\x89PNG\r\n\x1a\n\0\0", "starts like PNG"),
        (png(20000, 15000, b"\0"), "header claims 20000x15000 pixels, more than the limit of 200000000"),
        (png(60000, 60000, b"\0"), "header claims 3600000000 pixels, more than the limit of 200000000"),
        (png(W, H, bytes(range(60)))[:-25], "truncated"),
    ],
    ids=["empty", "text", "zeros", "zip", "header", "bomb", "great bomb", "cut"],
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_what_is_wrong_is_said_in_one_line(tmp_path, content, words):
    path = tmp_path / "some name.png"
    path.write_bytes(content)
    with pytest.raises(DataError, match=words) as caught:
        read_image(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tif", "webp"])
def test_a_file_cut_in_the_middle_is_truncated(tmp_path, suffix):
    noise = np.random.default_rng(0).integers(0, 256, (64, 48, 3), dtype=np.uint8)
    path = save(tmp_path / f"a.{suffix}", Image.fromarray(noise))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ImageError, match=r"truncated|damaged"):
        read_image(path)


def test_files_that_are_not_there_or_not_files(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    for path, words in [("no.png", "no such file"), (".", "is a folder"), ("pipe.png", "not a regular file")]:
        with pytest.raises(ImageError, match=words):
            read_image(tmp_path / path)


def test_the_limit_can_be_moved_both_ways(tmp_path):
    path = save(tmp_path / "a.png", Image.fromarray(ramp()))
    with pytest.raises(ImageError, match="header claims 9x6"):
        read_image(path, max_pixels=H * W - 1)
    assert read_image(path, max_pixels=H * W).size == (W, H)


def test_pillows_own_guard_stays_on(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4)
    monkeypatch.setattr(reading, "_limit", lambda *_: None)
    with pytest.raises(ImageError, match="header claims 54 pixels, more than the limit of 5"):
        read_image(save(tmp_path / "a.png", Image.fromarray(ramp())), max_pixels=5)


def test_a_name_with_a_newline_makes_no_second_line(tmp_path):
    path = tmp_path / "a\nb.png"
    path.write_bytes(b"")
    with pytest.raises(ImageError) as caught:
        read_image(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("mode", ["1", "L", "RGB", "RGBA", "LA", "P", "I;16", "I", "F"])
def test_masks_of_any_mode(tmp_path, mode):
    wanted = np.zeros((H, W), dtype=bool)
    wanted[1:3, 4:7] = True
    if mode in ("I;16", "I", "F"):
        image = Image.fromarray(wanted.astype({"I;16": "uint16", "I": "int32", "F": "float32"}[mode]))
    elif mode in ("RGB", "RGBA"):
        image = Image.fromarray(np.stack([0 * wanted, 0 * wanted, 1 * wanted], axis=2).astype(np.uint8)).convert(mode)
    else:
        image = Image.fromarray(wanted * np.uint8(255)).convert(mode)
    mask = read_mask(save(tmp_path / "a.tif", image))
    assert mask.dtype == bool
    np.testing.assert_array_equal(mask, wanted)


def test_alpha_of_a_mask_is_ignored(tmp_path):
    image = Image.new("RGBA", (W, H), (0, 0, 0, 255))
    image.putpixel((4, 2), (0, 7, 0, 0))
    assert np.argwhere(read_mask(save(tmp_path / "a.png", image))).tolist() == [[2, 4]]


def test_a_folder_of_masks_is_their_union(tmp_path):
    first, second = np.zeros((2, H, W), dtype=np.uint8)
    first[0, 1] = second[5, 8] = 1
    save(tmp_path / "000.png", Image.fromarray(first))
    save(tmp_path / "001.png", Image.fromarray(second))
    np.testing.assert_array_equal(read_mask(tmp_path), (first + second) > 0)
    save(tmp_path / "002.png", Image.fromarray(first.T.copy()))
    with pytest.raises(ImageError, match="6x9 and 9x6"):
        read_mask(tmp_path)


def test_an_empty_folder_is_no_mask(tmp_path):
    with pytest.raises(ImageError, match="without masks"):
        read_mask(tmp_path)


def test_check_images_finds_all_bad_ones_in_order(tmp_path):
    good = [save(tmp_path / f"{i}.png", Image.fromarray(ramp())) for i in range(20)]
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.png").write_text("hello")
    mixed = [*good[:7], tmp_path / "text.png", *good[7:], tmp_path / "empty.png", tmp_path / "gone.png", good[0]]
    for workers in (None, 1, 3):
        found = check_images(mixed, workers)
        assert [path.name for path in found] == ["text.png", "empty.png", "gone.png"]
        assert found[tmp_path / "empty.png"] == "0 bytes"
        assert found[tmp_path / "text.png"] == "is no image: text ('hello')"


def test_content_hash_is_that_of_the_bytes(tmp_path):
    (tmp_path / "a").write_bytes(b"x" * 3_000_000)
    assert content_hash(tmp_path / "a") == hashlib.sha256(b"x" * 3_000_000).hexdigest()
    with pytest.raises(DataError, match="No such file"):
        content_hash(tmp_path / "b")
