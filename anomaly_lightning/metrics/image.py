"""Metrics of whole images: how good the decisions at the threshold are, and how good the ranking behind them is.

AUROC, average precision and the confusion are torchmetrics'. All metrics of resamples come from counts, for all
resamples at once, which torchmetrics can't do.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from anomaly_lightning.metrics import ranking as r
from anomaly_lightning.metrics import standard
from anomaly_lightning.metrics.bootstrap import bootstrap_intervals, wilson
from anomaly_lightning.metrics.checks import scores_and_labels, usable_threshold
from anomaly_lightning.metrics.ranking import Array, Ranking
from anomaly_lightning.runtime.decision import exceeds

FALSE_ALARM_RATES = ("0.01", "0.05")
MISS_RATE = 0.02  # of PG2
_AT_THRESHOLD = ("precision", "recall", "f1", "accuracy", "balanced_accuracy", "false_alarm_rate", "miss_rate")
_AT_RATE = "recall_at_false_alarm_rate"
_NEED_DEFECTS_ONLY = ("recall", "miss_rate")
_NEED_GOOD_ONLY = ("false_alarm_rate",)


def image_metrics(
    scores: Tensor, labels: Tensor, threshold: float | None, bootstrap: int = 1000, seed: int = 0
) -> tuple[dict[str, Any], dict[str, str]]:
    """The "image" block of metrics.json.

    `f1_floor` is the F1 of calling every image defective. `f1_oracle` and `balanced_accuracy_oracle` are the best that
    any threshold could reach, found with the test labels: for comparison, never for a decision. Balanced accuracy is
    the mean of recall and true negative rate. `recall_at_false_alarm_rate` is the highest recall among thresholds with
    at most that rate, so with fewer than 100 good images "0.01" means no false alarm at all; `pg2` is the highest true
    negative rate among thresholds that miss at most 2 % of the defective images. `above_floor` is True when the 95 %
    interval of F1 (without a threshold: of AUROC) lies wholly above the floor (0.5); without bootstrap the metric
    itself is compared.

    Args:
        scores: raw and unbounded, larger = more anomalous, (N,) float.
        labels: True for defective, (N,) bool.
        threshold: decides by `runtime.decision.exceeds`; None or NaN when there is none.
        bootstrap: resamples, good and defective images apart; 0 for no intervals.
        seed: of the resamples.

    Returns:
        The block, where an undefined metric is None; and the reasons, "image.<metric>" -> words. `ci95` holds
        [low, high] by metric ("recall_at_false_alarm_rate.0.01" for the nested ones): Wilson's interval for precision,
        recall, miss_rate and false_alarm_rate, percentile bootstrap for the others.

    Raises:
        ValueError: scores are NaN or infinite, or shapes or dtypes differ from the above.
    """
    threshold = usable_threshold(threshold)
    values, anomalous = scores_and_labels(scores, labels)
    ranked = r.rank(values, anomalous)
    confusion = None
    if threshold is not None and len(values):
        confusion = standard.confusion(torch.from_numpy(exceeds(values, threshold)), torch.from_numpy(anomalous))
    point = _point(ranked, threshold)
    intervals = bootstrap_intervals(
        lambda weights: _metrics(ranked, threshold, weights), ranked.labels.astype(np.float64), bootstrap, seed
    )
    intervals |= _share_intervals(confusion) if bootstrap else {}
    undefined = [name for name, value in point.items() if np.isnan(value)] + ["confusion"] * (confusion is None)
    notes = {f"image.{name}": _why_undefined(name, ranked, threshold) for name in undefined}
    block: dict[str, Any] = {name: None if np.isnan(value) else value for name, value in point.items()}
    block[_AT_RATE] = {rate: block.pop(f"{_AT_RATE}.{rate}") for rate in FALSE_ALARM_RATES}
    block |= {"confusion": confusion, "ci95": {k: v for k, v in intervals.items() if f"image.{k}" not in notes}}
    block["above_floor"], verdict = _verdict(block)
    return block, notes | verdict


def _point(ranked: Ranking, threshold: float | None) -> dict[str, float]:
    """Every metric of the images as they are, NaN where undefined."""
    once = np.ones((1, len(ranked.labels)))
    point = {name: float(value[0]) for name, value in _metrics(ranked, threshold, once).items()}
    fp, tp = ranked.counts(once[0])
    if not (fp[-1] and tp[-1]):
        return point | {"f1_floor": np.nan, "oracle_threshold": np.nan}
    falling = np.repeat(ranked.values, np.diff(ranked.ends, prepend=0))
    point |= standard.ranking(torch.from_numpy(falling), torch.from_numpy(ranked.labels))
    best = float(ranked.thresholds()[r.best_f1(fp, tp)[1]])
    return point | {"f1_floor": float(2 * tp[-1] / (2 * tp[-1] + fp[-1])), "oracle_threshold": best}


def _metrics(ranked: Ranking, threshold: float | None, weights: Array) -> dict[str, Array]:
    """Every metric that has an interval, for resamples (R, N) at once: arrays (R,), NaN where undefined."""
    fp, tp = ranked.counts(weights)
    called = None if threshold is None else int(np.count_nonzero(exceeds(ranked.values, threshold)))
    of_ranking = {
        "auroc": r.auroc(fp, tp),
        "average_precision": r.average_precision(fp, tp),
        "f1_oracle": r.best_f1(fp, tp)[0],
        "balanced_accuracy_oracle": np.max(r.share(tp) + 1 - r.share(fp), axis=-1) / 2,
        "pg2": r.recall_at(tp[:, -1:] - tp[:, ::-1], fp[:, -1:] - fp[:, ::-1], MISS_RATE),  # the other way round
        **{f"{_AT_RATE}.{rate}": r.recall_at(fp, tp, float(rate)) for rate in FALSE_ALARM_RATES},
    }
    both = np.where((fp[:, -1] > 0) & (tp[:, -1] > 0), 1.0, np.nan)
    return _at_threshold(fp, tp, called) | {name: value * both for name, value in of_ranking.items()}


def _at_threshold(fp: Array, tp: Array, called: int | None) -> dict[str, Array]:
    """Metrics of the decision that calls the `called` highest distinct scores defective; cumulative counts (R, K)."""
    if called is None:
        return {name: np.full(len(fp), np.nan) for name in _AT_THRESHOLD}
    alarms, hits, good, defective = fp[:, called], tp[:, called], fp[:, -1], tp[:, -1]
    with np.errstate(invalid="ignore", divide="ignore"):
        both = np.where((good > 0) & (defective > 0), 1.0, np.nan)
        return {
            "precision": hits / (hits + alarms) * both,
            "recall": hits / defective,
            "f1": 2 * hits / (hits + alarms + defective) * both,
            "accuracy": (hits + good - alarms) / (good + defective),
            "balanced_accuracy": (hits / defective + 1 - alarms / good) / 2,
            "false_alarm_rate": alarms / good,
            "miss_rate": (defective - hits) / defective,
        }


def _share_intervals(confusion: Mapping[str, int] | None) -> dict[str, list[float]]:
    """Wilson's intervals of the shares among the good, among the defective, and among those called defective."""
    if confusion is None:
        return {}
    tp, fp, tn, fn = (confusion[name] for name in ("tp", "fp", "tn", "fn"))
    shares = {
        "precision": (tp, tp + fp),
        "false_alarm_rate": (fp, fp + tn),
        "recall": (tp, tp + fn),
        "miss_rate": (fn, tp + fn),
    }
    return {name: wilson(count, total) for name, (count, total) in shares.items() if total}


