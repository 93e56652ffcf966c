"""Over a thousand bad files: each is an image or one `ImageError`; no crash, no hang, no more memory than allowed.

The files are read in a process of their own, so that a crash of a decoder fails a test and not the test run.
"""

import io
import json
import random
import re
import resource
import struct
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anomaly_lightning.errors import DataError
from anomaly_lightning.runtime.reading import read_image, read_mask

H, W = 37, 48
MAX_PIXELS = 4_000_000
BYTES_PER_PIXEL = 16
CUTS = (1, 4, 9, 17, 26, 33, 60, 0.1, 0.3, 0.5, 0.7, 0.9, 0.98, -1, -4, -12)
FLIPS = (1, 1, 1, 1, 2, 2, 4, 4, 8, 16, 64)


def encode(image: Image.Image, form: str, more: tuple[Image.Image, ...] = (), **options) -> bytes:
    file = io.BytesIO()
    # Copies, because saving leaves an encoder's settings behind in the image.
    if more:
        options |= {"save_all": True, "append_images": [frame.copy() for frame in more]}
    image.copy().save(file, form, **options)
    return file.getvalue()


def whole_files() -> dict[str, bytes]:
    """Intact files of every form, by name."""
    rng = np.random.default_rng(0)
    smooth = np.add.outer(np.arange(H), np.arange(W)) * 2 + rng.integers(0, 20, (H, W))
    grey = Image.fromarray(smooth.astype(np.uint8))
    rgb = Image.merge("RGB", (grey, grey.transpose(Image.Transpose.ROTATE_180), grey))
    rgba = rgb.copy()
    rgba.putalpha(grey)
    deep = Image.fromarray((smooth * 200).astype(np.uint16))
    real = Image.fromarray((smooth / smooth.max()).astype(np.float32))
    more = (rgb.rotate(90), rgb.rotate(180))
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "a camera"
    return {
        "grey.png": encode(grey, "PNG"),
        "rgb.png": encode(rgb, "PNG"),
        "rgba.png": encode(rgba, "PNG"),
        "palette.png": encode(rgb.quantize(16), "PNG", transparency=3),
        "bits.png": encode(grey.convert("1"), "PNG"),
        "deep.png": encode(deep, "PNG"),
        "exif.png": encode(rgb, "PNG", exif=exif),
        "animated.apng": encode(rgb, "PNG", more),
        "grey.jpg": encode(grey, "JPEG"),
        "progressive.jpg": encode(rgb, "JPEG", progressive=True),
        "cmyk.jpg": encode(rgb.convert("CMYK"), "JPEG"),
        "exif.jpg": encode(rgb, "JPEG", exif=exif),
        "several.mpo": encode(rgb, "MPO", more),
        "rgb.bmp": encode(rgb, "BMP"),
        "palette.bmp": encode(rgb.quantize(16), "BMP"),
        "rgb.tif": encode(rgb, "TIFF"),
        "lzw.tif": encode(rgb, "TIFF", compression="tiff_lzw"),
        "deflate.tif": encode(rgba, "TIFF", compression="tiff_deflate"),
        "jpeg.tif": encode(rgb, "TIFF", compression="jpeg"),
        "fax.tif": encode(grey.convert("1"), "TIFF", compression="group4"),
        "deep.tif": encode(deep, "TIFF"),
        "float.tif": encode(real, "TIFF"),
        "pages.tif": encode(rgb, "TIFF", more),
        "animated.gif": encode(rgb, "GIF", more),
        "lossy.webp": encode(rgb, "WEBP", exif=exif),
        "lossless.webp": encode(rgba, "WEBP", lossless=True),
        "animated.webp": encode(rgb, "WEBP", more),
        "grey.jp2": encode(grey, "JPEG2000"),
        "rgb.ppm": encode(rgb, "PPM"),
        "deep.pgm": encode(deep, "PPM"),
    }


