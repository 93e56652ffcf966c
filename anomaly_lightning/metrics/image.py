"""Figures of whole images: how good the decisions at the threshold are, and how good the ranking behind them is.

Everything is computed from the order of the raw scores and from `exceeds(score, threshold)`; torchmetrics' sigmoid on
scores outside [0, 1] and its 0.0 for undefined figures never come in.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from anomaly_lightning.metrics import ranking as r
from anomaly_lightning.metrics.bootstrap import bootstrap_intervals, wilson
from anomaly_lightning.metrics.checks import scores_and_labels, usable_threshold
from anomaly_lightning.metrics.ranking import Array, Ranking
from anomaly_lightning.runtime.decision import exceeds

FALSE_ALARM_RATES = ("0.01", "0.05")
_AT_THRESHOLD = ("precision", "recall", "f1", "accuracy", "false_alarm_rate", "miss_rate")
_AT_RATE = tuple(f"recall_at_false_alarm_rate.{rate}" for rate in FALSE_ALARM_RATES)
_NEED_DEFECTS_ONLY = ("recall", "miss_rate")
_NEED_GOOD_ONLY = ("false_alarm_rate",)


def image_metrics(
    scores: Tensor, labels: Tensor, threshold: float | None, bootstrap: int = 1000, seed: int = 0
) -> tuple[dict[str, Any], dict[str, str]]:
    """The "image" block of metrics.json.

    `f1_floor` is the F1 of calling every image defective. `f1_oracle` is the best F1 of any threshold, found with the
    test labels: for comparison with papers, never for a decision. `recall_at_false_alarm_rate` is the highest recall
    among thresholds with at most that rate, so with fewer than 100 good images "0.01" means no false alarm at all.
    `above_floor` is True when the 95 % interval of F1 (without a threshold: of AUROC) lies wholly above the floor
    (0.5); without bootstrap the figure itself is compared.

    Args:
        scores: raw and unbounded, larger = more anomalous, (N,) float.
        labels: True for defective, (N,) bool.
        threshold: decides by `exceeds(score, threshold)`; None or NaN when there is none.
        bootstrap: resamples, good and defective images apart; 0 for no intervals.
        seed: of the resamples.

    Returns:
        The block, where an undefined figure is None; and the reasons, "image.<figure>" -> words. `ci95` holds
        [low, high] by figure ("recall_at_false_alarm_rate.0.01" for the nested ones): Wilson's interval for precision,
        recall, miss_rate and false_alarm_rate, percentile bootstrap for the others.

    Raises:
        ValueError: scores are NaN or infinite, or shapes or dtypes differ from the above.
    """
    threshold = usable_threshold(threshold)
    ranked = r.rank(*scores_and_labels(scores, labels))
    point = {name: float(value[0]) for name, value in _figures(ranked, threshold, np.ones((1, len(scores)))).items()}
    confusion = _confusion(ranked, threshold)
    intervals = bootstrap_intervals(
        lambda weights: _figures(ranked, threshold, weights), ranked.labels.astype(np.float64), bootstrap, seed
    )
    intervals |= _share_intervals(confusion) if bootstrap else {}
    point |= _floor_and_oracle(ranked)
    notes = {f"image.{name}": _why_undefined(name, ranked, threshold) for name, v in point.items() if np.isnan(v)}
    if confusion is None:
        notes["image.confusion"] = _why_undefined("confusion", ranked, threshold)
    block: dict[str, Any] = {
        name: None if np.isnan(value) else value for name, value in point.items() if name not in _AT_RATE
    }
    at_rate = {rate: point[name] for rate, name in zip(FALSE_ALARM_RATES, _AT_RATE, strict=True)}
    block |= {"recall_at_false_alarm_rate": {k: None if np.isnan(v) else v for k, v in at_rate.items()}}
    block |= {"confusion": confusion, "ci95": {k: v for k, v in intervals.items() if f"image.{k}" not in notes}}
    block["above_floor"], verdict = _verdict(block)
    return block, notes | verdict


def _figures(ranked: Ranking, threshold: float | None, weights: Array) -> dict[str, Array]:
    """Every figure that has an interval, for resamples (R, N) at once: arrays (R,), NaN where undefined."""
    fp, tp = ranked.counts(weights)
    both = np.where((fp[:, -1] > 0) & (tp[:, -1] > 0), 1.0, np.nan)
    figures = _at_threshold(
        fp, tp, int(np.count_nonzero(exceeds(ranked.values, threshold))) if threshold is not None else None
    )
    figures["auroc"] = r.auroc(fp, tp)
    figures["average_precision"] = r.average_precision(fp, tp) * both
    figures["f1_oracle"] = r.best_f1(fp, tp)[0] * both
    for rate, name in zip(FALSE_ALARM_RATES, _AT_RATE, strict=True):
        figures[name] = r.recall_at(fp, tp, float(rate)) * both
    return figures


def _at_threshold(fp: Array, tp: Array, called: int | None) -> dict[str, Array]:
    """Figures of the decision that calls the `called` highest distinct scores defective; cumulative counts (R, K)."""
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
            "false_alarm_rate": alarms / good,
            "miss_rate": (defective - hits) / defective,
        }


def _floor_and_oracle(ranked: Ranking) -> dict[str, float]:
    """F1 of calling everything defective, and the threshold of the best F1; NaN unless both kinds are there."""
    fp, tp = ranked.counts(np.ones(len(ranked.labels)))
    if not (fp[-1] and tp[-1]):
        return {"f1_floor": np.nan, "oracle_threshold": np.nan}
    floor = 2 * tp[-1] / (2 * tp[-1] + fp[-1])
    return {"f1_floor": float(floor), "oracle_threshold": float(ranked.thresholds()[r.best_f1(fp, tp)[1]])}


def _confusion(ranked: Ranking, threshold: float | None) -> dict[str, int] | None:
    if threshold is None or not len(ranked.labels):
        return None
    fp, tp = ranked.counts(np.ones(len(ranked.labels)))
    called = np.count_nonzero(exceeds(ranked.values, threshold))
    counts = {"tp": tp[called], "fp": fp[called], "tn": fp[-1] - fp[called], "fn": tp[-1] - tp[called]}
    return {name: int(count) for name, count in counts.items()}


def _share_intervals(confusion: Mapping[str, int] | None) -> dict[str, list[float]]:
    """Wilson's intervals of the shares among the good, among the defective, and among those called defective."""
    if confusion is None:
        return {}
    good, defective = confusion["fp"] + confusion["tn"], confusion["tp"] + confusion["fn"]
    shares = {
        "precision": (confusion["tp"], confusion["tp"] + confusion["fp"]),
        "false_alarm_rate": (confusion["fp"], good),
        "recall": (confusion["tp"], defective),
        "miss_rate": (confusion["fn"], defective),
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
