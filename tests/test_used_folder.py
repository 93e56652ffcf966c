"""A folder is used once: outputs of another run are never mixed with new ones, and are cleared only on request."""

import json
import shutil
from pathlib import Path

import pytest
from toy import command, flat

from anomaly_lightning.configs import composed
from anomaly_lightning.errors import UsedFolderError
from anomaly_lightning.reports.used_folder import MARKS, claim, clear, outputs_in
from anomaly_lightning.training import reuse


@pytest.fixture
def used(run_folder, tmp_path):
    """A copy of a finished run's folder, with a file that is not the run's."""
    folder = shutil.copytree(run_folder, tmp_path / "used")
    (folder / "notes.txt").write_text("mine")
    return folder


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def refused(ran, *words):
    text = flat(ran.out)
    assert ran.code == 1
    assert "Traceback" not in ran.out
    assert "Error" in text
    for word in words:
        assert word in text
    return text


@pytest.mark.parametrize("option", ["hydra.run.dir", "run_dir"])
def test_train_refuses_the_folder_of_another_run_and_leaves_it_as_it_is(used, widget, tmp_path, option):
    before = contents(used)
    ran = command("train", *widget, f"{option}={used}", cwd=tmp_path)
    refused(ran, str(used), "outputs of an earlier train (run.json)", "overwrite=true")
    assert contents(used) == before


def test_train_clears_what_is_a_runs_on_request(used, widget, tmp_path):
    stale = used / "heatmaps" / "dent" / "stale.png"
    stale.parent.mkdir()
    stale.write_bytes(b"")
    before = {path.name for path in (used / "tensorboard").iterdir() if path.is_file()}
    ran = command("train", *widget, "bootstrap=0", f"hydra.run.dir={used}", "overwrite=true", cwd=tmp_path)
    assert ran.code == 0, ran.out
    assert not stale.exists()
    assert not before & {path.name for path in (used / "tensorboard").iterdir() if "tfevents" in path.name}
    assert (used / "notes.txt").read_text() == "mine"
    assert json.loads((used / "run.json").read_text())["status"] == "finished"


@pytest.mark.parametrize("more", [(), ("overwrite=true",)])
def test_evaluate_never_writes_over_a_training_run(used, checkpoint, tmp_path, more):
    before = contents(used)
    ran = command("evaluate", f"checkpoint={checkpoint}", f"hydra.run.dir={used}", *more, cwd=tmp_path)
    refused(ran, f"{used} holds the outputs of train (run.json)", "Take another folder")
    assert contents(used) == before


def test_evaluate_refuses_the_folder_of_an_evaluation_or_clears_it(checkpoint, tmp_path):
    given = (f"checkpoint={checkpoint}", "bootstrap=0", f"hydra.run.dir={tmp_path}/there")
    assert command("evaluate", *given, cwd=tmp_path).code == 0
    (tmp_path / "there" / "heatmaps" / "stale.png").write_bytes(b"")
    refused(command("evaluate", *given, cwd=tmp_path), "an earlier evaluate (evaluation.json)", "overwrite=true")
    assert command("evaluate", *given, "overwrite=true", cwd=tmp_path).code == 0
    assert not (tmp_path / "there" / "heatmaps" / "stale.png").exists()
    assert (tmp_path / "there" / "metrics.json").is_file()


def test_predict_keeps_out_of_a_run_and_train_out_of_predictions(used, widget, checkpoint, root, tmp_path):
    before = contents(used)
    given = (f"checkpoint={checkpoint}", f"input={root}/widget/test/good/0.png")
    refused(command("predict", *given, f"output={used}", cwd=tmp_path), "holds the outputs of train")
    assert contents(used) == before
    for _ in range(2):  # its own outputs are replaced
        assert command("predict", *given, f"output={tmp_path}/decided", cwd=tmp_path).code == 0
    ran = command("train", *widget, f"hydra.run.dir={tmp_path}/decided", "overwrite=true", cwd=tmp_path)
    refused(ran, "holds the outputs of predict (decisions.csv)")
    assert (tmp_path / "decided" / "decisions.csv").is_file()


