"""Ctrl-C and SIGTERM: status 130 or 143, and one line with the command that goes on, which does."""

import csv
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from toy import BARE, command

import anomaly_lightning
from anomaly_lightning import cli
from anomaly_lightning.interruption import Work, interruptible, leads

STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143}
LONG = (
    *BARE,
    "bootstrap=0",
    "test=false",
    "trainer.max_epochs=100000",
    "callbacks.stopping=null",
    "callbacks.last.at_least_s=0",
)


def start(*words: str, cwd: Path) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(Path(anomaly_lightning.__file__).parents[1])}
    arguments = [sys.executable, "-m", *words]
    return subprocess.Popen(
        arguments, cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def interrupted(process: subprocess.Popen, number: int, once: Path) -> tuple[int, str, str]:
    """Status, standard output and error of a process that is sent a signal when a file is there."""
    end = time.monotonic() + 120
    while not once.exists() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.02)
    assert process.poll() is None, process.communicate()
    process.send_signal(number)
    out, error = process.communicate(timeout=60)
    return process.returncode, out, error


def last_line(error: str) -> str:
    return error.strip().splitlines()[-1]


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_an_interrupted_training_says_how_to_go_on_and_does(widget, tmp_path, number):
    folder = tmp_path / "it's a run (1)"
    last = folder / "checkpoints" / "last.ckpt"
    words = ("anomaly_lightning.train", *widget, *LONG, f"hydra.run.dir={folder}")
    status, out, error = interrupted(start(*words, cwd=tmp_path), number, last)
    assert status == STATUS[number]
    assert "Traceback" not in out + error
    line = last_line(error)
    assert line.startswith(f"Interrupted ({signal.Signals(number).name}): {last} holds what was done. To go on: ")
    assert not (folder / "metrics.json").exists()
    done = torch.load(last, weights_only=True)["epoch"] + 1

    program, flag, module, *again = shlex.split(line.partition("To go on: ")[2])
    assert (program, flag, module) == ("python", "-m", words[0])
    assert again == [*words[1:], f"ckpt={last}"]
    ran = command("train", *again, f"trainer.max_epochs={done + 1}", cwd=tmp_path)
    assert ran.code == 0, ran.out
    assert (folder / "metrics.json").exists()
    assert torch.load(last, weights_only=True)["epoch"] == done


@pytest.mark.slow
def test_an_interrupted_sweep_ends_as_a_whole_and_the_same_command_goes_on(widget, tmp_path):
    words = ("anomaly_lightning.train", "-m", *widget, *LONG, "seed=0,1", f"hydra.sweep.dir={tmp_path}/sweep")
    process = start(*words, cwd=tmp_path)
    once = tmp_path / "sweep" / "0" / "checkpoints" / "last.ckpt"
    status, out, error = interrupted(process, signal.SIGTERM, once)
    assert status == 143
    assert "Traceback" not in out + error
    assert last_line(error).endswith(shlex.join(["python", "-m", *words]))
    assert not (tmp_path / "sweep" / "1").exists()
    again = shlex.split(last_line(error).partition("finished runs: ")[2])[3:]
    assert command("train", *again, "trainer.max_epochs=2", cwd=tmp_path).code == 0
    with (tmp_path / "sweep" / "leaderboard.csv").open(newline="") as stream:
        assert sum(row["kind"] == "run" for row in csv.DictReader(stream)) == 2


def within(work: Work, number: int, capsys, then=time.sleep) -> tuple[int, str]:
    """Status and message where a signal comes in the middle of some work."""
    before = {each: signal.getsignal(each) for each in STATUS}
    with pytest.raises(SystemExit) as stopped, interruptible(work):  # noqa: PT012 - the signal may come late
        os.kill(os.getpid(), number)
        then(5)
    assert {each: signal.getsignal(each) for each in STATUS} == before
    return stopped.value.code, capsys.readouterr().err.strip()


@pytest.mark.parametrize("number", STATUS)
@pytest.mark.parametrize("name", ["evaluate", "audit", "cache", "download", "benchmark"])
def test_any_command_ends_with_a_line_and_the_status_of_the_signal(capsys, name, number):
    status, said = within(Work(name, ["category=a b"]), number, capsys)
    assert status == STATUS[number]
    assert said.endswith(f"{name} has not finished. To start again: python -m anomaly_lightning.{name} 'category=a b'")


def test_a_command_with_two_configs_is_called_by_the_name_it_has(tmp_path, monkeypatch):
    """Which is that of its module: there is no anomaly_lightning.benchmark_model to start again."""
    known = []
    monkeypatch.setattr(cli, "Work", lambda name, words: known.append(name) or Work(name, words))
    for word in ("checkpoint=nowhere.ckpt", "bench.roundss=1"):
        command("benchmark", word, cwd=tmp_path)
    assert known == ["benchmark", "benchmark"]


def test_lightnings_own_way_out_has_the_status_of_the_signal_too(capsys):
    """It ends the process with status 1 after a KeyboardInterrupt, and others raise what they like."""

    def leave(_: float) -> None:
        try:
            time.sleep(5)
        except KeyboardInterrupt:
            sys.exit(1)

    assert within(Work("evaluate", []), signal.SIGTERM, capsys, leave)[0] == 143


def test_predict_says_that_its_decisions_are_not_all(capsys, tmp_path):
    work = Work("predict", ["input=x"])
    work.folder = tmp_path
    assert "decisions.csv" not in within(work, signal.SIGINT, capsys)[1]
    (tmp_path / "decisions.csv").write_text("path\n")
    said = within(work, signal.SIGINT, capsys)[1]
    assert f"{tmp_path}/decisions.csv holds the decisions so far" in said
    assert said.endswith("python -m anomaly_lightning.predict input=x")
    (tmp_path / "decisions.csv").unlink()
    (tmp_path / "scoring.json").write_text("{}")
    said = within(work, signal.SIGINT, capsys)[1]
    assert f"{tmp_path}/rows holds what was scored. The same command does what is missing:" in said


def test_without_a_checkpoint_the_command_starts_again_in_its_used_folder(capsys, tmp_path):
    work = Work("train", [f"hydra.run.dir={tmp_path}", "ckpt=old.ckpt"])
    work.folder = tmp_path
    assert within(work, signal.SIGINT, capsys)[1].endswith("ckpt=old.ckpt")
    (tmp_path / "run.json").write_text("{}")
    assert within(work, signal.SIGINT, capsys)[1].endswith("ckpt=old.ckpt overwrite=true")


def test_the_checkpoint_takes_the_place_of_the_one_before(capsys, tmp_path):
    work = Work("train", ["ckpt=old.ckpt", "overwrite=true", "seed=3"])
    work.folder = tmp_path
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.ckpt").write_bytes(b"")
    said = within(work, signal.SIGINT, capsys)[1]
    assert said.endswith(f"python -m anomaly_lightning.train seed=3 ckpt={tmp_path}/checkpoints/last.ckpt")


def test_what_is_raised_without_a_signal_is_left_alone(capsys):
    for error in (ValueError("x"), SystemExit(1)):
        with pytest.raises(type(error)) as raised, interruptible(Work("train", [])):
            raise error
        assert raised.value is error
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("told", "first"), [({}, True), ({"LOCAL_RANK": "0"}, True), ({"LOCAL_RANK": "1"}, False), ({"RANK": "3"}, False)]
)
def test_one_process_of_a_run_speaks(monkeypatch, told, first):
    for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    assert leads() is first
