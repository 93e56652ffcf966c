"""Metrics of whole images against hand-computed cases and sklearn."""

import json

import numpy as np
import pytest
import torch
from scipy.stats import binomtest
from sklearn import metrics as sk

from anomaly_lightning.metrics import by_defect, curves, image_metrics, standard

HAND_SCORES = torch.tensor([1.0, 2.0, 3.0, 4.0, 10.0, 3.0, 5.0, 20.0])
HAND_LABELS = torch.tensor([False, False, False, False, False, True, True, True])


def random_case(seed: int, ties: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    labels = rng.random(173) < 0.3
    scores = rng.normal(size=173) + labels
    scores = np.round(scores, 1) if ties else scores
    return torch.tensor(scores * 70 + 500), torch.tensor(labels)


def test_hand_computed() -> None:
    block, notes = image_metrics(HAND_SCORES, HAND_LABELS, 3.5, bootstrap=0)
    assert notes.keys() <= {"image.above_floor"}
    assert block["confusion"] == {"tp": 2, "fp": 2, "tn": 3, "fn": 1}
    assert block["precision"] == pytest.approx(1 / 2)
    assert block["recall"] == pytest.approx(2 / 3)
    assert block["f1"] == pytest.approx(4 / 7)
    assert block["accuracy"] == pytest.approx(5 / 8)
    assert block["false_alarm_rate"] == pytest.approx(2 / 5)
    assert block["miss_rate"] == pytest.approx(1 / 3)
    assert block["balanced_accuracy"] == pytest.approx((2 / 3 + 3 / 5) / 2)
    assert block["balanced_accuracy_oracle"] == pytest.approx((2 / 3 + 4 / 5) / 2)  # calls 20, 10, 5
    assert block["pg2"] == pytest.approx(2 / 5)  # calls down to 3, so only 1 and 2 are good for sure
    # 20 beats 5 normals; 5 beats 4; 3 beats 2 and ties with one: (5 + 4 + 2.5) / 15.
    assert block["auroc"] == pytest.approx(11.5 / 15)
    # Steps: 20 -> 1/1; 5 -> 2/3; 3 (with a tied normal) -> 3/6.
    assert block["average_precision"] == pytest.approx((1 + 2 / 3 + 1 / 2) / 3)
    assert block["f1_floor"] == pytest.approx(6 / 11)
    assert block["f1_oracle"] == pytest.approx(2 / 3)  # calls 20, 10, 5; and so does calling down to 3: 6 / 9
    assert block["oracle_threshold"] == pytest.approx(4.5)
    assert block["recall_at_false_alarm_rate"] == {"0.01": pytest.approx(1 / 3), "0.05": pytest.approx(1 / 3)}
    assert block["ci95"] == {}
    json.dumps(block, allow_nan=False)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_agrees_with_sklearn(seed: int, ties: bool) -> None:
    scores, labels = random_case(seed, ties)
    threshold = 570.0  # with ties, the score of several images, and they are not called
    block, _ = image_metrics(scores, labels, threshold, bootstrap=0)
    y, s, decision = labels.numpy(), scores.numpy(), scores.numpy() > threshold
    precision, recall, f1, _ = sk.precision_recall_fscore_support(y, decision, average="binary")
    expected = {
        "precision": precision,
        "recall": recall,
        "f1": f1,
        "accuracy": sk.accuracy_score(y, decision),
        "balanced_accuracy": sk.balanced_accuracy_score(y, decision),
        "balanced_accuracy_oracle": max(sk.balanced_accuracy_score(y, s >= v) for v in s),
        "auroc": sk.roc_auc_score(y, s),
        "average_precision": sk.average_precision_score(y, s),
        "f1_floor": sk.f1_score(y, np.ones_like(y)),
        "f1_oracle": max(2 * (y & (s >= v)).sum() / ((s >= v).sum() + y.sum()) for v in s),
    }
    assert {name: block[name] for name in expected} == pytest.approx(expected, abs=1e-12)
    assert sk.f1_score(y, s > block["oracle_threshold"]) == pytest.approx(block["f1_oracle"])
    fpr, tpr, _ = sk.roc_curve(y, s, drop_intermediate=False)
    for rate in ("0.01", "0.05"):
        assert block["recall_at_false_alarm_rate"][rate] == pytest.approx(tpr[fpr <= float(rate)].max())
    assert block["pg2"] == pytest.approx(1 - fpr[tpr >= 0.98].min())


def test_scores_far_outside_the_unit_interval() -> None:
    # torchmetrics' default squashes these to ties and says 0.5.
    block, _ = image_metrics(torch.tensor([20.0, 21.0, 30.0, 40.0]), torch.tensor([False, False, True, True]), None)
    assert block["auroc"] == 1.0
    assert block["average_precision"] == 1.0


def test_torchmetrics_sees_raw_scores_however_they_come_in_batches() -> None:
    """With its sigmoid a batch within [0, 1] would stay and one beyond be squashed: another order in each split."""
    scores, labels = random_case(7)
    scores = (scores - 500) / 70 * 3
    for size in (1, 10, 60, 173):
        metrics = standard.ranking_metrics()
        for chunk, kinds in zip(scores.split(size), labels.split(size), strict=True):
            metrics.update(chunk, kinds)
        found = metrics.compute()
        assert float(found["auroc"]) == pytest.approx(sk.roc_auc_score(labels, scores), abs=1e-6)
        assert float(found["average_precision"]) == pytest.approx(sk.average_precision_score(labels, scores), abs=1e-6)


def test_scores_closer_than_float32_tells_are_ranked() -> None:
    scores = torch.tensor([1.0, 1 + 1e-12, 1 + 2e-12], dtype=torch.float64)
    block, _ = image_metrics(scores, torch.tensor([False, False, True]), None, bootstrap=0)
    assert block["auroc"] == 1.0
    assert torch.get_default_dtype() == torch.float32


def test_one_miss_of_fifty_is_two_per_cent() -> None:
    scores = torch.cat([torch.arange(100.0), torch.arange(50.0) + 59.5])
    block, _ = image_metrics(scores, torch.arange(150) >= 100, None, bootstrap=0)
    assert block["pg2"] == pytest.approx(0.61)  # the lowest defect, 59.5, may be missed; the next is 60.5
    block, _ = image_metrics(scores[:-1], torch.arange(149) >= 100, None, bootstrap=0)
    assert block["pg2"] == pytest.approx(0.60)


@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e6])
def test_order_units_and_batches_do_not_matter(scale: float) -> None:
    scores, labels = random_case(3, ties=True)
    plain, _ = image_metrics(scores, labels, 560.0, bootstrap=50)
    order = torch.randperm(len(scores), generator=torch.Generator().manual_seed(1))
    batches = [(scores[i] - 500) * scale for i in order.split(7)]
    other, _ = image_metrics(torch.cat(batches), labels[order], 60.0 * scale, bootstrap=50)
    assert other.pop("oracle_threshold") == pytest.approx((plain.pop("oracle_threshold") - 500) * scale)
    assert other == plain


