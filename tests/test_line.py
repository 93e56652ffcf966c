"""A line: every part gets one line and one alone, whatever is slow, broken, lost or killed."""

import errno
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from lines import QUICK, Given, Redness, folder_of, image, inspector, line, lines, wait_for

from anomaly_lightning.deploy.line.backoff import Backoff
from anomaly_lightning.deploy.line.command import line_of
from anomaly_lightning.deploy.line.ledger import Gate, Ledger
from anomaly_lightning.deploy.line.line import Settings
from anomaly_lightning.deploy.line.part import Outcome, Part
from anomaly_lightning.deploy.line.records import Records
from anomaly_lightning.deploy.line.sources import SourceLostError
from anomaly_lightning.deploy.line.sources.replay import ReplaySource
from anomaly_lightning.errors import UserError
from anomaly_lightning.runtime.inspector import Inspector

HERE = Path(__file__).parent


def test_each_part_gets_what_the_inspector_says(tmp_path):
    folder = folder_of(tmp_path / "in", 9)
    (folder / "broken.png").write_bytes(b"no image")
    summary = line(ReplaySource(folder, None, 1), tmp_path / "out", images=("NG",), batch_size=4).run()
    found = {row["name"]: row for row in lines(tmp_path / "out")}
    assert len(lines(tmp_path / "out")) == len(found) == 10
    inspect = inspector()
    for file in sorted(folder.glob("0*.png")):
        said, row = inspect(file), found[file.name]
        assert (row["outcome"], row["decision"], row["error"]) == ("verdict", said.verdict, None)
        assert (row["score"], row["threshold"]) == (said.score, said.threshold)
        assert [region["area"] for region in row["regions"]] == [region.area for region in said.regions]
        assert row["accept"] is (said.verdict == "OK")
        heatmap = f"heatmaps/{row['id']}.png"
        assert row["heatmap"] == (heatmap if said.verdict == "NG" else None)
        assert (tmp_path / "out" / heatmap).exists() is (said.verdict == "NG")
        assert row["latency_ms"] > 0
    broken = found["broken.png"]
    assert (broken["outcome"], broken["decision"], broken["accept"]) == ("failed", None, False)
    assert "broken.png" in broken["error"]
    assert summary.tally.counts() == {"taken": 10, "verdict": 9, "late": 0, "dropped": 0, "failed": 1}
    assert (summary.open, summary.inspected) == (0, 9)


def test_a_line_that_holds_drops_nothing_at_twice_its_capacity(tmp_path):
    source = ReplaySource(folder_of(tmp_path / "in", 50), 60 / 0.01, 1)
    summary = line(source, tmp_path / "out", seconds=0.02, behind="hold", queue=3).run()
    rows = lines(tmp_path / "out")
    assert sorted(row["name"] for row in rows) == [f"{number:03d}.png" for number in range(50)]
    assert {row["outcome"] for row in rows} == {"verdict"}
    assert summary.tally.counts()["dropped"] == 0


class Metered(Redness):
    """An engine that inspects one image for each `let`, and says when it `began` with one."""

    def __init__(self):
        super().__init__()
        self.let, self.began = threading.Semaphore(0), threading.Semaphore(0)

    def run(self, images):
        self.began.release()
        self.let.acquire(timeout=60)
        return super().run(images)


class TwiceTooFast(Given):
    """Two parts come while the engine inspects one, however busy the machine is."""

    def __init__(self, items, engine):
        super().__init__(items)
        self.engine = engine

    def parts(self, feed):
        for number, part in enumerate(super().parts(feed)):
            if number and number % 2 == 0:
                self.engine.let.release()
                self.engine.began.acquire(timeout=60)
            yield part
            if number == 0:
                self.engine.began.acquire(timeout=60)
        self.engine.let.release(self.walks * 1000)


def dropped_at_twice(behind, count, room):
    """Numbers of the parts that a line drops, by counting: the model takes the next one after each two that came."""
    waiting, dropped = [], []
    for number in range(1, count):  # the first is with the model at once
        if number % 2 == 0:
            waiting.pop(0)
        if len(waiting) == room:
            dropped.append(number if behind == "fail_safe" else waiting.pop(0))
        if behind == "drop_oldest" or len(waiting) < room:
            waiting.append(number)
    return dropped


