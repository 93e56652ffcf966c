"""Two models on the same images: paired tests against references, and a verdict that says no more than they do."""

import json
import math
import shutil

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from toy import command, flat

from anomaly_lightning.upkeep.comparing import compared
from anomaly_lightning.upkeep.paired import auroc, delong, mcnemar


def test_mcnemar_is_a_coin_on_those_that_differ():
    first = np.array([1, 1, 1, 1, 1, 1, 1, 0, 0, 1], dtype=bool)
    second = np.array([0, 0, 0, 0, 0, 0, 0, 1, 0, 1], dtype=bool)
    found = mcnemar(first, second)
    assert (found.first, found.second, found.total) == (7, 1, 10)
    assert found.p_value == pytest.approx(2 * sum(math.comb(8, k) for k in (0, 1)) / 2**8)
    assert mcnemar(first, first).p_value == 1.0


def test_the_area_is_scikit_learns_with_ties():
    rng = np.random.default_rng(0)
    good, bad = rng.integers(0, 6, 40), rng.integers(2, 9, 30)
    labels = np.r_[np.zeros(40), np.ones(30)]
    assert auroc(good, bad) == pytest.approx(roc_auc_score(labels, np.r_[good, bad]))


def test_delongs_variance_is_that_of_a_paired_bootstrap():
    rng = np.random.default_rng(1)
    truth = np.r_[np.zeros(80), np.ones(60)].astype(bool)
    part = truth * 1.0 + rng.normal(size=140)
    one, other = part + rng.normal(0, 0.8, 140), part + rng.normal(0, 1.6, 140)
    found = delong((one[~truth], one[truth]), (other[~truth], other[truth]))
    gaps = []
    for _ in range(600):
        good, bad = rng.choice(np.flatnonzero(~truth), 80), rng.choice(np.flatnonzero(truth), 60)
        gaps.append(auroc(other[good], other[bad]) - auroc(one[good], one[bad]))
    assert found.second - found.first == pytest.approx(roc_auc_score(truth, other) - roc_auc_score(truth, one))
    assert (found.high - found.low) / 2 / 1.96 == pytest.approx(np.std(gaps), rel=0.2)


def test_delong_is_level():
    """Two models that differ by noise alone: p below 5 % in about 5 of 100 sets."""
    rng, low = np.random.default_rng(2), 0
    for _ in range(400):
        part = np.r_[np.zeros(50), np.ones(50)] + rng.normal(size=100)
        one, other = (part + rng.normal(0, 1, 100) for _ in range(2))
        low += delong((one[:50], one[50:]), (other[:50], other[50:])).p_value < 0.05
    assert 0.02 <= low / 400 <= 0.09


BAD = np.r_[np.zeros(40), np.ones(40)].astype(bool)


def scores(false_alarms, misses):
    """Of 40 good and 40 defective images: so many of each are on the wrong side of a threshold of 1."""
    good = np.r_[np.full(false_alarms, 2.0), np.full(40 - false_alarms, 0.5)]
    return np.r_[good, np.r_[np.full(misses, 0.4), np.full(40 - misses, 3.0)]]


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ((20, 2), (2, 2), "b is better: it raises fewer false alarms"),
        ((0, 2), (0, 20), "a is better: it misses fewer defects"),
        ((20, 0), (0, 20), "Neither is better in all: b raises fewer false alarms and a misses fewer defects"),
        ((3, 2), (1, 3), "It can't be told which is better"),
        ((3, 2), (3, 2), "differently on 0 of 80 images"),
    ],
)
def test_the_verdict_says_what_the_tests_say(first, second, expected):
    assert expected in compared(("a", "b"), [scores(*first), scores(*second)], [1.0, 1.0], BAD).words


def test_a_better_ranking_under_equal_decisions_is_told():
    rng = np.random.default_rng(3)
    good, bad = rng.uniform(0, 0.9, 40), rng.uniform(0.0, 0.9, 40)
    one, other = np.r_[good, bad], np.r_[good, bad / 10 + 0.9]
    found = compared(("a", "b"), [one, other], [1.0, 1.0], BAD)
    assert found.words.startswith("b ranks better")


def test_versions_are_compared_on_folders(exported, root, tmp_path):
    shutil.copytree(exported, tmp_path / "line")
    good = root / "widget" / "test" / "good"
    words = (f"normals={good}", f"defects={root / 'widget' / 'test'}")
    ran = command("recalibrate", f"bundle={tmp_path}/line", f"normals={good}", "validity=false", cwd=tmp_path)
    assert ran.code == 0, ran.out
    ran = command("compare", f"bundles={tmp_path}/line,{tmp_path}/line@latest", *words, "output=out.json", cwd=tmp_path)
    assert ran.code == 0, ran.out
    found = json.loads((tmp_path / "out.json").read_text())
    assert (found["totals"], found["names"]) == ([5, 7], ["line", "line@latest"])
    assert found["areas"]["first"] == found["areas"]["second"], "a threshold does not rank"
    assert found["verdict"] in flat(ran.out)
    ran = command("compare", f"bundles=[{tmp_path}/line]", *words, cwd=tmp_path)
    assert ran.code == 1
    assert "expected two" in flat(ran.out)
    ran = command("compare", f"bundles={tmp_path}/line,{tmp_path}/line@2", cwd=tmp_path)
    assert "Expected images to compare on" in flat(ran.out)