def test_seed_decides_the_intervals() -> None:
    scores, labels = random_case(4)
    first, again, other = (image_metrics(scores, labels, 560.0, 100, seed)[0]["ci95"] for seed in (0, 0, 1))
    assert first == again
    assert first["auroc"] != other["auroc"]


def test_intervals_hold_their_metric_and_have_the_known_width() -> None:
    scores, labels = random_case(5)
    block, _ = image_metrics(scores, labels, 560.0)
    assert block["ci95"].keys() >= {"precision", "recall", "f1", "accuracy", "auroc", "average_precision", "f1_oracle"}
    for name, (low, high) in block["ci95"].items():
        group, _, rate = name.partition(".")
        value = block[group][rate] if rate else block[name]
        assert low <= value <= high
    # DeLong's variance of AUROC, from the placements of either kind among the other.
    good, bad = scores[~labels].numpy(), scores[labels].numpy()
    beats = bad[:, None] > good[None]
    deviation = np.sqrt(beats.mean(1).var(ddof=1) / len(bad) + beats.mean(0).var(ddof=1) / len(good))
    low, high = block["ci95"]["auroc"]
    assert high - low == pytest.approx(2 * 1.96 * deviation, rel=0.1)


def test_no_false_alarm_among_fifty_is_no_proof() -> None:
    scores, labels = torch.cat([torch.zeros(50), torch.ones(10)]), torch.arange(60) >= 50
    block, _ = image_metrics(scores, labels, 0.5, bootstrap=10)
    assert block["ci95"]["false_alarm_rate"] == pytest.approx([0.0, 0.0713], abs=1e-3)