@pytest.mark.parametrize("behind", ["drop_oldest", "fail_safe"])
def test_at_twice_the_capacity_every_part_is_accounted_for(tmp_path, behind):
    engine = Metered()
    made = line_of(
        Inspector(inspector().card, engine),
        TwiceTooFast([image()] * 50, engine),
        {},
        Settings(**QUICK, behind=behind, queue=3),
        tmp_path,
        maps=False,
    )
    summary = made.run()
    rows = {int(row["id"][-2:]) - 1: row for row in lines(tmp_path)}
    assert sorted(rows) == list(range(50))
    assert len(lines(tmp_path)) == 50
    dropped = {number: row for number, row in rows.items() if row["outcome"] == "dropped"}
    assert sorted(dropped) == sorted(dropped_at_twice(behind, 50, 3))
    assert len(dropped) == summary.tally.counts()["dropped"] == 22
    assert {row["outcome"] for row in rows.values()} == {"verdict", "dropped"}
    assert not any(row["accept"] for row in dropped.values())
    assert {row["decision"] for row in dropped.values()} == ({"NG"} if behind == "fail_safe" else {None})


class Blocked(Redness):
    """An engine that waits for `go`."""

    def __init__(self):
        super().__init__()
        self.go = threading.Event()

    def run(self, images):
        self.go.wait(60)
        return super().run(images)


def blocked(source, folder, **settings):
    """A line whose engine does nothing until it may, and that engine."""
    engine, known = Blocked(), inspector()
    return line_of(Inspector(known.card, engine), source, {}, Settings(**QUICK, **settings), folder, False), engine


@pytest.mark.parametrize(("behind", "dropped"), [("drop_oldest", {2, 3, 4}), ("fail_safe", {4, 5, 6})])
def test_who_goes_where_the_line_is_behind(tmp_path, behind, dropped):
    class Steps(Given):
        """The first part is with the model before the others come."""

        def parts(self, feed):
            for part in super().parts(feed):
                yield part
                wait_for(lambda: made._intake.waiting() == 0 or len(self.items) < 5)

    made, engine = blocked(Steps([image()] * 6), tmp_path, behind=behind, queue=2)
    thread = threading.Thread(target=made.run)
    thread.start()
    wait_for(lambda: len(lines(tmp_path)) == 3)  # told at once, while the model is busy
    assert {int(row["id"][-1]) for row in lines(tmp_path)} == dropped
    assert {row["outcome"] for row in lines(tmp_path)} == {"dropped"}
    assert len(lines(tmp_path, "taken.jsonl")) == 6  # what waits is written down, too
    engine.go.set()
    thread.join()
    assert {int(row["id"][-1]) for row in lines(tmp_path)[3:]} == {1, 2, 3, 4, 5, 6} - dropped
    assert {row["outcome"] for row in lines(tmp_path)[3:]} == {"verdict"}


def test_the_table_has_a_row_for_each_outcome(tmp_path):
    from rich.console import Console

    summary = line(ReplaySource(folder_of(tmp_path / "in", 6), None, 1), tmp_path / "out").run()
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    console.print(summary.tally.table())
    words = [row.split() for row in console.export_text().replace("│", " ").splitlines()]
    rows = {row[0]: row[1:] for row in words if row}
    assert rows["verdict"][0] == rows["taken"][0] == rows["lines"][0] == "6"
    assert (rows["NG"], rows["OK"]) == (["2"], ["4"])
    latencies = sorted(row["latency_ms"] for row in lines(tmp_path / "out"))
    assert float(rows["verdict"][4]) == pytest.approx(latencies[-1], abs=0.06)
    assert float(rows["verdict"][1]) == pytest.approx((latencies[2] + latencies[3]) / 2, abs=0.06)


def test_a_deadline_is_kept_while_the_model_is_stuck(tmp_path):
    made, engine = blocked(Given([image(), image()]), tmp_path, deadline_ms=100, behind="fail_safe")
    thread = threading.Thread(target=made.run)
    thread.start()
    wait_for(lambda: len(lines(tmp_path)) == 2)
    engine.go.set()  # a verdict comes after all, and is no second line
    thread.join()
    assert len(lines(tmp_path)) == 2
    for row in lines(tmp_path):
        assert (row["outcome"], row["decision"], row["accept"]) == ("late", "NG", False)
        assert row["latency_ms"] >= 100
    assert made.ledger.tally.counts() == {"taken": 2, "verdict": 0, "late": 2, "dropped": 0, "failed": 0}


