"""The command line that fetches categories, against a local server."""

import errno
import functools
import hashlib
import io
import json
import os
import re
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from rich.console import Console

from anomaly_lightning.data import archive
from anomaly_lightning.data.samples import read_category
from anomaly_lightning.download import download
from anomaly_lightning.errors import DataError
from anomaly_lightning.places import CONFIG_DIR

NAMES = ("bottle", "cable", "leather")


def pack(path: Path, *names: str, extra: str | None = None) -> bytes:
    with tarfile.open(path, "w:xz") as tar:
        for name in [f"{name}/train/good/000.png" for name in names] + ([extra] if extra else []):
            info = tarfile.TarInfo(name)
            info.size = 7
            tar.addfile(info, io.BytesIO(b"image"))
    return path.read_bytes()


@pytest.fixture
def shelf(tmp_path) -> Path:
    folder = tmp_path / "shelf"
    folder.mkdir()
    for name in NAMES:
        pack(folder / f"{name}.tar.xz", name)
    return folder


@pytest.fixture
def base(shelf, monkeypatch) -> Iterator[str]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(shelf))
    handler.log_message = lambda *_: None
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def config(root: Path, *overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONFIG_DIR / "download"), version_base="1.3"):
        return compose("download", [f"root={root}", "accept_license=true", "connection.wait_s=0.01", *overrides])


def addresses(base: str) -> list[str]:
    given = {name: (f"address={base}/{name}.tar.xz", "sha256=null") for name in NAMES}
    return [f"archives.{name}.{value}" for name, values in given.items() for value in values]


def run(cfg: DictConfig) -> tuple[list[Path], str]:
    said = io.StringIO()
    folders = download(cfg, Console(file=said, width=500))
    return folders, said.getvalue()


def test_a_category_comes_whole_and_leaves_no_archive(tmp_path, base):
    folders, said = run(config(tmp_path / "mvnet", "category=leather", *addresses(base)))
    assert folders == [tmp_path / "mvnet" / "leather"]
    assert len(read_category(tmp_path / "mvnet", "leather").train) == 1
    assert "CC BY-NC-SA 4.0" in said
    assert "about 500 MB" in said
    assert {p.name for p in (tmp_path / "mvnet" / ".download").iterdir()} <= {"checksums.json", "leather.lock"}


def test_what_is_there_is_left_alone(tmp_path):
    (tmp_path / "leather").mkdir()
    folders, said = run(config(tmp_path, "category=leather", "accept_license=false"))
    assert folders == [tmp_path / "leather"]
    assert "is there already" in said


def test_all_goes_on_with_what_is_missing(tmp_path, base, shelf):
    everything = [
        *addresses(base),
        "category=all",
        *(f"~archives.{name}" for name in config(tmp_path).archives if name not in NAMES),
    ]
    (shelf / "cable.tar.xz").rename(shelf / "hidden")
    with pytest.raises(DataError, match=r"cable.tar.xz answers 404"):
        run(config(tmp_path, *everything))
    assert (tmp_path / "bottle").is_dir()
    assert not (tmp_path / "cable").exists()
    (shelf / "hidden").rename(shelf / "cable.tar.xz")
    assert len(run(config(tmp_path, *everything))[0]) == 3
    assert {p.name for p in tmp_path.iterdir() if p.is_dir()} == {*NAMES, ".download", "shelf"}


def test_a_dead_address_says_how_to_do_it_by_hand(tmp_path, base):
    dead = f"archives.leather.address={base}/gone.tar.xz"
    with pytest.raises(DataError) as caught:
        run(config(tmp_path, "category=leather", dead))
    by_hand = ("mvtec.com", "mvtec_anomaly_detection.tar.xz (5265 MB, sha256 cf4313b1", "archive=<the file>")
    for words in ("404", "the address is dead", *by_hand, "archives.leather.address=https://"):
        assert words in str(caught.value)


def test_an_archive_fetched_by_hand(tmp_path, shelf):
    pack(shelf / "all.tar.xz", *NAMES)
    run(config(tmp_path / "a", "category=leather", f"archive={shelf / 'all.tar.xz'}"))
    assert {p.name for p in (tmp_path / "a").iterdir()} == {".download", "leather"}
    assert (shelf / "all.tar.xz").exists()
    with pytest.raises(DataError, match="there is no such file"):
        run(config(tmp_path / "b", "category=leather", "archive=gone.tar.xz"))


