"""A new threshold from new normals: a version beside the bundle, equal but for its thresholds, and the way back."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from toy import command, flat, save, texture

import anomaly_lightning
from anomaly_lightning.calibration.scores import binomial_upper
from anomaly_lightning.errors import BundleError
from anomaly_lightning.review.records import NewDecision
from anomaly_lightning.review.store import ReviewStore
from anomaly_lightning.runtime.bundle import read_bundle
from anomaly_lightning.runtime.card import ThresholdsCard
from anomaly_lightning.runtime.inspector import Inspector
from anomaly_lightning.runtime.versions import family, resolve
from anomaly_lightning.serving.models import Models
from anomaly_lightning.upkeep import change, images, threshold

MANY = 12


@pytest.fixture
def bundle(exported, tmp_path):
    shutil.copytree(exported, tmp_path / "line")
    return tmp_path / "line"


@pytest.fixture(scope="module")
def another_day(tmp_path_factory):
    """Good parts under less light."""
    folder, rng = tmp_path_factory.mktemp("day") / "good", np.random.default_rng(9)
    for number in range(MANY):
        save((0.9 * texture(rng)).astype(np.uint8), folder / f"{number}.png")
    return folder


def content(folder):
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def recalibrate(bundle, normals, *words):
    return command("recalibrate", f"bundle={bundle}", f"normals={normals}", "validity=false", *words, cwd=bundle.parent)


def test_a_new_version_differs_in_its_thresholds_alone(bundle, another_day):
    before = content(bundle)
    ran = recalibrate(bundle, another_day, "why=darker since June")
    assert ran.code == 0, ran.out
    made = bundle.with_name("line@2")
    assert content(bundle) == before, "the version before stays byte for byte"
    after = content(made)
    assert {name for name in before if before[name] != after[name]} == {"bundle.json"}
    assert set(before) == set(after)
    old, new = (read_bundle(folder).manifest.card for folder in (bundle, made))
    assert new.replace(thresholds=old.thresholds, history=()) == old
    (note,) = new.history
    assert (note.what, note.why, note.normals) == ("recalibrate", "darker since June", MANY)
    assert note.parent == before["bundle.json"]
    assert new.thresholds.pixel == old.thresholds.pixel
    assert sorted(path.name for path in bundle.parent.iterdir()) == ["line", "line@2"]


def test_the_threshold_is_what_the_rule_gives_by_hand(bundle, another_day):
    assert recalibrate(bundle, another_day).code == 0
    inspect = Inspector.load(bundle, "cpu", validity=False)
    scores = np.array([inspect(path).score for path in sorted(another_day.iterdir())])
    known = read_bundle(bundle.with_name("line@2")).manifest.card.thresholds
    expected = min(scores.max(), scores.mean() + 3 * scores.std(ddof=1))  # the rule "highest", as trained
    assert known.score == pytest.approx(expected, rel=1e-6)
    assert known.promise["normals"] == MANY
    assert "had" not in known.promise["rests_on"][0]
    assert sorted(known.scores) == pytest.approx(sorted(scores), rel=1e-6)


def test_commands_take_a_version_and_the_latest(bundle, another_day):
    assert recalibrate(bundle, another_day).code == 0
    scores = {
        name: Inspector.load(bundle.with_name(name), "cpu").thresholds.score
        for name in ("line", "line@1", "line@2", "line@latest")
    }
    assert scores["line"] == scores["line@1"] != scores["line@2"] == scores["line@latest"]
    image = next(iter(another_day.iterdir()))
    ran = command("predict", f"checkpoint={bundle}@latest", f"input={image}", "output=out", cwd=bundle.parent)
    assert ran.code == 0, ran.out
    assert repr(scores["line@2"]) in (bundle.parent / "out" / "decisions.csv").read_text()
    ran = command("predict", f"checkpoint={bundle}@7", f"input={image}", "output=no", cwd=bundle.parent)
    assert ran.code == 1
    assert "there is no version 7" in flat(ran.out)


def test_back_and_forth(bundle, another_day):
    assert recalibrate(bundle, another_day).code == 0
    contents = content(bundle), content(bundle.with_name("line@2"))
    ran = command("versions", f"bundle={bundle}", "action=rollback", "to=1", "why=too many misses", cwd=bundle.parent)
    assert ran.code == 0, ran.out
    assert resolve(bundle.with_name("line@latest")) == bundle
    assert (content(bundle), content(bundle.with_name("line@2"))) == contents
    assert "recalibrate" in ran.out
    assert "@latest is version 1" in flat(ran.out)
    ran = command("versions", f"bundle={bundle}", "action=rollback", "to=9", cwd=bundle.parent)
    assert ran.code == 1
    assert "expected one of 1, 2" in flat(ran.out)
    assert recalibrate(bundle, another_day).code == 0
    assert resolve(bundle.with_name("line@latest")).name == "line@3", "what is made after a rollback is the latest"
    assert [one["to"] for one in family(bundle).pointer.changes] == [1]


def test_a_version_is_made_from_the_version_that_was_named(bundle, another_day):
    for name in ("line", "line@2"):
        assert recalibrate(bundle.with_name(name), another_day).code == 0
    second, third = (read_bundle(bundle.with_name(f"line@{number}")).manifest for number in (2, 3))
    assert [note.what for note in third.card.history] == ["recalibrate", "recalibrate"]
    assert third.card.history[1].parent == content(bundle.with_name("line@2"))["bundle.json"]
    assert second.card.thresholds.score == third.card.thresholds.score


def test_too_few_normals_are_refused_with_how_many_it_takes(bundle, another_day, tmp_path):
    manifest = json.loads((bundle / "bundle.json").read_text())
    manifest["card"]["thresholds"]["promise"] |= {"false_alarm_upper": 0.1}
    (bundle / "bundle.json").write_text(json.dumps(manifest))
    least = next(n for n in range(1, 100) if binomial_upper(0, n) <= 0.1)
    ran = recalibrate(bundle, another_day)
    assert ran.code == 1
    assert f"at least {least} are needed" in flat(ran.out)
    assert f"{least - MANY} more to go" in flat(ran.out)
    assert not bundle.with_name("line@2").exists()


def test_a_threshold_that_misses_more_of_the_known_defects_is_refused(bundle, another_day, root):
    """Defects among the "normals" push the threshold above every defect."""
    mixed = bundle.parent / "mixed"
    shutil.copytree(another_day, mixed)
    for number, path in enumerate((root / "widget" / "test" / "scratch").iterdir()):
        shutil.copyfile(path, mixed / f"defect{number}.png")
    words = (f"defects={root / 'widget' / 'test'}",)
    ran = recalibrate(bundle, mixed, *words)
    assert ran.code == 1, ran.out
    assert "by more than max_miss_increase=0.0" in flat(ran.out)
    assert not bundle.with_name("line@2").exists()
    ran = recalibrate(bundle, mixed, *words, "max_miss_increase=1.0")
    assert ran.code == 0, ran.out
    found = read_bundle(bundle.with_name("line@2")).manifest.card.history[0].details["change"]
    assert found["misses"]["total"] == 7
    assert found["misses"]["gained"]["count"] > 0


def test_a_dry_run_writes_nothing(bundle, another_day):
    ran = recalibrate(bundle, another_day, "dry_run=true")
    assert ran.code == 0
    assert "nothing was written" in ran.out
    assert [path.name for path in bundle.parent.iterdir()] == ["line"]


def test_the_gains_and_losses_add_up():
    old, new = ThresholdsCard(score=1.0, pixel=1.0, review=0.5), ThresholdsCard(score=2.0, pixel=1.0, review=1.5)
    scores = [0.2, 0.7, 1.2, 1.7, 2.5]
    pairs = [(images.Scored(Path(f"{s}"), s, None),) * 2 for s in scores] * 2
    found = change.compared(pairs, [False] * 5 + [True] * 5, old, new)
    assert found.flips == {"NG -> OK": 2, "NG -> REVIEW": 2, "REVIEW -> OK": 2}
    assert vars(found.false_alarms) == {"total": 5, "before": 3, "after": 1, "gained": 0, "lost": 2}
    assert vars(found.misses) == {"total": 5, "before": 2, "after": 4, "gained": 2, "lost": 0}
    assert found.misses.increase == pytest.approx(0.4)


def test_needed_normals_are_those_of_the_rule_and_of_the_bound():
    promise = {"method": "conformal", "parameters": {"alpha": 0.05, "review_budget": None}, "false_alarm_upper": 0.2}
    known = ThresholdsCard(score=1.0, pixel=1.0, promise=promise)
    assert threshold.needed(threshold.rule_of(known), known) == 19, "ceil(1 / alpha) - 1"
    known = ThresholdsCard(score=1.0, pixel=1.0, promise=promise | {"false_alarm_upper": 0.1})
    assert threshold.needed(threshold.rule_of(known), known) == 29, "of 29 none above leaves 9.8 %, of 28 10.1 %"


KILLED = """
import sys, time
from pathlib import Path
from anomaly_lightning.upkeep import writing
at, go = sys.argv[1], sys.argv.pop(1)
real = writing.sync_tree if at == "before" else writing.sync_folder
def wait(folder):
    real(folder)
    if at == "before" or folder.resolve() == Path.cwd().resolve():
        Path("reached").touch()
        time.sleep(300)
