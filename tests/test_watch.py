"""predict watch=...: whole files only, each once, over kills and restarts, and a clean stop."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter

import numpy as np
import pytest
from lines import Given, line
from toy import save, texture

from anomaly_lightning.deploy.line.sources.folder import FolderSource
from anomaly_lightning.deploy.watching import identity
from anomaly_lightning.errors import UserError

PATIENCE = 60


def start(checkpoint, inbox, output, *more):
    command = [sys.executable, "-m", "anomaly_lightning.predict", f"checkpoint={checkpoint}", f"watch={inbox}"]
    given = [f"output={output}", "poll_s=0.05", "settle_s=0.2", "device=cpu", "validity=false", *more]
    repository = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120
    return subprocess.Popen(
        [*command, *given], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=repository
    )


def lines(output):
    file = output / "decisions.jsonl"
    whole = file.read_bytes().rpartition(b"\n")[0] if file.exists() else b""
    return [json.loads(line) for line in whole.splitlines()]


def wait_for(condition):
    until = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.05)


@pytest.mark.slow
def test_nothing_is_lost_or_repeated_over_a_kill_and_a_stop_is_clean(checkpoint, tmp_path):
    inbox, output, rng = tmp_path / "in box", tmp_path / "out", np.random.default_rng(0)
    for number in range(40):
        save(texture(rng), inbox / f"{number}.png")
    process = start(checkpoint, inbox, output)
    wait_for(lambda: len(lines(output)) >= 5)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = len(lines(output))
    assert 5 <= done < 40
    with (output / "decisions.jsonl").open("ab") as stream:
        stream.write(b'{"name": "cut o')  # as a crash in the middle of a line leaves it
    for number in range(40, 50):
        save(texture(rng), inbox / "later" / f"{number}.png")
    process = start(checkpoint, inbox, output)
    wait_for(lambda: len(lines(output)) >= 50)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, out
    assert "stopped after" in out
    assert f"{done} images done before" in " ".join(out.split())
    names = Counter(line["name"] for line in lines(output))
    assert len(names) == 50
    assert set(names.values()) == {1}
    assert all(set(region) == {"box", "area", "peak"} for line in lines(output) for region in line["regions"])
    for name in names:
        assert (output / "heatmaps" / f"{name}.png").is_file()
        assert (output / "masks" / f"{name}.png").is_file()


@pytest.fixture
def watching(tmp_path):
    """A function that watches tmp_path/in until so many lines are written or a time has passed; gives the new lines."""
    (tmp_path / "in").mkdir()

    def watch(count, seconds=20.0, meanwhile=None, output=tmp_path / "out", **changed):
        times = {"poll_s": 0.02, "settle_s": 0.15, "patience_s": 0.6, **changed}
        made = line(FolderSource(tmp_path / "in", **times), output, journal="decisions.jsonl")
        before = made.ledger.before
        stop = threading.Timer(seconds, made.stop.set)
        helper, work = threading.Thread(target=meanwhile or (lambda: None)), threading.Thread(target=made.run)
        for thread in (stop, helper, work):
            thread.start()
        while work.is_alive() and len(lines(output)) < before + count:
            time.sleep(0.01)
        made.stop.set()
        stop.cancel()
        helper.join()
        work.join()
        return [(row["name"], row["error"]) for row in lines(output)[before:]]

    return watch


def test_a_file_that_grows_is_read_when_it_is_whole(watching, tmp_path):
    whole = save(texture(np.random.default_rng(0)), tmp_path / "elsewhere.png").read_bytes()

    def drip():
        for end in (100, 1000, 3000):
            (tmp_path / "in" / "slow.png").write_bytes(whole[:end])
            time.sleep(0.3)  # longer than settle_s: only decoding tells that it is not whole
        (tmp_path / "in" / "slow.png").write_bytes(whole)

    (only,) = watching(1, meanwhile=drip)
    assert only == ("slow.png", None)


def test_temporary_names_are_left_alone_until_they_are_renamed(watching, tmp_path):
    shutil.copy(save(texture(np.random.default_rng(0)), tmp_path / "a.png"), tmp_path / "in" / "a.png.part")
    shutil.copy(tmp_path / "a.png", tmp_path / "in" / "a.tmp.png")
    shutil.copy(tmp_path / "a.png", tmp_path / "in" / ".a.png")
    assert watching(1, seconds=1.0) == []
    (tmp_path / "in" / "a.png.part").rename(tmp_path / "in" / "a.png")
    assert [name for name, _ in watching(1)] == ["a.png"]


@pytest.mark.parametrize("output", ["in/decided", "in"])
def test_links_are_followed_and_neither_hidden_files_nor_own_outputs_are_images(watching, tmp_path, output):
    arrived, elsewhere = tmp_path / "in", tmp_path / "elsewhere"
    values = texture(np.random.default_rng(4))
    for file in (arrived / "a.png", arrived / ".Trash" / "b.png", elsewhere / "c.png"):
        save(values, file)
    (arrived / "cam2").symlink_to(elsewhere)
    (elsewhere / "up").symlink_to(arrived)
    for kind in ("heatmaps", "masks"):
        save(values, tmp_path / output / kind / "a.png.png")
    found = watching(3, seconds=1.5, output=tmp_path / output)
    assert sorted(name for name, _ in found) == ["a.png", "cam2/c.png"]


def test_a_broken_file_gets_one_error_line(watching, tmp_path):
    whole = save(texture(np.random.default_rng(0)), tmp_path / "a.png").read_bytes()
    (tmp_path / "in" / "broken.png").write_bytes(whole[: len(whole) // 2])
    ((name, error),) = watching(1)
    assert name == "broken.png"
    assert "truncated" in error
    assert watching(1, seconds=1.5) == []


def test_a_image_that_is_written_anew_is_a_new_one(watching, tmp_path):
    save(texture(np.random.default_rng(0)), tmp_path / "in" / "a.png")
    assert len(watching(1)) == 1
    assert watching(1, seconds=1.0) == []
    save(texture(np.random.default_rng(1)), tmp_path / "in" / "a.png")
    assert len(watching(1)) == 1


def test_names_with_spaces_unicode_and_newlines(watching, tmp_path):
    names = ["a b.png", "größe 部品.png", "two\nlines.png"]
    for number, name in enumerate(names):
        save(texture(np.random.default_rng(number)), tmp_path / "in" / name)
    assert sorted(name for name, _ in watching(3)) == sorted(names)
    assert sorted(line["name"] for line in lines(tmp_path / "out")) == sorted(names)
    assert len((tmp_path / "out" / "decisions.jsonl").read_text().splitlines()) == 3


def test_a_foreign_journal_is_refused(tmp_path):
    (tmp_path / "decisions.jsonl").write_text('{"path": "x"}\n')
    with pytest.raises(UserError, match="line 1, was not written by a line or watch"):
        line(Given([]), tmp_path, journal="decisions.jsonl")


def test_identities_tell_versions_apart(tmp_path):
    file = tmp_path / "a.png"
    assert identity(file, tmp_path) is None
    file.write_bytes(b"12")
    first = identity(file, tmp_path)
    os.utime(file, ns=(0, 5))
    assert first != identity(file, tmp_path) == ("a.png", 2, 5)


def test_watch_and_input_together_are_refused(checkpoint, tmp_path):
    from toy import command, flat

    ran = command("predict", f"checkpoint={checkpoint}", "input=x.png", f"watch={tmp_path}", cwd=tmp_path)
    assert ran.code == 1
    assert "set one of them" in flat(ran.out)
    ran = command("predict", f"checkpoint={checkpoint}", f"watch={tmp_path / 'none'}", cwd=tmp_path)
    assert ran.code == 1
    assert "expected a folder that is there" in flat(ran.out)
    ran = command("predict", f"checkpoint={checkpoint}", cwd=tmp_path)
    assert ran.code == 1
    assert "watch=<folder>" in flat(ran.out)
