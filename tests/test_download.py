"""Fetching categories from a local server, and unpacking archives, good ones and evil ones."""

import errno
import hashlib
import io
import os
import re
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from requests import RequestException
from rich.console import Console

from anomaly_lightning.data import download as module
from anomaly_lightning.data.download import download, unpack
from anomaly_lightning.data.layouts import read_category
from anomaly_lightning.errors import DataError
from anomaly_lightning.places import CONFIG_DIR

NAMES = ("bottle", "cable", "leather")
LIMITS = {"gigabytes": 0.002, "files": 50}
NOISE = np.random.default_rng(0).bytes(50_000)


def entry(name: str, content: bytes = b"image", kind: bytes = tarfile.REGTYPE, **more) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size, info.type = len(content), kind
    for key, value in more.items():
        setattr(info, key, value)
    return info, content


def pack(path: Path, *names: str, extra: tuple[tuple[tarfile.TarInfo, bytes], ...] = (), form: str = "xz") -> Path:
    entries = [entry(f"{name}/train/good/000.png", NOISE) for name in names or ("leather",)]
    with tarfile.open(path, f"w:{form}") as tar:
        for info, content in [*entries, *extra]:
            tar.addfile(info, io.BytesIO(content))
    return path


def tree(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


# The command


class Handler(SimpleHTTPRequestHandler):
    """Serves the shelf; breaks off halfway where the address says so."""

    def log_message(self, *_) -> None:
        pass

    def do_GET(self) -> None:
        if not self.path.endswith("broken"):
            super().do_GET()
            return
        self.send_response(200)
        self.send_header("Content-Length", "100000")
        self.end_headers()
        self.wfile.write(NOISE)


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    folder = tmp_path / "shelf"
    folder.mkdir()
    for name in NAMES:
        pack(folder / f"{name}.tar.xz", name)
    return folder


@pytest.fixture
def base(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = ThreadingHTTPServer(("127.0.0.1", 0), lambda *request: Handler(*request, directory=str(shelf)))
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def config(root: Path, *overrides: str) -> dict[str, Any]:
    with initialize_config_dir(str(CONFIG_DIR / "download"), version_base="1.3"):
        cfg = compose("download", [f"root={root}", "accept_license=true", *overrides])
    return OmegaConf.to_container(cfg, resolve=True)


def addresses(base: str) -> list[str]:
    given = {name: (f"address={base}/{name}.tar.xz", "sha256=null") for name in NAMES}
    return [f"archives.{name}.{value}" for name, values in given.items() for value in values]


def run(root: Path, *overrides: str) -> tuple[list[Path], str]:
    said = io.StringIO()
    return download(config(root, *overrides), Console(file=said, width=500)), said.getvalue()


def test_a_category_comes_whole_and_leaves_no_archive(tmp_path, base, shelf):
    root = tmp_path / "mvnet"
    folders, said = run(root, "category=leather", *addresses(base))
    assert folders == [root / "leather"]
    assert len(read_category(root, "leather").train) == 1
    assert tree(root) == {"leather/train/good/000.png"}
    for words in (
        "CC BY-NC-SA 4.0",
        "about 500 MB",
        hashlib.sha256((shelf / "leather.tar.xz").read_bytes()).hexdigest(),
    ):
        assert words in said


def test_what_is_there_is_left_alone(tmp_path):
    (tmp_path / "leather").mkdir()
    folders, said = run(tmp_path, "category=leather", "accept_license=false")
    assert folders == [tmp_path / "leather"]
    assert "is there already" in said


def test_all_goes_on_with_what_is_missing(tmp_path, base, shelf):
    others = [f"~archives.{name}" for name in config(tmp_path, "category=all")["archives"] if name not in NAMES]
    everything, root = ["category=all", *addresses(base), *others], tmp_path / "mvnet"
    (shelf / "cable.tar.xz").rename(shelf / "hidden")
    with pytest.raises(DataError, match=r"cable.tar.xz can't be fetched: 404"):
        run(root, *everything)
    assert tree(root) == {"bottle/train/good/000.png"}
    (shelf / "hidden").rename(shelf / "cable.tar.xz")
    assert len(run(root, *everything)[0]) == 3
    assert tree(root) == {f"{name}/train/good/000.png" for name in NAMES}


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("{base}/gone.tar.xz", "404"),
        ("{base}/broken", "Call again if the connection broke"),
        ("http://127.0.0.1:9/a", "refused"),
        ("file:///etc/passwd", "file:"),
    ],
)
def test_an_address_that_gives_nothing_says_how_to_do_it_by_hand(tmp_path, base, address, words):
    with pytest.raises(DataError) as caught:
        run(tmp_path / "r", "category=leather", f"archives.leather.address={address.format(base=base)}")
    by_hand = ("mvtec.com", "mvtec_anomaly_detection.tar.xz (5265 MB, sha256 cf4313b1", "archive=<the file>")
    for expected in (words, *by_hand, "archives.leather.address=https://"):
        assert expected in str(caught.value)
    assert not tree(tmp_path / "r")