def test_a_verdict_that_comes_after_the_deadline_is_late(tmp_path):
    ledger = Ledger(tmp_path, "line", Gate(deadline_s=60.0), remember=False)  # the disk may be slow
    for number, age in enumerate((0.0, 61.0)):
        part = Part(str(number), image(), time.monotonic() - age)
        ledger.take(part)
        ledger.decide(part, Outcome("verdict", {"score": 0.1}, "OK"))
    assert [(row["outcome"], row["accept"]) for row in lines(tmp_path)] == [("verdict", True), ("late", False)]
    assert lines(tmp_path)[1]["decision"] is None


def test_the_models_failure_on_one_part_costs_that_part(tmp_path):
    parts = [image(), image(blue=True), image(red=True), image()]
    line(Given(parts), tmp_path, batch_size=4, queue=4).run()
    rows = sorted(lines(tmp_path), key=lambda row: row["id"])
    assert [row["decision"] for row in rows] == ["OK", None, "NG", "OK"]
    assert rows[1]["outcome"] == "failed"
    assert "blue is too much" in rows[1]["error"]


def test_a_lost_source_is_asked_again_and_numbers_go_on(tmp_path):
    lost = SourceLostError("the cable is out")
    source = Given([image(), lost, lost, lost, image(red=True), image()])
    line(source, tmp_path).run()
    assert source.walks == 4
    ids = [row["id"] for row in lines(tmp_path)]
    assert [name.rpartition("-")[2] for name in ids] == ["0000001", "0000002", "0000003"]


def test_waits_double_with_jitter_up_to_a_limit():
    backoff = Backoff(1.0, 60.0)
    waits = [backoff.next() for _ in range(500)]
    for number, wait in enumerate(waits):
        highest = min(60.0, 2.0**number)
        assert highest / 2 <= wait <= highest
    assert max(waits[10:]) - min(waits[10:]) > 25
    backoff.reset()
    assert backoff.next() <= 1.0


def test_what_was_taken_gets_its_line_when_the_line_is_stopped(tmp_path):
    class Stopped(Given):
        """The line is stopped before the eighth part is taken; seven have been, and the model has said nothing."""

        def parts(self, feed):
            for number, part in enumerate(super().parts(feed), start=1):
                if number == 8:
                    before.extend([len(lines(tmp_path, "taken.jsonl")), len(lines(tmp_path))])
                    made.stop.set()
                    engine.go.set()
                yield part

    before = []
    made, engine = blocked(Stopped([image()] * 100), tmp_path, queue=10)
    summary = made.run()
    assert before == [7, 0]
    assert summary.tally.counts()["taken"] == summary.tally.counts()["verdict"] == 8
    assert [int(row["id"][-1]) for row in lines(tmp_path)] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert (tmp_path / "taken.jsonl").read_bytes() == b""


def crash(folder, taken, journal=b""):
    """The files of a line that was killed."""
    folder.mkdir()
    (folder / "taken.jsonl").write_bytes(b"".join(json.dumps(row).encode() + b"\n" for row in taken) + b'{"id": "cut')
    (folder / "journal.jsonl").write_bytes(journal + b'{"id": "also c')


def test_frames_that_were_in_memory_get_a_line_at_the_next_start(tmp_path):
    crash(tmp_path / "out", [{"id": "a-1"}, {"id": "a-2"}], b'{"id": "a-1", "outcome": "verdict"}\n')
    summary = line(Given([image()]), tmp_path / "out", behind="fail_safe").run()
    first, second, third = lines(tmp_path / "out")
    assert first["id"] == "a-1"
    assert (second["id"], second["outcome"], second["decision"]) == ("a-2", "failed", "NG")
    assert "the process ended" in second["error"]
    assert third["outcome"] == "verdict"
    assert summary.open == 0


