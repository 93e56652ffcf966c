import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from anomaly_lightning.calibration import (
    F1,
    Conformal,
    Highest,
    MeanStd,
    Quantile,
    Robust,
    StudentT,
    best_f1_threshold,
    binomial_upper,
    chance_of_alarms,
    fold_indices,
    shift_warning,
)
from anomaly_lightning.calibration.result import Influence
from anomaly_lightning.errors import CalibrationError
from anomaly_lightning.runtime.decision import exceeds, verdict

RULES = [
    MeanStd(),
    Highest(),
    MeanStd(k=2, log=True),
    Robust(),
    Robust(log=True),
    StudentT(),
    StudentT(log=True),
    Quantile(q=0.9),
    Conformal(alpha=0.1),
]


def lognormal(n: int, seed: int = 0) -> np.ndarray:
    return np.exp(0.3 * np.random.default_rng(seed).normal(size=n))


def test_mean_std_by_hand() -> None:
    fitted = MeanStd(k=3).fit(torch.tensor([1.0, 2.0, 3.0, 6.0]))
    assert fitted.mean == 3
    assert fitted.std == pytest.approx(math.sqrt(14 / 3))  # squares 4 + 1 + 0 + 9 over n - 1
    assert fitted.threshold == pytest.approx(3 + 3 * math.sqrt(14 / 3))
    assert (fitted.method, fitted.normals) == ("mean_std", 4)
    assert fitted.parameters == {"k": 3, "log": False, "review_budget": None}


def test_log_mean_std_by_hand() -> None:
    assert MeanStd(k=1, log=True).fit([1.0, math.e, math.e**2]).threshold == pytest.approx(math.e**2)


def test_robust_by_hand() -> None:
    # median 3; distances 2, 1, 0, 1, 97: their median 1
    assert Robust(k=2).fit([1.0, 2.0, 3.0, 4.0, 100.0]).threshold == pytest.approx(3 + 2 * 1.4826)


def test_student_t_is_the_prediction_limit_of_one_more() -> None:
    scores = lognormal(12)
    limit = stats.t.interval(0.98, 11, scores.mean(), scores.std(ddof=1) * math.sqrt(13 / 12))[1]
    assert StudentT(alpha=0.01).fit(scores).threshold == pytest.approx(limit)


def test_quantile_is_numpys() -> None:
    scores = lognormal(37)
    assert Quantile(q=0.9).fit(scores).threshold == np.quantile(scores, 0.9)


@pytest.mark.parametrize(("n", "alpha", "rank"), [(99, 0.01, 99), (100, 0.01, 100), (199, 0.01, 198), (19, 0.05, 19)])
def test_conformal_takes_the_stated_rank(n: int, alpha: float, rank: int) -> None:
    scores = np.random.default_rng(0).permutation(np.arange(1.0, n + 1))
    assert Conformal(alpha=alpha).fit(scores).threshold == rank


def test_conformal_says_how_many_more_normals_it_needs() -> None:
    with pytest.raises(CalibrationError, match=r"At least 99 .* 98 came: 1 more"):
        Conformal(alpha=0.01).fit(lognormal(98))


@pytest.mark.parametrize("rule", [*RULES, F1()], ids=str)
@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
def test_scores_that_are_not_finite_are_refused(rule: MeanStd, odd: float) -> None:
    with pytest.raises(CalibrationError, match="the first at number 3"):
        rule.fit([1.0, 2.0, 3.0, odd, *range(2, 30)])


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_tensors_arrays_and_lists_are_one(rule: MeanStd) -> None:
    scores = torch.from_numpy(lognormal(20)).float()
    assert rule.fit(scores) == rule.fit(scores.numpy()) == rule.fit(scores.tolist())


@pytest.mark.parametrize("count", [0, 1, 7, 19, 20])
def test_binomial_upper_is_clopper_pearsons(count: int) -> None:
    reference = stats.binomtest(count, 20, alternative="less").proportion_ci(0.95, method="exact").high
    assert binomial_upper(count, 20) == pytest.approx(reference)