def test_an_archive_fetched_by_hand(tmp_path, shelf):
    archive = pack(shelf / "all.tar.xz", *NAMES)
    run(tmp_path / "a", "category=leather", f"archive={archive}")
    assert tree(tmp_path / "a") == {"leather/train/good/000.png"}
    assert archive.exists()
    with pytest.raises(DataError, match="No such file"):
        run(tmp_path / "b", "category=leather", "archive=gone.tar.xz")


@pytest.mark.parametrize("answer", ["false", "null"])
def test_the_licence_has_to_be_accepted(tmp_path, base, answer):
    with pytest.raises(DataError, match="accept_license=true"):
        run(tmp_path / "r", "category=leather", f"accept_license={answer}", *addresses(base))
    assert not (tmp_path / "r").exists()


def test_a_known_checksum_is_compared(tmp_path, base, shelf):
    digest = hashlib.sha256((shelf / "leather.tar.xz").read_bytes()).hexdigest()
    with pytest.raises(DataError, match=rf"hash.*{'0' * 64}.*{digest}"):
        run(tmp_path / "r", "category=leather", *addresses(base), f"archives.leather.sha256='{'0' * 64}'")
    assert not tree(tmp_path / "r")
    run(tmp_path / "r", "category=leather", *addresses(base), f"archives.leather.sha256={digest}")
    assert tree(tmp_path / "r")


@pytest.mark.parametrize("content", [b"<html>Please log in</html>" * 100, b"evil"])
def test_what_can_not_be_unpacked_is_not_kept(tmp_path, base, shelf, content):
    if content == b"evil":
        pack(shelf / "leather.tar.xz", extra=(entry("leather/../../evil.png"),))
    else:
        (shelf / "leather.tar.xz").write_bytes(content)
    with pytest.raises(DataError, match="is no archive of leather, damaged or truncated"):
        run(tmp_path / "deep" / "root", "category=leather", *addresses(base))
    assert not tree(tmp_path / "deep")


def test_a_full_disk_does_not_cost_what_was_fetched(tmp_path, base, shelf, monkeypatch):
    def full(*_) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tarfile.TarFile, "makefile", full)
    with pytest.raises(DataError, match=r"leather can't be written: .*No space left"):
        run(tmp_path / "r", "category=leather", *addresses(base))
    monkeypatch.undo()
    assert tree(tmp_path / "r") == {".download/leather.tar.xz"}
    (shelf / "leather.tar.xz").unlink()
    run(tmp_path / "r", "category=leather", "archives.leather.sha256=null")
    assert tree(tmp_path / "r") == {"leather/train/good/000.png"}


def test_a_kept_archive_is_not_fetched_again(tmp_path, base, shelf):
    keep = ("category=leather", "keep_archive=true", *addresses(base))
    run(tmp_path / "r", *keep)
    (tmp_path / "r" / "leather").rename(tmp_path / "before")
    (shelf / "leather.tar.xz").unlink()
    run(tmp_path / "r", *keep)
    assert (tmp_path / "r" / "leather" / "train" / "good" / "000.png").is_file()


def test_a_file_that_is_too_large_is_not_fetched(tmp_path, base):
    with pytest.raises(DataError, match="more than 1e-05 GB"):
        run(tmp_path / "r", "category=leather", "limits.gigabytes=1e-5", *addresses(base))
    assert not tree(tmp_path / "r")


def test_https_is_never_left():
    there = SimpleNamespace(url="http://b", headers={})
    with pytest.raises(RequestException, match="leads to http://b, which is not safe"):
        module._refuse("https://a", 1, there)
    module._refuse("http://a", 1, there)


def test_a_mistyped_category_lists_the_choices(tmp_path):
    with pytest.raises(DataError, match=r"category=lether: expected all or one of bottle, .* zipper"):
        run(tmp_path, "category=lether")


def test_every_category_has_an_https_address():
    archives = config(Path("x"), "category=all")["archives"]
    assert len(archives) == 15
    for name, one in archives.items():
        assert one["address"].startswith("https://")
        assert one["address"].endswith(f"/{name}.tar.xz")
        assert one["sha256"] is None or re.fullmatch("[0-9a-f]{64}", one["sha256"])
    assert len({one["address"] for one in archives.values()}) == 15


def command(*arguments: str, folder: Path) -> subprocess.CompletedProcess:
    root = Path(__file__).resolve().parents[1]
    env = {**os.environ, "PYTHONPATH": str(root), "no_proxy": "127.0.0.1"}
    line = [sys.executable, "-m", "anomaly_lightning.download", *arguments]
    return subprocess.run(line, cwd=folder, env=env, capture_output=True, text=True, timeout=60, check=False)


