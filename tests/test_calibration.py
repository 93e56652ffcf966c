import math

import numpy as np
import pytest
import torch
from scipy import stats

from anomaly_lightning.calibration import (
    F1,
    Conformal,
    MeanStd,
    Quantile,
    Robust,
    StudentT,
    best_f1_threshold,
    binomial_upper,
    decide,
    fold_indices,
    shift_warning,
)
from anomaly_lightning.errors import CalibrationError

RULES = [
    MeanStd(),
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
    with pytest.raises(CalibrationError, match="number 0"):
        decide([odd], MeanStd().fit([1.0, 2.0, 3.0]))


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_tensors_arrays_and_lists_are_one(rule: MeanStd) -> None:
    scores = torch.from_numpy(lognormal(20)).float()
    assert rule.fit(scores) == rule.fit(scores.numpy()) == rule.fit(scores.tolist())
    assert decide(scores, rule.fit(scores)) == ["NG" if s > rule.fit(scores).threshold else "OK" for s in scores]


@pytest.mark.parametrize("count", [0, 1, 7, 19, 20])
def test_binomial_upper_is_clopper_pearsons(count: int) -> None:
    reference = stats.binomtest(count, 20, alternative="less").proportion_ci(0.95, method="exact").high
    assert binomial_upper(count, 20) == pytest.approx(reference)


def test_best_f1_by_brute_force() -> None:
    draw = np.random.default_rng(3)
    for _ in range(50):
        scores = draw.integers(0, 12, size=30).astype(float)  # many ties
        labels = draw.random(30) < 0.4
        found = best_f1_threshold(scores, labels)

        def f1(threshold: float, scores: np.ndarray = scores, labels: np.ndarray = labels) -> float:
            called = scores > threshold
            return 2 * (called & labels).sum() / (called.sum() + labels.sum())

        assert f1(found) == pytest.approx(max(f1(t) for t in np.arange(-0.5, 13)))


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