def test_shares_have_the_intervals_of_wilson() -> None:
    block, _ = image_metrics(HAND_SCORES, HAND_LABELS, 5.0, bootstrap=10)
    shares = {"precision": (1, 2), "recall": (1, 3), "miss_rate": (2, 3), "false_alarm_rate": (1, 5)}
    for name, (count, total) in shares.items():
        assert block["ci95"][name] == pytest.approx(list(binomtest(count, total).proportion_ci(method="wilson")))


def test_random_scores_reach_chance_only() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(300) % 2 == 0
    block, notes = image_metrics(torch.randn(300, generator=generator), labels, None)
    low, high = block["ci95"]["auroc"]
    assert low < 0.5 < high
    assert block["above_floor"] is False
    assert "not above the floor" in notes["image.above_floor"]


@pytest.mark.parametrize("threshold", [None, 6.9, 7.0, 7.1])
def test_constant_scores_are_not_above_the_floor(threshold: float | None) -> None:
    block, notes = image_metrics(torch.full((30,), 7.0), torch.arange(30) % 3 == 0, threshold, bootstrap=100)
    assert block["auroc"] == 0.5
    assert block["f1_oracle"] == block["f1_floor"] == pytest.approx(0.5)
    assert block["above_floor"] is False
    assert "not above the floor" in notes["image.above_floor"]


def test_resamples_keep_the_counts_of_both_kinds() -> None:
    block, _ = image_metrics(torch.full((30,), 7.0), torch.arange(30) % 3 == 0, 6.9, bootstrap=100)
    assert block["ci95"]["f1"] == pytest.approx([0.5, 0.5])
    assert block["ci95"]["accuracy"] == pytest.approx([1 / 3, 1 / 3])


def test_a_false_alarm_rate_may_be_reached() -> None:
    scores = torch.arange(30.0)
    labels = (scores == 28) | (scores < 9)  # of 20 good images one (5 %) scores above every defect
    block, _ = image_metrics(scores, labels, None, bootstrap=0)
    assert block["recall_at_false_alarm_rate"] == {"0.01": 0.0, "0.05": pytest.approx(0.1)}


def test_good_scores_are_above_the_floor() -> None:
    block, notes = image_metrics(torch.arange(30.0), torch.arange(30) >= 20, 19.5, bootstrap=100)
    assert block["above_floor"] is True
    assert notes == {}


NEED_BOTH = {"precision", "f1", "auroc", "average_precision", "f1_floor", "f1_oracle", "oracle_threshold"}
NEED_BOTH |= {"balanced_accuracy", "balanced_accuracy_oracle", "pg2"}
NEED_BOTH |= {"recall_at_false_alarm_rate.0.01", "recall_at_false_alarm_rate.0.05", "above_floor"}


@pytest.mark.parametrize(
    ("labels", "undefined", "reason"),
    [
        ([False] * 4, NEED_BOTH | {"recall", "miss_rate"}, "no defective"),
        ([True] * 4, NEED_BOTH | {"false_alarm_rate"}, "no good"),
    ],
)
def test_one_kind_only(labels: list[bool], undefined: set[str], reason: str) -> None:
    block, notes = image_metrics(torch.arange(4.0), torch.tensor(labels), 1.5, bootstrap=20)
    assert {key.removeprefix("image.") for key in notes} == undefined
    assert reason in notes["image.auroc"]
    for name in undefined:
        group, _, rate = name.partition(".")
        assert (block[group][rate] if rate else block[name]) is None
        assert name not in block["ci95"]
    assert block["accuracy"] == 0.5
    json.dumps(block, allow_nan=False)