def test_best_f1_by_brute_force() -> None:
    draw = np.random.default_rng(3)
    for _ in range(50):
        scores = draw.integers(1, 13, size=30) + draw.integers(0, 2, size=30) * 1e-6  # many ties, and nearly ties
        labels = draw.random(30) < 0.4
        found = best_f1_threshold(scores, labels)

        def f1(threshold: float, scores: np.ndarray = scores, labels: np.ndarray = labels) -> float:
            called = exceeds(scores, threshold)
            return 2 * (called & labels).sum() / (called.sum() + labels.sum())

        assert f1(found) == pytest.approx(max(f1(t) for t in np.arange(0.5, 13)))

    assert exceeds(0.0, best_f1_threshold([0.0, 0.0, 1.0], [True, False, True])), "all are called, the lowest too"


@pytest.mark.parametrize(("n", "folds"), [(10, 5), (11, 4), (4, 4)])
def test_folds_hold_every_normal_out_once(n: int, folds: int) -> None:
    pairs = fold_indices(n, folds, seed=0)
    assert len(pairs) == folds
    assert torch.cat([held for _, held in pairs]).sort().values.tolist() == list(range(n))
    for fit, held in pairs:
        assert sorted(fit.tolist() + held.tolist()) == list(range(n))
    with pytest.raises(CalibrationError, match="folds=12"):
        fold_indices(n, 12, seed=0)


def test_shift_is_seen() -> None:
    scores = lognormal(60)
    assert shift_warning(scores, lognormal(100, seed=1)) is None
    assert "higher" in (shift_warning(scores, lognormal(100, seed=1) * 2) or "")
    assert "lower" in (shift_warning(scores, lognormal(100, seed=1) / 2) or "")


def binomial_slack(rate: float, trials: int) -> float:
    """Four standard errors: a true rate steps out of it about once in 30,000 tests, and the seed is fixed."""
    return 4 * math.sqrt(rate * (1 - rate) / trials)


@pytest.mark.parametrize(("n", "alpha"), [(9, 0.1), (40, 0.1), (99, 0.01), (150, 0.05)])
def test_conformal_keeps_its_budget(n: int, alpha: float) -> None:
    sets = 4000
    draw = np.random.default_rng(7).gamma(2.0, size=(sets, n + 1))
    alarms = np.mean([new > Conformal(alpha=alpha).place(normals) for *normals, new in draw])
    expected = Conformal(alpha=alpha).fit(draw[0, :n]).false_alarm_rate
    assert expected is not None
    assert alpha - 1 / (n + 1) < expected <= alpha
    assert abs(alarms - expected) <= binomial_slack(expected, sets)


def test_ties_only_lower_the_share_of_false_alarms() -> None:
    draw = np.random.default_rng(7).integers(0, 5, size=(4000, 20)).astype(float)
    rule = Conformal(alpha=0.1)
    assert np.mean([new > rule.place(normals) for *normals, new in draw]) <= 0.1
    same = rule.fit([2.0] * 20)
    assert same.threshold == 2.0
    assert any("same score" in warning for warning in same.warnings)


@pytest.mark.parametrize(
    "rule", [MeanStd(k=1), MeanStd(k=3), Highest(), StudentT(alpha=0.1), Robust(), RULES[-2], RULES[-1]], ids=str
)
def test_false_alarm_rate_and_its_bound_hold(rule: MeanStd) -> None:
    sets, truth = 400, stats.lognorm(0.4)
    fits = [rule.fit(scores) for scores in truth.rvs((sets, 25), random_state=np.random.default_rng(5))]
    true_rates = np.array([truth.sf(fit.threshold) for fit in fits])
    held = np.mean([rate <= fit.false_alarm_upper for rate, fit in zip(true_rates, fits, strict=True)])
    assert held >= 0.95 - binomial_slack(0.95, sets)
    spread = 4 * np.std([fit.false_alarm_rate for fit in fits]) / math.sqrt(sets)
    given = np.mean([fit.false_alarm_rate for fit in fits])
    assert abs(given - true_rates.mean()) <= spread + 0.01
    assert fits[0].per_thousand == (1000 * fits[0].false_alarm_rate, 1000 * fits[0].false_alarm_upper)


def test_the_bound_at_a_fixed_rank_is_wilks() -> None:
    # P(Beta(2, 39) <= bound) = 0.95: the share above the 39th of 40 is Beta(n + 1 - k, k)
    bound = Conformal(alpha=0.05).fit(lognormal(40)).false_alarm_upper
    assert stats.beta(2, 39).cdf(bound) == pytest.approx(0.95)


