"""Hashes of files that are kept between runs: read once, and anew as soon as a file is another one."""

import hashlib
import os
import pickle
import shutil
import sqlite3
import subprocess
import sys
import time

import pytest
from toy import BARE, command, composed

from anomaly_lightning.data import hashes
from anomaly_lightning.data.hashes import HASHES, ContentHashes
from anomaly_lightning.places import PACKAGE
from anomaly_lightning.runtime.reading import ImageError
from anomaly_lightning.training import compose

OLD = time.time() - 3600


@pytest.fixture
def read(monkeypatch):
    """Names of the files that are read from now on."""
    names, content_hash = [], hashes.content_hash
    monkeypatch.setattr(hashes, "content_hash", lambda path: names.append(path.name) or content_hash(path))
    return names


@pytest.fixture(autouse=True)
def settled(monkeypatch):
    """Files count as old, for a file's own clock can't be turned back."""
    monkeypatch.setattr(hashes, "SETTLED_NS", -1)


def file(folder, content=b"one", name="a.png"):
    path = folder / name
    path.write_bytes(content)
    os.utime(path, (OLD, OLD))
    return path


def taken(folder, path):
    """What a run of its own says of a file."""
    kept = ContentHashes(folder)
    found = kept(path)
    kept.flush()
    return found


def test_a_second_run_reads_nothing(tmp_path, read):
    path, wanted = file(tmp_path), hashlib.sha256(b"one").hexdigest()
    assert [taken(tmp_path / "made" / "cache", path) for _ in range(3)] == [wanted] * 3
    assert read == ["a.png"]
    assert [taken(None, path) for _ in range(2)] == [wanted] * 2
    assert read == ["a.png"] * 3


def test_one_run_reads_a_file_once_whether_hashes_are_kept_or_not(tmp_path, read):
    path = file(tmp_path)
    for folder in (None, tmp_path):
        kept = ContentHashes(folder)
        assert kept(path) == kept(path)
    assert read == ["a.png"] * 2


def test_a_changed_file_is_read_again(tmp_path, read):
    path = file(tmp_path)
    first = taken(tmp_path, path)
    path.write_bytes(b"two")  # as long as before
    assert taken(tmp_path, path) == hashlib.sha256(b"two").hexdigest() != first
    assert taken(tmp_path, path) == hashlib.sha256(b"two").hexdigest()
    assert read == ["a.png"] * 2


@pytest.mark.skipif(os.name == "nt", reason="there the second time is that of creation")
def test_two_files_that_change_places_are_told_apart_though_size_and_time_stay(tmp_path):
    one, two = file(tmp_path), file(tmp_path, b"two", "b.png")
    before = [taken(tmp_path, one), taken(tmp_path, two)]
    aside = tmp_path / "aside"
    time.sleep(0.01)  # more than a tick of the clock of entries
    for source, target in ((one, aside), (two, one), (aside, two)):
        source.rename(target)
    assert one.stat().st_mtime == two.stat().st_mtime
    assert [taken(tmp_path, one), taken(tmp_path, two)] == before[::-1]
    shutil.copy2(two, one)
    assert taken(tmp_path, one) == taken(tmp_path, two)


def test_a_file_that_has_just_changed_is_not_kept_for_later_runs(tmp_path, read, monkeypatch):
    monkeypatch.setattr(hashes, "SETTLED_NS", 3_000_000_000)
    path = file(tmp_path)
    kept = ContentHashes(tmp_path)
    assert kept(path) == kept(path)
    kept.flush()
    assert read == ["a.png"]
    taken(tmp_path, path)
    assert read == ["a.png"] * 2


def test_a_file_that_changes_while_it_is_read_is_not_kept(tmp_path, monkeypatch):
    path, content_hash = file(tmp_path), hashes.content_hash

    def slow(which):
        found = content_hash(which)
        which.write_bytes(b"other")
        return found

    with monkeypatch.context() as patched:
        patched.setattr(hashes, "content_hash", slow)
        taken(tmp_path, path)
    assert taken(tmp_path, path) == hashlib.sha256(b"other").hexdigest()


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(ImageError, match="No such file"):
        taken(tmp_path, tmp_path / "nothing.png")