def _why_undefined(name: str, ranked: Ranking, threshold: float | None) -> str:
    """The first reason that holds, in words."""
    if not len(ranked.labels):
        return "there are no test images"
    if threshold is None and name in (*_AT_THRESHOLD, "confusion"):
        return "there is no calibrated threshold"
    if not ranked.labels.any() and name not in _NEED_GOOD_ONLY:
        return "there are no defective test images"
    if ranked.labels.all() and name not in _NEED_DEFECTS_ONLY:
        return "there are no good test images"
    return "no image is called defective at the threshold"


def _verdict(block: Mapping[str, Any]) -> tuple[bool | None, dict[str, str]]:
    """Whether the decisions (without a threshold: the ranking) beat what needs no images to be looked at."""
    name, floor, what = ("f1", block["f1_floor"], "calling every image defective")
    if block["f1"] is None:
        name, floor, what = ("auroc", 0.5, "chance")
    if block[name] is None or floor is None:
        return None, {"image.above_floor": "it needs good and defective test images"}
    low, high = block["ci95"].get(name, [block[name]] * 2)
    if low > floor:
        return True, {}
    words = f"{name} {block[name]:.3f} (95 %: {low:.3f} to {high:.3f}), and {what} reaches {floor:.3f}"
    return False, {"image.above_floor": f"not above the floor: {words}"}