def test_without_threshold_and_without_images() -> None:
    block, notes = image_metrics(HAND_SCORES, HAND_LABELS, float("nan"), bootstrap=20)
    assert block["f1"] is None
    assert block["confusion"] is None
    assert "no calibrated threshold" in notes["image.confusion"]
    assert block["auroc"] is not None
    block, notes = image_metrics(torch.zeros(0), torch.zeros(0, dtype=torch.bool), 1.0)
    assert block["accuracy"] is None
    assert "no test images" in notes["image.accuracy"]


def test_a_score_at_the_threshold_is_not_called() -> None:
    block, _ = image_metrics(HAND_SCORES, HAND_LABELS, 5.0, bootstrap=0)
    assert block["confusion"] == {"tp": 1, "fp": 1, "tn": 4, "fn": 2}


def test_nothing_called_leaves_precision_undefined() -> None:
    block, notes = image_metrics(HAND_SCORES, HAND_LABELS, 100.0, bootstrap=20)
    assert block["precision"] is None
    assert "no image is called" in notes["image.precision"]
    assert block["f1"] == 0.0


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_scores_that_are_no_numbers_are_counted(bad: float) -> None:
    scores = HAND_SCORES.clone()
    scores[[1, 4]] = bad
    with pytest.raises(ValueError, match="2 of 8"):
        image_metrics(scores, HAND_LABELS, 1.0)


def test_labels_must_be_bool_and_as_many() -> None:
    with pytest.raises(ValueError, match="int64"):
        image_metrics(HAND_SCORES, HAND_LABELS.long(), 1.0)
    with pytest.raises(ValueError, match=r"\(7,\)"):
        image_metrics(HAND_SCORES, HAND_LABELS[:7], 1.0)


def test_curves_are_sklearns_and_their_thresholds_give_their_points() -> None:
    scores, labels = random_case(6, ties=True)
    drawn = curves(scores, labels)
    fpr, tpr, _ = sk.roc_curve(labels, scores, drop_intermediate=False)
    assert drawn["roc"] is not None
    assert drawn["roc"]["false_alarm_rate"] == pytest.approx(fpr)
    assert drawn["roc"]["recall"] == pytest.approx(tpr)
    assert drawn["pr"] is not None
    for recall, precision, threshold in zip(*drawn["pr"].values(), strict=True):
        decision = scores > threshold
        assert recall == pytest.approx((decision & labels).sum() / labels.sum())
        assert precision == pytest.approx((decision & labels).sum() / decision.sum())


def test_curves_are_thinned_without_losing_their_area() -> None:
    generator = torch.Generator().manual_seed(2)
    labels = torch.rand(20_000, generator=generator) < 0.2
    scores = torch.randn(20_000, generator=generator) + labels
    roc = curves(scores, labels)["roc"]
    assert roc is not None
    assert 400 < len(roc["recall"]) <= 500
    area = np.trapezoid(roc["recall"], roc["false_alarm_rate"])
    assert area == pytest.approx(sk.roc_auc_score(labels, scores), abs=1e-3)
    assert curves(scores, torch.zeros(20_000, dtype=torch.bool)) == {"roc": None, "pr": None}


def test_by_defect() -> None:
    names = ["good"] * 5 + ["crack", "dent", "crack"]
    rows, notes = by_defect(HAND_SCORES, HAND_LABELS, names, 4.0)
    assert list(rows) == ["crack", "dent"]
    assert rows["crack"] == {"n": 2, "recall": 0.5, "auroc": pytest.approx(7.5 / 10), "pixel_auroc": None}
    assert rows["dent"] == {"n": 1, "recall": 1.0, "auroc": pytest.approx(4 / 5), "pixel_auroc": None}
    assert notes.keys() == {"by_defect.crack.pixel_auroc", "by_defect.dent.pixel_auroc"}
    rows, notes = by_defect(HAND_SCORES[5:], HAND_LABELS[5:], names[5:], None)
    assert rows["crack"] == {"n": 2, "recall": None, "auroc": None, "pixel_auroc": None}
    assert notes.keys() >= {"by_defect.dent.recall", "by_defect.dent.auroc"}
    with pytest.raises(ValueError, match="7 names"):
        by_defect(HAND_SCORES, HAND_LABELS, names[:7], 4.0)