@pytest.mark.parametrize("rule", [MeanStd(), Conformal(alpha=0.05), StudentT(log=True)], ids=str)
def test_the_odd_normal_is_found(rule: MeanStd) -> None:
    scores = lognormal(20)
    scores[13] = 40.0
    fitted = rule.fit(scores)
    assert fitted.influence is not None
    assert fitted.influence.index == 13
    without = rule.place(np.delete(scores, 13))
    assert fitted.influence.shift == pytest.approx((without - fitted.threshold) / fitted.threshold)
    assert "good/013.png" in (fitted.influence_warning([f"good/{i:03}.png" for i in range(20)]) or "")


@pytest.mark.parametrize(("shift", "named"), [(0.099, False), (0.101, True), (-0.099, False), (-0.101, True)])
def test_a_normal_is_named_that_moves_the_threshold_by_over_a_tenth(shift: float, named: bool) -> None:
    fitted = replace(MeanStd().fit(lognormal(20)), influence=Influence(1, shift))
    warning = fitted.influence_warning(["a.png", "b.png"])
    assert ("without b.png" in (warning or "")) == (warning is not None) == named


def test_robust_has_no_odd_normal_to_name() -> None:
    scores = lognormal(200)
    scores[13] = 40.0
    fitted = Robust().fit(scores)
    assert fitted.influence_warning([str(i) for i in range(200)]) is None
    assert MeanStd().fit(scores).influence_warning([str(i) for i in range(200)]) is not None


def test_many_normals_are_left_out_by_their_extremes_alone() -> None:
    scores = lognormal(5000)
    scores[4321] = 40.0
    fitted = MeanStd().fit(scores)
    assert fitted.influence is not None
    assert fitted.influence.index == 4321
    left_out = [scores[i] > MeanStd().place(np.delete(scores, i)) for i in np.argsort(scores)[-200:]]
    assert fitted.false_alarm_rate == np.sum(left_out) / 5000


@pytest.mark.parametrize("rule", [Conformal(alpha=0.05, review_budget=0.2), MeanStd(k=2, review_budget=0.2)], ids=str)
def test_review_band_sends_the_predicted_share(rule: MeanStd) -> None:
    sets, n = 4000, 40
    draw = lognormal(sets * (n + 1)).reshape(sets, n + 1)
    first = rule.fit(draw[0, :n])
    assert first.review_share is not None
    assert 0.15 < first.review_share <= 0.2
    verdicts = []
    for *normals, new in draw[:1000]:
        fitted = rule.fit(normals)
        verdicts.append(verdict(new, fitted.threshold, fitted.review))
    share = verdicts.count("REVIEW") / len(verdicts)
    assert share <= first.review_share + binomial_slack(0.2, len(verdicts))
    if isinstance(rule, Conformal):  # whole gaps: the prediction is exact
        assert abs(share - first.review_share) <= binomial_slack(0.2, len(verdicts))


def test_verdicts_of_a_review_band() -> None:
    fitted = Conformal(alpha=0.1, review_budget=0.2).fit(np.arange(1.0, 20))  # threshold 18th of 19, 4 gaps of 20 below
    assert (fitted.threshold, fitted.review, fitted.review_share) == (18.0, 14.0, 0.2)
    verdicts = [verdict(score, fitted.threshold, fitted.review) for score in (14.0, 14.5, 18.0, 18.5)]
    assert verdicts == ["OK", "REVIEW", "REVIEW", "NG"]


def test_a_review_budget_below_what_the_normals_resolve_is_refused() -> None:
    with pytest.raises(CalibrationError, match="at least 99 normals, 40 came: 59 more"):
        Conformal(alpha=0.05, review_budget=0.01).fit(lognormal(40))