def flipped(content: bytes, count: int, rng: random.Random) -> bytes:
    """The file with some bytes changed, half of them near its start, where the claims are."""
    changed = bytearray(content)
    for _ in range(count):
        last = min(64, len(changed)) if rng.random() < 0.5 else len(changed)
        changed[rng.randrange(last)] ^= rng.randrange(1, 256)
    return bytes(changed)


def huge_claims() -> dict[str, bytes]:
    """Small files whose headers claim sizes that no memory holds."""
    files = whole_files()
    claims = {}
    for side in (2**13, 30_000, 60_000, 2**31 - 1):
        sized = struct.pack("<II", side, side)
        ppm = b"P6 %d %d 255\n" % (side, side) + bytes(100)
        claims[f"claim{side}.bmp"] = files["rgb.bmp"][:18] + sized + files["rgb.bmp"][26:]
        claims[f"claim{side}.png"] = files["rgb.png"][:16] + sized[3::-1] * 2 + files["rgb.png"][24:]
        claims[f"claim{side}.ppm"] = ppm
        for name in ("rgb.tif", "lzw.tif", "jpeg.tif", "deflate.tif"):
            content = files[name]
            for tag in (256, 257):
                old = re.compile(struct.pack("<H", tag) + rb"[\x03\x04]\x00\x01\x00\x00\x00....", re.DOTALL)
                content = old.sub(lambda _, tag=tag, side=side: struct.pack("<HHII", tag, 4, 1, side), content, count=1)
            assert content != files[name]
            claims[f"claim{side}-{name}"] = content
    for side in (30_000, 65_535):
        start = files["grey.jpg"].index(b"\xff\xc0") + 5
        claims[f"claim{side}.jpg"] = (
            files["grey.jpg"][:start] + struct.pack(">HH", side, side) + files["grey.jpg"][start + 4 :]
        )
        claims[f"claim{side}.gif"] = (
            files["animated.gif"][:6] + struct.pack("<HH", side, side) + files["animated.gif"][10:]
        )
    return claims


def odd_files() -> dict[str, bytes]:
    """Files that are intact but strange, or that are something else."""
    files = whole_files()
    line = Image.new("RGB", (30_000, 1), "red")
    return {
        "point.png": encode(Image.new("L", (1, 1)), "PNG"),
        "line.png": encode(line, "PNG"),
        "column.jpg": encode(line.transpose(Image.Transpose.ROTATE_90), "JPEG"),
        "gif named.png": files["animated.gif"],
        "png named.jpg": files["rgb.png"],
        "webp named.bmp": files["lossy.webp"],
        "nothing.png": b"",
        "zeros.png": bytes(5000),
        "text.png": b"just words",
        "page.jpg": b"<!DOCTYPE html><html>404</html>",
        "noise.png": random.Random(0).randbytes(5000),
        "two.png": files["rgb.png"] * 2,
        "tail.jpg": files["grey.jpg"] + bytes(5000),
        "script.eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n",
        "drawing.svg": b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>",
    }


def large_files() -> dict[str, bytes]:
    """Images as large as the limit allows, in the modes that need the most memory."""
    side = int(MAX_PIXELS**0.5)
    grey = Image.new("L", (side, side), 90)
    exif = Image.Exif()
    exif[0x0112] = 6
    return {
        "rgba.png": encode(grey.convert("RGBA"), "PNG", exif=exif),
        "grey alpha.png": encode(grey.convert("LA"), "PNG"),
        "palette.png": encode(grey.convert("P"), "PNG", transparency=1),
        "deep.png": encode(grey.convert("I;16"), "PNG"),
        "integers.tif": encode(grey.convert("I"), "TIFF", compression="tiff_deflate"),
        "floats.tif": encode(Image.new("F", (side, side), 0.5), "TIFF", compression="tiff_deflate"),
        "cmyk.jpg": encode(grey.convert("CMYK"), "JPEG", exif=exif),
        "rgba.webp": encode(grey.convert("RGBA"), "WEBP", lossless=True, method=0),
    }