@pytest.mark.parametrize("spoilt", ["not a database, but text" * 50, None])
def test_a_database_that_can_not_be_used_costs_the_keeping_and_nothing_else(tmp_path, spoilt, caplog, read):
    path = file(tmp_path)
    if spoilt is None:
        (tmp_path / HASHES).mkdir()
    else:
        (tmp_path / HASHES).write_text(spoilt)
    kept = ContentHashes(tmp_path)
    assert kept(path) == kept(path) == hashlib.sha256(b"one").hexdigest()
    kept.flush()
    assert caplog.text.count("can't be kept") == 1
    assert "Remove the file" in caplog.text
    assert read == ["a.png"]


def test_hashes_that_wait_for_a_lock_in_vain_are_kept_by_the_process(tmp_path, read, monkeypatch, caplog):
    monkeypatch.setattr(hashes, "WAIT_S", 0.05)
    path, kept = file(tmp_path), ContentHashes(tmp_path)
    wanted = kept(path)
    other = sqlite3.connect(tmp_path / HASHES, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    kept.flush()
    assert "locked" in caplog.text
    assert kept(path) == wanted
    other.close()
    assert read == ["a.png"]


def test_processes_that_write_at_once_lose_nothing(tmp_path, read):
    paths = [file(tmp_path, bytes([number]), f"{number}.png") for number in range(60)]
    script = (
        "import sys; from pathlib import Path; from anomaly_lightning.data import hashes\n"
        "hashes.SETTLED_NS, hashes.AT_ONCE = -1, 2\n"
        "kept = hashes.ContentHashes(Path(sys.argv[1]))\n"
        "for path in sorted(Path(sys.argv[1]).glob('*.png'))[int(sys.argv[2])::2]: kept(path)\n"
        "kept.flush()\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}
    starts = ("0", "0", "1", "1")
    running = [
        subprocess.Popen([sys.executable, "-c", script, str(tmp_path), start], env=environment) for start in starts
    ]
    assert [process.wait(60) for process in running] == [0] * 4
    assert {taken(tmp_path, path) for path in paths} == {
        hashlib.sha256(path.read_bytes()).hexdigest() for path in paths
    }
    assert read == []


def test_the_connection_does_not_go_along_to_another_process(tmp_path, read):
    path, kept = file(tmp_path), ContentHashes(tmp_path)
    wanted = kept(path)
    assert pickle.loads(pickle.dumps(kept))(path) == wanted
    assert read == ["a.png"]


@pytest.mark.parametrize(("mode", "again"), [("disk", 0), ("memory", 27), ("off", 27)])
def test_runs_keep_hashes_in_the_cache_and_not_beside_the_images(widget, tmp_path, read, mode, again):
    cache = (f"cache.dir={tmp_path / 'cache'}", f"cache.mode={mode}")
    for name in ("first", "second"):
        read.clear()
        config = composed(*widget, *BARE, *cache, f"run_dir={tmp_path / name}")
        compose.build_datamodule(config, compose.build_backbone(config))[0].fingerprint  # noqa: B018
    assert len(read) == again + (7 if again else 0), "27 images and 7 masks"
    assert (tmp_path / "cache" / HASHES).exists() == (mode == "disk")
    assert not list(tmp_path.rglob("*.sqlite")) or mode == "disk"


def test_the_cache_command_shows_and_clears_them(tmp_path):
    taken(tmp_path / "cache", file(tmp_path))
    where = f"cache.dir={tmp_path / 'cache'}"
    assert "of hashes of images" in command("cache", where, cwd=tmp_path).out
    assert "of hashes of images" not in command("cache", where, "action=clear", cwd=tmp_path).out
    assert not (tmp_path / "cache" / HASHES).exists()
