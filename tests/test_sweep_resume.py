"""A multirun that is killed and started again runs only what is missing, and ends with the same leaderboard."""

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
JOBS = ("leather", "bottle")
SWEEP = (
    "debug=fast",
    "data=synthetic",
    "callbacks.panels=null",
    "callbacks.learning=null",
    "validity=false",
    "drift=false",
)
DEFAULT = (f"category={','.join(JOBS)}",)
PASSING = ("total_s", "peak_memory_mb", "run")  # times, memory, folder names
PASSING_HEADS = ("time, s", "memory, MiB")


def start(cwd: Path, *overrides: str) -> subprocess.Popen:
    environment = {**os.environ, "ANOMALY_CACHE": str(cwd / "cache"), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "anomaly_lightning.train", "--multirun", *SWEEP, *(overrides or DEFAULT)]
    with (cwd / "log.txt").open("a") as log:
        return subprocess.Popen(command, cwd=cwd, env=environment, stdout=log, stderr=log, start_new_session=True)


def finish(cwd: Path, *overrides: str) -> Path:
    """Run to the end; returns the folder of this multirun."""
    known = sweeps(cwd)
    assert start(cwd, *overrides).wait(timeout=300) == 0, (cwd / "log.txt").read_text()[-3000:]
    (folder,) = set(sweeps(cwd)) - set(known)
    return folder


def sweeps(cwd: Path) -> list[Path]:
    return sorted((cwd / "outputs" / "multirun").glob("*"))


def kill(process: subprocess.Popen) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait(timeout=60) == -signal.SIGKILL


def status(job: Path) -> str | None:
    file = job / "run.json"
    return json.loads(file.read_text())["status"] if file.is_file() else None


def wait_for(process: subprocess.Popen, condition) -> None:
    end = time.monotonic() + 240
    while not condition():
        assert process.poll() is None, "the sweep ended before the moment to kill it"
        assert time.monotonic() < end
        time.sleep(0.01)


def ran(folder: Path) -> list[str]:
    """Categories that a multirun ran itself, in order."""
    jobs = sorted(path for path in folder.iterdir() if path.is_dir() and path.name.isdigit())
    return [JOBS[int(job.name)] for job in jobs if not (job / "reused.json").exists()]


def lasting(folder: Path, name: str = "leaderboard.csv") -> bytes:
    """The leaderboard's bytes, times, memory and folder names aside."""
    with (folder / name).open(newline="") as stream:
        rows = list(csv.reader(stream)) if name.endswith("csv") else [line.split(" | ") for line in stream]
    hidden = [index for index, head in enumerate(rows[0]) if head in PASSING]
    assert len(hidden) == len(PASSING)
    kept = [[cell for index, cell in enumerate(row) if index not in hidden] for row in rows]
    return "\n".join("\x1f".join(row) for row in kept).encode()


class LastingPage(HTMLParser):
    """Every tag and text of leaderboard.html, times, memory and folder names aside."""

    def __init__(self, folder: Path) -> None:
        super().__init__(convert_charrefs=False)
        self.kept: list[object] = []
        self.hidden = 0
        self._name, self._heads, self._column, self._within = folder.name, {}, 0, []
        self.feed((folder / "leaderboard.html").read_text())

    def handle_starttag(self, tag, attrs):
        self._within.append(tag)
        self._column = {"tr": -1, "th": self._column + 1, "td": self._column + 1}.get(tag, self._column)
        lasting = {name: value for name, value in attrs if name != "data-value" or not self._passes()}
        if "href" in lasting:
            lasting["href"] = "/".join(lasting["href"].split("/")[-2:])  # of a run taken over it leads to another sweep
        self.kept.append((tag, lasting))

    def handle_endtag(self, tag):
        while self._within and self._within.pop() != tag:
            pass  # tags that are never closed
        self.kept.append(tag)

    def handle_data(self, data):
        if "thead" in self._within and data.strip():
            self._heads[self._column] = data
        elif self._passes() and data.strip():
            self.hidden += 1
            return
        self.kept.append(data.replace(self._name, ""))

    def _passes(self) -> bool:
        return "tbody" in self._within and self._heads.get(self._column) in PASSING_HEADS