def test_the_command_line(tmp_path, base):
    there = tmp_path / "elsewhere"
    there.mkdir()
    done = command("category=leather", "root=my images", "accept_license=true", *addresses(base), folder=there)
    assert done.returncode == 0, done.stderr
    assert tree(there) == {"my images/leather/train/good/000.png"}
    refused = command("category=leather", "root=other", folder=there)
    assert refused.returncode == 1
    assert "DataError: The licence CC BY-NC-SA 4.0 was not accepted" in refused.stderr
    assert "Traceback" not in refused.stderr


# Archives


@pytest.mark.parametrize("form", ["xz", "gz", "bz2", ""])
def test_only_the_wanted_category_is_taken_from_an_archive_of_any_form(tmp_path, form):
    others = (entry("tile/train/good/1.png"), entry("readme.txt"), entry("/leather/evil.png"))
    unpack(pack(tmp_path / "a.tar", extra=others, form=form), tmp_path / "root" / "leather", **LIMITS)
    assert tree(tmp_path / "root") == {"leather/train/good/000.png"}
    assert (tmp_path / "root/leather/train/good/000.png").read_bytes() == NOISE


def test_permissions_of_the_archive_are_not_taken_over(tmp_path):
    extra = (entry("leather/test", b"", tarfile.DIRTYPE, mode=0o400), entry("leather/test/good/1.png", mode=0o6000))
    unpack(pack(tmp_path / "a.tar", extra=extra), tmp_path / "leather", **LIMITS)
    assert (tmp_path / "leather/test").stat().st_mode & 0o700 == 0o700
    assert (tmp_path / "leather/test/good/1.png").stat().st_mode & 0o7600 == 0o600


EVIL = {
    "up": (entry("leather/../../evil.png"),),
    "symbolic link": (entry("leather/link", b"", tarfile.SYMTYPE, linkname="/etc/passwd"),),
    "symbolic link up": (entry("leather/link", b"", tarfile.SYMTYPE, linkname="../../.."), entry("leather/link/x.png")),
    "hard link": (entry("leather/link", b"", tarfile.LNKTYPE, linkname="../../a.tar"),),
    "pipe": (entry("leather/pipe", b"", tarfile.FIFOTYPE),),
    "device": (entry("leather/null", b"", tarfile.CHRTYPE),),
    "file as folder": (entry("leather/a"), entry("leather/a/x.png")),
    "long name": (entry("leather/" + "x" * 300),),
    "large": (entry("leather/zeros", bytes(3_000_000)),),
    "large elsewhere": (entry("tile/zeros", bytes(3_000_000)),),
    "many": tuple(entry(f"leather/{number}.txt", b"") for number in range(50)),
}


@pytest.mark.parametrize("kind", EVIL)
def test_an_evil_entry_leaves_nothing_behind(tmp_path, kind):
    archive = pack(tmp_path / "a.tar", extra=EVIL[kind])
    with pytest.raises(DataError, match=r"is no archive of leather|can't be unpacked"):
        unpack(archive, tmp_path / "deep" / "root" / "leather", **LIMITS)
    assert tree(tmp_path) == {"a.tar"}


@pytest.mark.parametrize("form", ["xz", "gz", ""])
@pytest.mark.parametrize("part", [0.01, 0.5, 0.9])
def test_truncated_archives(tmp_path, form, part):
    content = pack(tmp_path / "a.tar", form=form).read_bytes()
    (tmp_path / "a.tar").write_bytes(content[: int(len(NOISE) * part)])
    with pytest.raises(DataError, match="damaged or truncated"):
        unpack(tmp_path / "a.tar", tmp_path / "root" / "leather", **LIMITS)
    assert tree(tmp_path) == {"a.tar"}
    assert len(content) > len(NOISE)


@pytest.mark.parametrize(("form", "place"), [("xz", 0.5), ("gz", 0.5), ("gz", 1), ("bz2", 0.5)])
def test_flipped_bytes_are_found_even_in_the_checksum_at_the_end(tmp_path, form, place):
    content = bytearray(pack(tmp_path / "a.tar", form=form).read_bytes())
    content[int(len(content) * place) - 6] ^= 0xFF
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(DataError, match=r"damaged or truncated|can't be unpacked"):
        unpack(tmp_path / "a.tar", tmp_path / "root" / "leather", **LIMITS)
    assert tree(tmp_path) == {"a.tar"}


@pytest.mark.parametrize("content", [b"", b"<html>404</html>" * 100, bytes(5000)])
def test_what_is_no_archive(tmp_path, content):
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(DataError, match="is no archive of leather"):
        unpack(tmp_path / "a.tar", tmp_path / "root" / "leather", **LIMITS)


def test_the_archive_of_another_category(tmp_path):
    with pytest.raises(DataError, match="it holds no images in tile/train/good"):
        unpack(pack(tmp_path / "a.tar"), tmp_path / "root" / "tile", **LIMITS)
    assert not (tmp_path / "root" / "tile").exists()
