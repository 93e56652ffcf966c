"""A multirun over three categories, one of them broken: two figures, one reason, a mean, and status 1."""

import csv
import shutil

import pytest
from toy import SMALL, command, flat, make_category


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    place = tmp_path_factory.mktemp("sweep")
    for seed, name in enumerate(("leather", "bottle", "grid")):
        make_category(place / "images", name, seed=seed)
    shutil.rmtree(place / "images" / "bottle" / "train")
    given = (*SMALL, f"data.root={place}/images", "category=leather,bottle,grid", "bootstrap=0", "logger=default")
    return place, command("train", "--multirun", *given, cwd=place)


@pytest.fixture(scope="module")
def table(swept):
    file = next(swept[0].glob("outputs/multirun/*/leaderboard.csv"))
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_the_status_tells_of_the_failure_and_the_others_are_done(swept):
    place, ran = swept
    assert ran.code == 1
    jobs = {path.parent.name for path in place.glob("outputs/multirun/*/*/metrics.json")}
    assert jobs == {"0", "2"}
    assert (next(place.glob("outputs/multirun/*/1")) / "error.json").is_file()
    assert len(list(place.glob("outputs/multirun/*/*/checkpoints/best.ckpt"))) == 2


def test_the_leaderboard_has_a_row_a_category_and_the_mean(table):
    named = {row["category"]: row for row in table}
    assert {"leather", "bottle", "grid"} <= set(named)
    means = [row for row in table if row["category"].startswith("mean")]
    assert len(means) == 1
    for name in ("leather", "grid"):
        assert named[name]["error"] == ""
        assert 0 <= float(named[name]["auroc"]) <= 1
        assert (named[name]["model"], named[name]["backbone"]) == ("autoencoder", "tiny")
    mean = (float(named["leather"]["auroc"]) + float(named["grid"]["auroc"])) / 2
    assert float(means[0]["auroc"]) == pytest.approx(mean, abs=1e-3)


def test_the_broken_category_says_why_and_has_no_figures(table):
    broken = next(row for row in table if row["category"] == "bottle")
    assert "DataError" in broken["error"]
    assert "bottle/train/good" in broken["error"]
    assert broken["auroc"] == broken["f1"] == ""


def test_the_same_rows_as_markdown_and_on_the_screen(swept, table):
    place, ran = swept
    text = next(place.glob("outputs/multirun/*/leaderboard.md")).read_text()
    assert [line[0] for line in text.splitlines() if line] == ["|"] * len([line for line in text.splitlines() if line])
    for row in table:
        assert row["category"] in text
    assert "leaderboard" in flat(ran.out)


def test_a_misspelt_category_stops_the_sweep_before_it_starts(tmp_path):
    ran = command("train", "--multirun", *SMALL, "category=leather,bottel", cwd=tmp_path)
    assert ran.code == 1
    assert "bottel" in ran.out
    assert not list(tmp_path.glob("outputs/multirun/*/0/metrics.json"))