def test_files_that_were_taken_are_taken_again_and_those_that_are_gone_get_a_line(tmp_path):
    folder = folder_of(tmp_path / "in", 3)
    line(ReplaySource(folder, None, 1), tmp_path / "before").run()
    done, again, gone = lines(tmp_path / "before")
    keys = ("id", "name", "bytes", "mtime_ns", "round")
    (folder / gone["name"]).unlink()
    taken = [{key: row[key] for key in keys} for row in (done, again, gone)]
    crash(tmp_path / "out", taken, json.dumps(done).encode() + b"\n")
    line(ReplaySource(folder, None, 1), tmp_path / "out").run()
    rows = {row["id"]: row for row in lines(tmp_path / "out")}
    assert len(lines(tmp_path / "out")) == len(rows) == 3
    assert rows[again["id"]]["outcome"] == "verdict"
    assert rows[gone["id"]]["outcome"] == "failed"
    assert rows[gone["id"]]["name"] == gone["name"]


def test_a_full_disk_ends_the_line_and_loses_nothing(tmp_path, monkeypatch):
    folder, written = folder_of(tmp_path / "in", 9), []
    write = Records.write_line

    def full(self, row):
        if self.file.name == "journal.jsonl":
            written.append(row)
            if len(written) > 4:
                raise OSError(errno.ENOSPC, "No space left on device")
        write(self, row)

    with monkeypatch.context() as patch:
        patch.setattr(Records, "write_line", full)
        with pytest.raises(OSError, match="No space left"):
            line(ReplaySource(folder, None, 1), tmp_path / "out").run()
    assert len(lines(tmp_path / "out")) == 4
    summary = line(ReplaySource(folder, None, 1), tmp_path / "out").run()
    names = [row["name"] for row in lines(tmp_path / "out")]
    assert len(names) == len(set(names)) == 9
    assert summary.tally.counts()["taken"] == 5


def test_half_a_line_on_a_full_disk_is_taken_back(tmp_path, monkeypatch):
    records = Records(tmp_path / "a.jsonl")
    records.write({"id": "1"})
    monkeypatch.setattr("os.fsync", lambda number: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
    with pytest.raises(OSError, match="full"):
        records.write({"id": "2"})
    monkeypatch.undo()
    records.write({"id": "3"})
    assert [row["id"] for row in lines(tmp_path, "a.jsonl")] == ["1", "3"]


def test_what_was_taken_stays_small_and_never_misses_what_is_open(tmp_path, monkeypatch):
    monkeypatch.setattr("anomaly_lightning.deploy.line.ledger.LARGEST_TAKEN", 300)
    (tmp_path / "taken.jsonl").write_text('{"id": "from before", "name": "x"}\n')
    made, sizes = Ledger(tmp_path, "line", Gate(), remember=False), []
    waiting = [Part(f"part-{number:03d}", image(), 0.0, {"frame": number}) for number in range(60)]
    for number, part in enumerate(waiting):
        made.take(part)
        if number >= 3:  # three are open at any time
            made.decide(waiting[number - 3], Outcome("verdict"))
        held = {row["id"]: row for row in lines(tmp_path, "taken.jsonl")}
        assert {"from before", *(part.id for part in waiting[max(0, number - 2) : number + 1])} <= set(held)
        assert held[part.id] == {"id": part.id, "frame": number}
        sizes.append((tmp_path / "taken.jsonl").stat().st_size)
    assert max(sizes) < 400
    made.close()
    assert len(lines(tmp_path, "taken.jsonl")) == 4


def test_two_processes_never_share_a_folder(tmp_path):
    first = line(Given([image()]), tmp_path)
    with pytest.raises(UserError, match="another process writes there"):
        line(Given([image()]), tmp_path)
    first.run()
    line(Given([image()]), tmp_path).run()


def test_a_source_that_repeats_an_id_ends_the_line(tmp_path):
    class Twice(Given):
        repeats = True  # so that it is noticed however soon the first has its line

        def parts(self, feed):
            for part in super().parts(feed):
                yield part
                yield part

    with pytest.raises(ValueError, match="twice"):
        line(Twice([image()]), tmp_path / "line").run()
    ledger, part = Ledger(tmp_path, "line", Gate(), remember=False), Part("1", image(), 0.0)
    ledger.take(part)
    with pytest.raises(ValueError, match="twice"):  # without a memory of lines, while the first is open
        ledger.take(part)


def test_the_heartbeat_tells_stuck_and_lost_from_running(tmp_path):
    heartbeat = tmp_path / "heartbeat.json"

    def state():
        return json.loads(heartbeat.read_text())["state"] if heartbeat.exists() else None

    class Steps(Given):
        """Each step waits until the heartbeat tells of the one before."""

        def parts(self, feed):
            wait_for(lambda: state() == ("source_lost" if self.walks else "running"))
            for part in super().parts(feed):
                yield part
                if self.walks == 1:
                    wait_for(lambda: state() == "stalled")
                    engine.go.set()
                    wait_for(lambda: state() == "running")

    source = Steps([image(), SourceLostError("out"), image()])
    made, engine = blocked(source, tmp_path, heartbeat_s=0.02, stall_s=0.15)
    made.run()
    said = json.loads(heartbeat.read_text())
    assert said["state"] == "stopped"
    assert (said["taken"], said["verdict"], said["line"]) == (2, 2, "line")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"behind": "panic"}, "behind=panic: expected one of hold, drop_oldest, fail_safe"),
        ({"accept": ("OK", "NG")}, "no other part may pass"),
        ({"queue": 0}, "1 or more"),
        ({"deadline_ms": 0}, "deadline_ms=0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, said):
    with pytest.raises(UserError, match=said):
        Settings(**settings)


def started(kind, images, out):
    command = [sys.executable, str(HERE / "killed_line.py"), kind, str(images), str(out)]
    return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(HERE.parent)})


