"""Thresholds compared: every rule on the same scores of normals, judged on the same test scores.

Scores of the rows are all it needs, so that a new rule is compared without running anything again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table
from scipy import stats

from anomaly_lightning.bench.quality import paired
from anomaly_lightning.bench.quality.reach import best
from anomaly_lightning.bench.quality.sources import SOURCES, Source, held_out, plain_folds
from anomaly_lightning.calibration import (
    Calibration,
    Conformal,
    Highest,
    MeanStd,
    Quantile,
    Robust,
    Rule,
    StudentT,
    chance_of_alarms,
)
from anomaly_lightning.calibration.realised import CONFIDENCE, interval
from anomaly_lightning.errors import CalibrationError

Row = Mapping[str, Any]
RULES: dict[str, Rule] = {
    "highest": Highest(),
    "mean + 2 std": MeanStd(k=2.0),
    "mean + 3 std": MeanStd(k=3.0),
    "log mean + 2 std": MeanStd(k=2.0, log=True),
    "log mean + 3 std": MeanStd(k=3.0, log=True),
    "median + 3 MAD": Robust(k=3.0),
    "quantile .95": Quantile(q=0.95),
    "Student's t, 1 %": StudentT(alpha=0.01),
    "Student's t, 5 %": StudentT(alpha=0.05),
    "Student's t of logs, 1 %": StudentT(alpha=0.01, log=True),
    "Student's t of logs, 5 %": StudentT(alpha=0.05, log=True),
    "conformal, 5 %": Conformal(alpha=0.05),
}


@dataclass(frozen=True)
class Outcome:
    """What one rule decided in one row.

    Attributes:
        promised: Share of good parts that the rule says it calls defective; None where it says nothing.
        alarms: False alarms among the `good` test images.
        good: Good test images.
        recall: Share of the defective test images that it finds.
        balanced: Balanced accuracy.
        best: The best that any threshold could reach, found with the test labels.
        chance: Probability of at least so many alarms where good test images are drawn like the normals calibrated on.
    """

    promised: float | None
    alarms: int
    good: int
    recall: float
    balanced: float
    best: float
    chance: float

    @property
    def holds(self) -> bool | None:
        """Whether the promise lies in the two-sided 95 % interval of what the test set realised, or above it."""
        return None if self.promised is None else self.promised >= interval(self.alarms, self.good)[0]


def outcome(rule: Rule, scores: Mapping[str, Any], source: Source = held_out) -> Outcome | None:
    """What a rule makes of the scores of a row; None where it refuses them, or where one kind of image is missing."""
    good, defective = (np.asarray(scores[name], dtype=float) for name in ("good", "defective"))
    normals = source(scores)
    if not len(good) or not len(defective) or normals is None:
        return None
    try:
        fitted = rule.fit(normals)
    except CalibrationError:
        return None
    alarms, recall = int((good > fitted.threshold).sum()), float((defective > fitted.threshold).mean())
    balanced = (recall + 1 - alarms / len(good)) / 2
    chance = chance_of_alarms(rule, normals, alarms, len(good))
    return Outcome(_promised(rule, fitted), alarms, len(good), recall, balanced, best(good, defective)[0], chance)


def cv_plus(scores: Mapping[str, Any], alpha: float = 0.05) -> Outcome | None:
    """CV+ (Barber et al. 2021, section 3): a fold's normals against the image as the fold's own detector scores it.

    An image is called defective where at most alpha of the normals score as high. It needs no common scale, and the
    detectors of all folds for every image. None where the row lacks them, or one kind of image.
    """
    folds, good, defective = (scores.get(name) or [] for name in ("folds", "good", "defective"))
    if not folds or not len(good) or not len(defective):
        return None
    count = 1 + sum(len(fold["train"]) for fold in folds)

    def called(kind: str) -> np.ndarray:
        higher = (np.greater_equal.outer(fold["train"], fold[kind]).sum(0) for fold in folds)
        return np.asarray((1 + sum(higher)) / count <= alpha)

    alarms, recall = int(called("good").sum()), float(called("defective").mean())
    balanced, top = (recall + 1 - alarms / len(good)) / 2, best(np.asarray(good), np.asarray(defective))[0]
    return Outcome(alpha, alarms, len(good), recall, balanced, top, float(stats.binom.sf(alarms - 1, len(good), alpha)))


def _promised(rule: Rule, fitted: Calibration) -> float | None:
    """The share that was asked for where the rule takes one, else the one it expects."""
    asked = getattr(rule, "alpha", None)
    return float(asked) if asked is not None else fitted.false_alarm_rate


def show(rows: Sequence[Row], rules: Mapping[str, Rule] = RULES) -> None:
    """Print all rules, a line a rule, and what each promised and realised, a line a row.

    For each experiment and each source of scores that its rows hold. The first rule on held-out normals is what the
    others are compared with.
    """
    console = Console(width=260, highlight=False)
    for name in dict.fromkeys(row["experiment"] for row in rows):
        own = [row for row in rows if row["experiment"] == name]
        reference = _metrics(own, [outcome(next(iter(rules.values())), row["scores"]) for row in own])
        for label, source in SOURCES.items():
            found = {key: [outcome(rule, row["scores"], source) for row in own] for key, rule in rules.items()}
            if source is plain_folds:
                found["CV+, 5 %"] = [cv_plus(row["scores"]) for row in own]
            if any(one is not None for several in found.values() for one in several):
                console.print(_table(f"thresholds of {name}, {label}", own, found, reference))
                console.print(_promises(f"{name}, {label}: false alarms realised (promised)", own, found))


Found = Mapping[str, Sequence[Outcome | None]]


def _metrics(rows: Sequence[Row], found: Sequence[Outcome | None]) -> list[Row]:
    """Rows for `paired.compare`."""
    return [
        {"category": row["category"], "seed": row["seed"], "metrics": {"balanced": one.balanced}}
        for row, one in zip(rows, found, strict=True)
        if one is not None
    ]


def _promises(title: str, rows: Sequence[Row], found: Found) -> Table:
    """False alarms realised by each rule in each row, with the promise where there is one."""
    table = Table(title=title, title_justify="left", box=box.MARKDOWN)
    for column in ("category", "seed", "normals", "good", *found):
        table.add_column(column, justify="left" if column == "category" else "right")
    for index, row in enumerate(rows):
        counts = str(len(row["scores"]["normals"])), str(len(row["scores"]["good"]))
        shown = (_realised(several[index]) for several in found.values())
        table.add_row(row["category"], str(row["seed"]), *counts, *shown)
    return table


def _realised(found: Outcome | None) -> str:
    """Share of false alarms, the promise in brackets; a star where the 95 % interval lies above the promise."""
    if found is None:
        return "refused"
    said = "" if found.promised is None else f" ({found.promised:.0%}){'' if found.holds else '*'}"
    return f"{found.alarms / found.good:.0%}{said}"


def _table(title: str, rows: Sequence[Row], found: Found, reference: Sequence[Row]) -> Table:
    table = Table(title=f"{title}: means over categories", title_justify="left", box=box.MARKDOWN)
    columns = (
        "rule", "rows", "balanced accuracy", "below the best", "worst", "recall", "false alarms", "promised", "kept",
        "chance", "gain", "least without one", "p",
    )  # fmt: skip
    for column in columns:
        table.add_column(column, justify="left" if column == "rule" else "right")
    for label, several in found.items():
        known = [(row["category"], one) for row, one in zip(rows, several, strict=True) if one is not None]
        if known:
            gain = paired.compare(_metrics(rows, several), reference, "balanced")
            table.add_row(label, *_line(known), *_gain(gain))
    return table


def _line(found: Sequence[tuple[str, Outcome]]) -> tuple[str, ...]:
    gaps = [one.best - one.balanced for _, one in found]
    promised = [one.promised for _, one in found if one.promised is not None]
    kept = [one.holds for _, one in found if one.holds is not None]
    return (
        str(len(found)),
        f"{_mean([(category, one.balanced) for category, one in found]):.3f}",
        f"{_mean([(category, one.best - one.balanced) for category, one in found]):.3f}",
        f"{max(gaps):.3f}",
        f"{_mean([(category, one.recall) for category, one in found]):.3f}",
        f"{_mean([(category, one.alarms / one.good) for category, one in found]):.3f}",
        f"{np.mean(promised):.3f}" if promised else "-",
        f"{sum(kept)} of {len(kept)}",
        f"{sum(one.chance >= (1 - CONFIDENCE) / 2 for _, one in found)} of {len(found)}",
    )


def _gain(found: paired.Comparison | None) -> tuple[str, str, str]:
    """Mean difference of balanced accuracy to the first rule, the least without one category, and its p-value."""
    if found is None:
        return "-", "-", "-"
    least = min(found.without.values()) if found.without else float("nan")
    return f"{found.mean:+.4f}", f"{least:+.4f}", f"{found.p_value:.2f}"


def _mean(values: Sequence[tuple[str, float]]) -> float:
    """Mean over categories of the mean over their seeds."""
    categories = dict.fromkeys(category for category, _ in values)
    return float(np.mean([np.mean([one for name, one in values if name == category]) for category in categories]))
