"""Promised rates against what happened: exact intervals, verdicts that rarely err, and how many images would tell."""

import numpy as np
import pytest
from scipy import stats

from anomaly_lightning.calibration import Conformal, Highest
from anomaly_lightning.calibration.realised import Promised, in_words, interval, promised_alarms, realised
from anomaly_lightning.runtime.decision import exceeds


@pytest.mark.parametrize(("count", "total"), [(0, 20), (3, 50), (20, 20), (1, 1)])
def test_the_interval_is_clopper_pearsons(count, total):
    """As scipy finds it by searching for the rates at which the binomial tails are a fortieth."""
    known = stats.binomtest(count, total).proportion_ci(0.95, method="exact")
    assert interval(count, total) == pytest.approx((known.low, known.high), abs=1e-9)


def test_nothing_says_nothing():
    assert interval(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("count", "total", "upper", "expected"),
    [(0, 100, 0.05, "held"), (0, 50, 0.05, "too few"), (15, 50, 0.15, "broken"), (5, 50, 0.08, "too few")],
)
def test_verdicts(count, total, upper, expected):
    assert realised(count, total, Promised(upper / 2, upper)).verdict == expected


def test_so_many_more_images_tell_and_one_fewer_do_not():
    promised = Promised(0.02, 0.05)
    found = realised(0, 30, promised)
    assert found.verdict == "too few"
    assert realised(0, 30 + found.more, promised).verdict == "held"
    assert realised(0, 30 + found.more - 1, promised).verdict == "too few"
    assert f"about {found.more} more" in in_words(found, "false alarms", "good images")


def test_a_rate_at_the_bound_is_said_to_be_open_for_good():
    found = realised(5, 100, Promised(0.02, 0.05))
    assert found.more is None
    assert "Too close to tell" in in_words(found, "false alarms", "good images")


def test_the_promise_of_a_rule_with_a_budget_is_the_budget():
    scores = np.arange(1.0, 201.0)
    known = Conformal(alpha=0.02).fit(scores)
    said = {"parameters": known.parameters, "false_alarm_rate": 0.5, "false_alarm_upper": known.false_alarm_upper}
    assert promised_alarms(said) == Promised(0.02, known.false_alarm_upper)
    assert promised_alarms({"parameters": {}, "false_alarm_rate": None, "false_alarm_upper": 1.0}) is None


@pytest.mark.parametrize("normals", [30, 200])
def test_images_drawn_alike_hardly_ever_break_a_promise(normals):
    """2,000 calibrations and tests on one distribution: the verdict "broken" has to stay below its 5 %."""
    rng, broken = np.random.default_rng(0), 0
    for _ in range(2000):
        fitted, new = rng.gamma(3, size=normals), rng.gamma(3, size=100)
        threshold = float(np.max(fitted))
        upper = 1 - 0.05 ** (1 / normals)  # of the largest of n: no exceedance
        count = int(exceeds(new, threshold).sum())
        broken += realised(count, 100, Promised(1 / (normals + 1), upper)).verdict == "broken"
    assert broken / 2000 < 0.05


def test_images_of_another_day_break_it():
    rng = np.random.default_rng(1)
    known = Highest().fit(rng.normal(size=100))
    alarms = int(exceeds(rng.normal(1.5, size=100), known.threshold).sum())
    promised = promised_alarms({"parameters": known.parameters, **vars(known)})
    assert realised(alarms, 100, promised).verdict == "broken"