def killed(kind, images, out, rng):
    """Run a line for a while and kill it."""
    process, before = started(kind, images, out), len(lines(out)) if out.exists() else 0
    journal = out / "journal.jsonl"
    wait_for(
        lambda: (journal.exists() and journal.read_bytes().count(b"\n") > before + 2) or process.poll() is not None
    )
    time.sleep(rng.uniform(0.0, 0.15))
    process.send_signal(signal.SIGKILL)
    process.wait()


def ids_of(file):
    return [json.loads(row)["id"] for row in file.read_bytes().splitlines(keepends=True) if row.endswith(b"\n")]


def accounted_for(kind, folder, out, taken):
    """Hold the journal and what the sink got against what was taken."""
    ids = [row["id"] for row in lines(out)]
    assert len(set(ids)) == len(ids), "an id is there twice"
    assert taken <= set(ids), "an id is lost"
    if kind == "replay":
        assert {row["name"] for row in lines(out)} == {file.name for file in folder.iterdir()}
    else:
        for session, count in Counter(name.rpartition("-")[0] for name in ids).items():
            numbers = {int(name.rpartition("-")[2]) for name in ids if name.startswith(session)}
            assert numbers == set(range(1, count + 1)), "a number is missing"
    delivered = [name for file in sorted((out / "results").iterdir()) for name in ids_of(file)]
    assert delivered == ids, "the sink has each line once, in order"


def through_kills(kind, tmp_path, kills, images, seed):
    folder, out, rng, taken = folder_of(tmp_path / "in", images), tmp_path / "out", random.Random(seed), set[str]()
    for _ in range(kills):
        killed(kind, folder, out, rng)
        taken |= set(ids_of(out / "taken.jsonl"))
        assert set(ids_of(out / "journal.jsonl")) <= taken, "a part was told before it was written down"
    last = started(kind, folder, out)
    if kind == "live":
        before = len(lines(out))
        wait_for(lambda: len(ids_of(out / "journal.jsonl")) > before + 5)
        last.terminate()
    assert last.wait(120) == 0
    accounted_for(kind, folder, out, taken)


@pytest.mark.parametrize("kind", ["replay", "live"])
def test_a_kill_loses_no_part_and_repeats_none(tmp_path, kind):
    through_kills(kind, tmp_path, 1, 60, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["replay", "live"])
def test_many_kills_at_random_moments_lose_no_part_and_repeat_none(tmp_path, kind):
    through_kills(kind, tmp_path, 12, 400, seed=1)


def test_a_line_imports_no_torch():
    code = (
        "import sys, pkgutil, importlib, anomaly_lightning.deploy.line as room\n"
        "for found in pkgutil.walk_packages(room.__path__, room.__name__ + '.'): importlib.import_module(found.name)\n"
        "sys.exit(', '.join({'torch', 'scipy', 'cv2', 'paho', 'requests', 'hydra'} & set(sys.modules)) or 0)"
    )
    ran = subprocess.run([sys.executable, "-c", code], cwd=HERE.parent, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