def test_few_normals_are_said() -> None:
    (warning,) = MeanStd().fit(lognormal(5)).warnings
    assert "5 normals" in warning
    assert "45%" in warning  # 1 - 0.05 ** (1 / 5)
    assert MeanStd().fit(lognormal(10)).warnings == ()
    two = MeanStd().fit([1.0, 2.0])
    assert (two.false_alarm_rate, two.false_alarm_upper, two.influence) == (None, 1.0, None)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: MeanStd(k=-1), "threshold.k"),
        (lambda: MeanStd(k="three"), "'three'"),
        (lambda: Robust(k=math.nan), "threshold.k"),
        (lambda: StudentT(alpha=1), "threshold.alpha"),
        (lambda: Conformal(alpha=0), "threshold.alpha"),
        (lambda: Quantile(q=99), "threshold.q"),
        (lambda: MeanStd(review_budget=5), "threshold.review_budget"),
        (lambda: MeanStd().fit([1.0]), "At least 2"),
        (lambda: MeanStd().fit(torch.ones(3, 1)), r"\(3, 1\)"),
        (lambda: MeanStd(log=True).fit([0.0, 1.0]), "log=false"),
        (lambda: MeanStd(k=1e308).fit([1.0, 9.0]), "milder"),
        (lambda: F1().fit([1.0, 2.0]), "labelled defects"),
        (lambda: best_f1_threshold([1.0, 2.0], [True, True]), "2 defective"),
    ],
)
def test_what_has_no_meaning_is_refused(make: object, words: str) -> None:
    with pytest.raises(CalibrationError, match=words):
        make()


def test_f1_on_labelled_defects() -> None:
    fitted = F1().fit([1.0, 2.0, 3.0], [2.5, 5.0, 6.0])
    assert fitted.threshold in (2.25, 4.0)  # 6 / 7 with 3 called, 1 false; 4 / 5 with 2 called
    assert fitted.threshold == 2.25
    assert fitted.normals == 3


@pytest.mark.parametrize("defects", [0, 60])
def test_shift_warns_falsely_at_most_once_in_a_hundred(defects: int) -> None:
    draw, sets, warned = np.random.default_rng(9), 500, 0
    for _ in range(sets):
        normals, at_hand = np.exp(0.3 * draw.normal(size=30)), np.exp(0.3 * draw.normal(size=80))
        at_hand[:defects] *= 5
        warned += shift_warning(normals, at_hand) is not None
    assert warned / sets <= 0.01 + binomial_slack(0.01, sets)


def test_exceedances_are_counted_leaving_each_normal_out() -> None:
    scores = [1.0, 1.0, 2.0, 2.0, 3.5]
    # 3.5 lies below 1.9 + 1.6 * 1.02 = 3.54; the others give 1.5 + 1.6 * 0.58 = 2.42
    fitted = MeanStd(k=1.6).fit(scores)
    assert fitted.threshold > 3.5
    assert fitted.false_alarm_rate == 1 / 5
    assert fitted.false_alarm_upper == binomial_upper(1, 5)


def test_highest_is_the_largest_normal_or_the_cap_whichever_is_lower() -> None:
    assert Highest().fit([1.0, 2.0, 3.0]).threshold == 3.0
    # Fifteen alike and one far off: mean + 3 std = 3 * sqrt(1 / 16) + 1 / 16 lies below it.
    scores = [0.0] * 15 + [1.0]
    assert Highest().fit(scores).threshold == pytest.approx(1 / 16 + 3 / 4)


def test_highest_calls_one_in_n_plus_one_defective() -> None:
    draws = np.random.default_rng(0).lognormal(size=(4000, 11))
    above = [row[10] > Highest().place(row[:10]) for row in draws]
    assert np.mean(above) == pytest.approx(1 / 11, abs=0.015)


def test_chance_knows_that_a_calibration_is_random() -> None:
    normals = lognormal(20)
    # Above the highest of 20 lies Beta(1, 20) of the good parts: of 40, at least 6 with this probability.
    wanted = stats.betabinom.sf(5, 40, 1, 20)
    assert chance_of_alarms(Quantile(q=1.0), normals, 6, 40, draws=4000) == pytest.approx(wanted, abs=0.02)
    assert wanted > 0.05 > stats.binom.sf(5, 40, 1 / 21), "the count alone would have been taken for a broken promise"
    assert chance_of_alarms(Quantile(q=1.0), normals, 0, 40) == pytest.approx(1)
    assert chance_of_alarms(StudentT(alpha=0.05), normals, 30, 40) < 1e-3


def test_chance_of_odd_scores() -> None:
    assert chance_of_alarms(Highest(), [-1.0, 0.0, 1.0, 2.0], 1, 2) > 0.1, "none of them has a logarithm"
    assert chance_of_alarms(Highest(), [2.0] * 5, 0, 2) == 1
    assert chance_of_alarms(Highest(), [2.0] * 5, 1, 2) == 0
    with pytest.raises(CalibrationError, match="0 to 2 false alarms"):
        chance_of_alarms(Highest(), [1.0, 2.0], 3, 2)