def scores(folder: Path, job: int) -> bytes:
    found = folder / str(job)
    note = found / "reused.json"
    found = found / json.loads(note.read_text())["run"] if note.exists() else found
    return (found / "predictions.csv").read_bytes()


def at_work(cwd: Path, job: str) -> bool:
    """Whether a job of the latest multirun trains, is done, or was taken over."""
    folder = sweeps(cwd)[-1] / job
    return status(folder) is not None or (folder / "reused.json").exists()


def test_a_killed_sweep_runs_only_what_is_missing(tmp_path):
    process = start(tmp_path)
    wait_for(process, lambda: (found := sweeps(tmp_path)) and status(found[0] / "1") == "training")
    kill(process)
    (cut_off,) = sweeps(tmp_path)
    assert status(cut_off / "0") == "finished"
    assert not (cut_off / "leaderboard.csv").exists()

    resumed = finish(tmp_path)
    assert ran(resumed) == ["bottle"]
    untroubled = finish(tmp_path, *DEFAULT, "reuse=false")
    assert ran(untroubled) == list(JOBS)

    finished = (resumed / "1" / "run.json").stat().st_mtime_ns  # the last word: nothing of the outcome comes after it
    outcome = [path for path in (resumed / "1").rglob("*") if path.suffix in {".csv", ".npy", ".png", ".ckpt", ".html"}]
    outcome.append(resumed / "1" / "metrics.json")
    assert len(outcome) > 5
    assert [path.name for path in outcome if path.stat().st_mtime_ns > finished] == []

    for name in ("leaderboard.csv", "leaderboard.md"):
        assert lasting(resumed, name) == lasting(untroubled, name)
    for job in range(len(JOBS)):
        assert scores(resumed, job) == scores(untroubled, job)
    one, other = LastingPage(resumed), LastingPage(untroubled)
    assert one.kept == other.kept
    assert one.hidden == other.hidden == len(PASSING_HEADS) * (1 + len(JOBS))  # of the means, and of each run
    page = (resumed / "leaderboard.html").read_text()
    assert page.count(">report<") == len(JOBS)
    assert "Failed." not in page


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_kills_at_random_moments_change_nothing(tmp_path, seed):
    moments = random.Random(seed)
    for _ in range(4):
        known, job = len(sweeps(tmp_path)), str(moments.randrange(len(JOBS)))
        process = start(tmp_path)
        wait_for(process, lambda known=known, job=job: len(sweeps(tmp_path)) > known and at_work(tmp_path, job))
        try:
            process.wait(timeout=moments.uniform(0, 4))
        except subprocess.TimeoutExpired:
            kill(process)
        time.sleep(1.1)  # the folder of a multirun is named by the second
    resumed = finish(tmp_path)
    again = finish(tmp_path)
    assert ran(again) == []
    untroubled = finish(tmp_path, *DEFAULT, "reuse=false")
    assert lasting(resumed) == lasting(again) == lasting(untroubled)
    assert LastingPage(resumed).kept == LastingPage(again).kept == LastingPage(untroubled).kept


@pytest.mark.slow
def test_a_failed_run_is_run_again_in_a_fixed_folder_too(tmp_path):
    fixed = ("hydra.sweep.dir=outputs/multirun/fixed", "category=leather,cable")
    assert start(tmp_path, *fixed).wait(timeout=300) == 1
    folder = tmp_path / "outputs" / "multirun" / "fixed"
    assert "can't be generated" in json.loads((folder / "1" / "error.json").read_text())["error"]
    assert status(folder / "0") == "finished"
    written = (folder / "0" / "metrics.json").stat().st_mtime_ns
    assert start(tmp_path, fixed[0], "category=leather,tile").wait(timeout=300) == 0
    assert not (folder / "1" / "error.json").exists()
    assert status(folder / "1") == "finished"
    assert (folder / "0" / "metrics.json").stat().st_mtime_ns == written  # stood for itself
    assert "failed" not in (folder / "leaderboard.md").read_text()