def test_python_is_refused_a_used_folder_too(used):
    before = contents(used)
    with pytest.raises(UsedFolderError, match="overwrite=true"):
        composed("train", ["category=leather", f"hydra.run.dir={used}"])
    assert contents(used) == before


@pytest.mark.parametrize("mine", MARKS)
@pytest.mark.parametrize("theirs", MARKS)
def test_each_command_knows_the_outputs_of_each(tmp_path, mine, theirs):
    (tmp_path / MARKS[theirs][0]).write_text("{}")
    assert outputs_in(tmp_path) == {theirs: MARKS[theirs][0]}
    if mine == theirs and mine in ("predict", "audit", "benchmark"):
        claim(tmp_path, mine)
        return
    with pytest.raises(UsedFolderError, match=f"outputs of.* {theirs} "):
        claim(tmp_path, mine)


def test_a_folder_with_anything_else_in_it_is_free(tmp_path):
    for name in ("images", "masks", ".hydra", "notes.txt", "run.log"):  # a run that failed at once leaves a log
        (tmp_path / name).mkdir()
    for name in MARKS:
        claim(tmp_path, name)
        claim(tmp_path / "new", name)
    assert not (tmp_path / "new").exists()
    (tmp_path / "metrics.json").write_text("{}")
    assert outputs_in(tmp_path) == {"evaluate": "metrics.json"}, "one of an earlier version"


def test_a_run_goes_on_in_its_own_folder(tmp_path):
    last = tmp_path / "checkpoints" / "last.ckpt"
    last.parent.mkdir()
    last.write_bytes(b"x")
    claim(tmp_path, "train", ckpt=last)
    with pytest.raises(UsedFolderError, match="leave overwrite out"):
        claim(tmp_path, "train", overwrite=True, ckpt=last)
    assert last.exists()
    with pytest.raises(UsedFolderError, match="earlier train"):
        claim(tmp_path, "train", ckpt=tmp_path.parent / "elsewhere" / "last.ckpt")


def test_a_link_is_removed_and_not_what_it_leads_to(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "a.png").write_bytes(b"x")
    (tmp_path / "run" / "heatmaps").symlink_to(tmp_path / "kept")
    (tmp_path / "run" / "run.json").write_text("{}")
    clear(tmp_path / "run", "train")
    assert list((tmp_path / "run").iterdir()) == []
    assert (tmp_path / "kept" / "a.png").exists()


def test_a_job_of_a_sweep_clears_what_was_cut_off_and_keeps_what_is_finished(used, tmp_path):
    with pytest.raises(UsedFolderError, match=r"hydra\.sweep\.dir"):
        reuse.make_room(used, overwrite=False)
    assert (used / "metrics.json").exists()
    cut_off = json.loads((used / "run.json").read_text()) | {"status": "training"}
    (used / "run.json").write_text(json.dumps(cut_off))
    reuse.make_room(used, overwrite=False)
    assert sorted(path.name for path in used.iterdir()) == [".hydra", "notes.txt", "run.log"]


def test_a_sweep_never_marks_a_finished_run_as_failed(used, widget, tmp_path):
    """Not even one that it may not write over: that run keeps its metrics."""
    (tmp_path / "sweep").mkdir()
    job = used.rename(tmp_path / "sweep" / "0")
    before = {path: kept for path, kept in contents(job).items() if "/.hydra/" not in path and "run.log" not in path}
    ran = command("train", "--multirun", *widget, "seed=7", f"hydra.sweep.dir={tmp_path}/sweep", cwd=tmp_path)
    refused(ran, "holds another finished run", "overwrite=true")
    after = contents(job)
    assert {path: after[path] for path in before} == before
    assert not (job / "error.json").exists()