setattr(writing, "sync_tree" if at == "before" else "sync_folder", wait)
from anomaly_lightning.recalibrate import main
main()
"""


@pytest.mark.parametrize(("at", "versions"), [("before", ["line"]), ("after", ["line", "line@2"])])
def test_killed_while_it_writes_nothing_is_lost_and_nothing_is_half(bundle, another_day, at, versions):
    """kill -9 with all files written and just before the rename, and just after it."""
    before = content(bundle)
    environment = {**os.environ, "PYTHONPATH": str(Path(anomaly_lightning.__file__).parents[1])}
    words = [f"bundle={bundle}", f"normals={another_day}", "validity=false"]
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, at, *words], cwd=bundle.parent, env=environment, stdout=subprocess.DEVNULL
    )
    end = time.monotonic() + 300
    while not (bundle.parent / "reached").exists() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    shown = sorted(path.name for path in bundle.parent.glob("line*"))
    assert shown == versions
    for name in versions:
        read_bundle(bundle.with_name(name))
    assert content(bundle) == before
    assert resolve(bundle.with_name("line@latest")).name == versions[-1]
    leftovers = list(bundle.parent.glob(".line*"))
    assert len(leftovers) == (at == "before")
    assert recalibrate(bundle, another_day).code == 0
    assert not list(bundle.parent.glob(".line*")), "the next one clears what the killed one left"
    assert resolve(bundle.with_name("line@latest")).name == f"line@{len(versions) + 1}"


def test_two_at_once_get_two_numbers(bundle, another_day):
    from anomaly_lightning.upkeep.writing import publish

    def fill(folder):
        shutil.copytree(bundle, folder, dirs_exist_ok=True)
        if not bundle.with_name("line@2").exists():  # somebody else is faster
            shutil.copytree(bundle, bundle.with_name("line@2"))

    assert publish(bundle, fill).name == "line@3"


def test_a_damaged_pointer_is_told(bundle):
    bundle.with_name("line@latest").write_text("{")
    with pytest.raises(BundleError, match="is damaged"):
        resolve(bundle.with_name("line@latest"))


def test_a_threshold_is_fitted_without_torch():
    code = "import sys, anomaly_lightning.upkeep.recalibrating, anomaly_lightning.upkeep.listing\n"
    code += "assert not {'torch', 'torchvision', 'pytorch_lightning'} & set(sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(Path(anomaly_lightning.__file__).parents[1])}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)


@pytest.fixture
def marks(another_day, root, tmp_path):
    """Marked decisions: eight good parts, two of them false alarms, and three defects, one of them missed."""
    folder, found = tmp_path / "review", []
    folder.mkdir()
    for number, path in enumerate(sorted(another_day.iterdir())[:8]):
        found.append((path, "NG" if number < 2 else "OK", "false_alarm" if number < 2 else "right"))
    for number, path in enumerate(sorted((root / "widget" / "test" / "scratch").iterdir())):
        found.append((path, "OK" if number < 1 else "NG", "missed_defect" if number < 1 else "right"))
    with ReviewStore(folder / "marks.db", create=True) as store:
        for number, (path, verdict, mark) in enumerate(found):
            shutil.copyfile(path, folder / f"{number}.png")
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            known = {"model": "widget", "model_id": "0", "name": path.name, "content": digest, "verdict": verdict}
            numbers = {"score": 1.0, "threshold": 1.0, "pixel_threshold": 1.0, "width": 84, "height": 60}
            store.mark(store.record(NewDecision(**known, **numbers, image=f"{number}.png")), mark, "somebody")
    return folder / "marks.db"


def test_marks_are_normals_and_defects(bundle, marks):
    known = images.labelled(str(marks), str(marks), str(marks))
    assert (len(known.normals), len(known.defects)) == (8, 3)
    ran = recalibrate(bundle, marks, "max_miss_increase=1.0")
    assert ran.code == 0, ran.out
    card = read_bundle(bundle.with_name("line@2")).manifest.card
    assert card.thresholds.promise["normals"] == 8
    assert card.history[0].details["change"]["images"] == 11
    ran = command("compare", f"bundles={bundle},{bundle}@2", f"marks={marks}", cwd=bundle.parent)
    assert ran.code == 0, ran.out
    assert "of 8" in ran.out
    assert "of 3" in ran.out


def test_of_marks_on_several_models_those_of_one_are_taken(bundle, marks):
    with ReviewStore(marks) as store:
        shutil.copyfile(marks.with_name("0.png"), marks.with_name("other.png"))
        known = {
            "model": "other",
            "model_id": "1",
            "name": "x.png",
            "content": "c",
            "verdict": "NG",
            "image": "other.png",
        }
        numbers = {"score": 1.0, "threshold": 1.0, "pixel_threshold": 1.0, "width": 84, "height": 60}
        store.mark(store.record(NewDecision(**known, **numbers)), "right", "somebody")
    ran = recalibrate(bundle, marks, "max_miss_increase=1.0", "dry_run=true")
    assert ran.code == 1
    assert "several models: other, widget. Name one (model_name=...)" in flat(ran.out)
    ran = recalibrate(bundle, marks, "max_miss_increase=1.0", "dry_run=true", "model_name=widget")
    assert ran.code == 0, ran.out
    assert len(images.labelled(marks=str(marks), model="other").defects) == 1
    ran = command("compare", f"bundles={bundle},{bundle}", f"marks={marks}", "model_name=widget", cwd=bundle.parent)
    assert "several models" not in ran.out


def test_a_threshold_from_chosen_false_alarms_says_that_it_is_one(bundle, marks):
    """Reviewers look at what was stopped first: such normals are not drawn like the line's."""
    ran = recalibrate(bundle, marks, "max_miss_increase=1.0", "dry_run=true")
    assert "2 of the 8 marked normals were stopped" in flat(ran.out)


def test_a_service_that_was_started_with_the_latest_takes_the_new_one_at_its_reload(bundle, another_day):
    models = Models({"line": f"{bundle}@latest"}, lambda path: Inspector.load(path, "cpu"))
    first = models.get("line")
    assert recalibrate(bundle, another_day).code == 0
    assert models.get("line").id == first.id, "nothing changes under a running line"
    second = models.reload("line")
    assert second.id != first.id
    assert second.inspector.thresholds.score == Inspector.load(f"{bundle}@2", "cpu").thresholds.score


def test_an_image_that_is_said_to_be_both_is_refused(bundle, another_day):
    ran = recalibrate(bundle, another_day, f"defects={another_day}")
    assert ran.code == 1
    assert "is named among the good parts and among the defective ones (12 are)" in flat(ran.out)


def test_a_file_in_the_way_takes_a_number_and_nothing_else(bundle, another_day):
    bundle.with_name("line@2").write_text("mine")
    assert recalibrate(bundle, another_day).code == 0
    assert bundle.with_name("line@2").read_text() == "mine"
    read_bundle(bundle.with_name("line@3"))