def corpus() -> dict[str, dict[str, bytes]]:
    """All files by what was done to them and name; the same at each call."""
    files = whole_files()
    rng = random.Random(0)
    cut, flips = {}, {}
    for name, content in files.items():
        places = sorted({int(at * len(content)) if isinstance(at, float) else at for at in CUTS})
        cut |= {f"cut{at}-{name}": content[:at] for at in places if abs(at) < len(content)}
        flips |= {f"flip{i}-{name}": flipped(content, count, rng) for i, count in enumerate(FLIPS * 2)}
    return {
        "whole": files,
        "cut": cut,
        "flipped": flips,
        "claims": huge_claims(),
        "odd": odd_files(),
        "large": large_files(),
    }


def outcome(path: Path) -> dict:
    start = time.process_time()
    words = []
    for read in (read_image, read_mask):
        try:
            read(path, MAX_PIXELS)
            words.append("read")
        except DataError as error:
            words.append(str(error))
    return {"image": words[0], "mask": words[1], "seconds": time.process_time() - start}


def main(folder: Path) -> None:
    """Read every file below a folder, the name first to stderr, so that a crash tells its cause."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    outcomes = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        sys.stderr.write(f"reading {path.relative_to(folder)}\n")
        outcomes[str(path.relative_to(folder))] = outcome(path)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    sys.stdout.write(json.dumps({"outcomes": outcomes, "grown_bytes": (after - before) * 1024}))


@pytest.fixture(scope="module")
def result(tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("corpus")
    for treatment, files in corpus().items():
        (folder / treatment).mkdir()
        for name, content in files.items():
            (folder / treatment / name).write_bytes(content)
    command = [sys.executable, "-m", "tests.test_image_fuzz", str(folder)]
    root = Path(__file__).resolve().parents[1]
    child = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=120, check=False)
    assert child.returncode == 0, child.stderr[-2000:]
    return json.loads(child.stdout)


def table(outcomes: dict[str, dict]) -> Counter:
    """How many files of each treatment were read or refused."""
    return Counter(
        (name.split("/")[0], o["image"] if o["image"] == "read" else "refused") for name, o in outcomes.items()
    )


def test_every_file_is_a_image_or_an_error_of_one_line(result):
    outcomes = result["outcomes"]
    assert len(outcomes) == sum(map(len, corpus().values())) > 1000
    for name, said in outcomes.items():
        for word in (said["image"], said["mask"]):
            assert word == "read" or (Path(name).name in word and "\n" not in word and len(word) < 500), (name, word)


def test_what_reads_as_a_image_reads_as_a_mask(result):
    differ = {n: o for n, o in result["outcomes"].items() if (o["image"] == "read") > (o["mask"] == "read")}
    assert not differ


def test_whole_files_are_read_and_claims_refused(result):
    counts = table(result["outcomes"])
    assert not counts["whole", "refused"]
    assert not counts["large", "refused"]
    assert not counts["claims", "read"]


def test_odd_files_are_told_apart(result):
    read = {
        Path(name).name for name, o in result["outcomes"].items() if name.startswith("odd/") and o["image"] == "read"
    }
    assert read == {
        "point.png",
        "line.png",
        "column.jpg",
        "gif named.png",
        "png named.jpg",
        "webp named.bmp",
        "two.png",
        "tail.jpg",
    }


def test_a_cut_inside_the_first_frame_is_refused(result):
    """What may be cut off unnoticed: the last bytes (trailer, checksum), and later frames or pages."""
    files = corpus()["cut"]
    whole = whole_files()
    for name, content in files.items():
        source = name.split("-")[-1]
        late = len(whole[source]) - len(content) <= 20 or source.startswith(("animated", "several", "pages"))
        assert late or result["outcomes"][f"cut/{name}"]["image"] != "read", name


def test_no_file_takes_long(result):
    slow = {name: o["seconds"] for name, o in result["outcomes"].items() if o["seconds"] > 2}  # of the processor
    assert not slow


def test_memory_stays_below_the_limit(result):
    assert result["grown_bytes"] < MAX_PIXELS * BYTES_PER_PIXEL + 64 * 2**20


if __name__ == "__main__":
    main(Path(sys.argv[1]))