def test_the_licence_has_to_be_accepted(tmp_path, base):
    for answer in ("accept_license=false", "accept_license=null"):
        with pytest.raises(DataError, match="accept_license=true"):
            run(config(tmp_path, "category=leather", answer, *addresses(base)))
    assert not (tmp_path / ".download").exists()


def test_a_stated_checksum_is_held_against_the_archive(tmp_path, base, shelf):
    digest = hashlib.sha256((shelf / "leather.tar.xz").read_bytes()).hexdigest()
    with pytest.raises(DataError, match=r"archives.leather.sha256 is 0000"):
        run(config(tmp_path, "category=leather", *addresses(base), f"archives.leather.sha256='{'0' * 64}'"))
    assert not (tmp_path / "leather").exists()
    assert not (tmp_path / ".download" / "leather.tar.xz").exists()
    run(config(tmp_path, "category=leather", *addresses(base), f"archives.leather.sha256={digest}"))


def test_an_unknown_checksum_is_recorded_and_compared_next_time(tmp_path, base, shelf):
    content = (shelf / "leather.tar.xz").read_bytes()
    run(config(tmp_path, "category=leather", *addresses(base)))
    book = json.loads((tmp_path / ".download" / "checksums.json").read_text())
    assert book == {"leather": hashlib.sha256(content).hexdigest()}
    (tmp_path / "leather").rename(tmp_path / "before")
    pack(shelf / "leather.tar.xz", "leather", extra="leather/more.png")
    with pytest.raises(DataError, match=r"the one recorded in .*checksums.json"):
        run(config(tmp_path, "category=leather", *addresses(base)))


def test_an_evil_archive_is_not_kept(tmp_path, base, shelf):
    pack(shelf / "leather.tar.xz", "leather", extra="leather/../../evil.png")
    with pytest.raises(DataError, match="leads out of its folder"):
        run(config(tmp_path / "deep" / "root", "category=leather", *addresses(base)))
    assert not list(tmp_path.rglob("*.png"))
    assert not list((tmp_path / "deep" / "root" / ".download").glob("*.xz"))


def test_a_full_disk_does_not_cost_what_was_fetched(tmp_path, base, shelf, monkeypatch):
    def full(*_) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(archive, "_write", full)
    with pytest.raises(DataError, match=r"can't be written: .*No space left.*leather.tar.xz is kept"):
        run(config(tmp_path, "category=leather", *addresses(base)))
    monkeypatch.undo()
    (shelf / "leather.tar.xz").unlink()
    run(config(tmp_path, "category=leather"))
    assert (tmp_path / "leather").is_dir()


def test_a_page_instead_of_an_archive(tmp_path, base, shelf):
    (shelf / "leather.tar.xz").write_text("<html>Please log in</html>" * 100)
    with pytest.raises(DataError, match="damaged or truncated"):
        run(config(tmp_path, "category=leather", *addresses(base)))


def test_kept_archives_are_not_fetched_again(tmp_path, base, shelf):
    keep = config(tmp_path, "category=leather", "keep_archive=true", *addresses(base))
    run(keep)
    (tmp_path / "leather").rename(tmp_path / "before")
    (shelf / "leather.tar.xz").unlink()
    run(keep)
    assert (tmp_path / "leather" / "train" / "good" / "000.png").is_file()


def test_a_mistyped_category_lists_the_choices(tmp_path):
    with pytest.raises(DataError, match=r"category=lether: expected all or one of bottle, .* zipper"):
        run(config(tmp_path, "category=lether"))


def test_every_category_has_an_https_address():
    archives = config(Path("x")).archives
    assert len(archives) == 15
    for name, one in archives.items():
        assert one.address.startswith("https://")
        assert one.address.endswith(f"/{name}.tar.xz")
        assert one.sha256 is None or re.fullmatch("[0-9a-f]{64}", one.sha256)
    assert len({one.address for one in archives.values()}) == 15


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
    assert (there / "my images" / "leather" / "train" / "good" / "000.png").is_file()
    assert {p.name for p in there.iterdir()} == {"my images"}
    refused = command("category=leather", "root=other", folder=there)
    assert refused.returncode == 1
    assert "DataError: The licence CC BY-NC-SA 4.0 was not accepted" in refused.stderr
    assert "Traceback" not in refused.stderr
