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

from anomaly_lightning.calibration import Calibration, Conformal, Highest, MeanStd, Quantile, Robust, Rule, StudentT
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
LEVEL = 0.95


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
    """

    promised: float | None
    alarms: int
    good: int
    recall: float
    balanced: float
    best: float

    @property
    def holds(self) -> bool | None:
        """Whether the promise lies in the two-sided 95 % interval of what the test set realised, or above it."""
        return None if self.promised is None else self.promised >= interval(self.alarms, self.good)[0]


def interval(count: int, total: int, level: float = LEVEL) -> tuple[float, float]:
    """Two-sided Clopper-Pearson interval (1934) of a rate, from `count` events in `total` trials."""
    found = stats.binomtest(count, total).proportion_ci(level)
    return float(found.low), float(found.high)


def outcome(rule: Rule, scores: Mapping[str, Sequence[float]]) -> Outcome | None:
    """What a rule makes of the scores of a row; None where it refuses them, or where one kind of image is missing."""
    good, defective = (np.asarray(scores[name], dtype=float) for name in ("good", "defective"))
    if not len(good) or not len(defective):
        return None
    try:
        fitted = rule.fit(np.asarray(scores["normals"], dtype=float))
    except CalibrationError:
        return None
    alarms, recall = int((good > fitted.threshold).sum()), float((defective > fitted.threshold).mean())
    balanced = (recall + 1 - alarms / len(good)) / 2
    return Outcome(_promised(rule, fitted), alarms, len(good), recall, balanced, _best(good, defective))


def _promised(rule: Rule, fitted: Calibration) -> float | None:
    """The share that was asked for where the rule takes one, else the one it expects."""
    asked = getattr(rule, "alpha", None)
    return float(asked) if asked is not None else fitted.false_alarm_rate


def _best(good: np.ndarray, defective: np.ndarray) -> float:
    """Best balanced accuracy of any threshold for scores (n,) and (m,)."""
    cuts = np.concatenate(([-np.inf], np.sort(np.concatenate((good, defective)))))
    found = np.searchsorted(np.sort(good), cuts, "right") / len(good)
    missed = np.searchsorted(np.sort(defective), cuts, "right") / len(defective)
    return float(((found + 1 - missed) / 2).max())


def show(rows: Sequence[Row], rules: Mapping[str, Rule] = RULES) -> None:
    """Print all rules, a line a rule, and what each promised and realised, a line a row; for each experiment."""
    console = Console(width=260, highlight=False)
    for name in dict.fromkeys(row["experiment"] for row in rows):
        own = [row for row in rows if row["experiment"] == name]
        console.print(_table(name, own, rules))
        console.print(_promises(name, own, rules))


def _promises(name: str, rows: Sequence[Row], rules: Mapping[str, Rule]) -> Table:
    """False alarms realised by each rule in each row, with the promise where there is one."""
    table = Table(title=f"{name}: false alarms realised (promised)", title_justify="left", box=box.MARKDOWN)
    for column in ("category", "seed", "normals", "good", *rules):
        table.add_column(column, justify="left" if column == "category" else "right")
    for row in rows:
        found = [outcome(rule, row["scores"]) for rule in rules.values()]
        counts = str(len(row["scores"]["normals"])), str(len(row["scores"]["good"]))
        table.add_row(row["category"], str(row["seed"]), *counts, *map(_realised, found))
    return table


def _realised(found: Outcome | None) -> str:
    """Share of false alarms, the promise in brackets; a star where the 95 % interval lies above the promise."""
    if found is None:
        return "refused"
    said = "" if found.promised is None else f" ({found.promised:.0%}){'' if found.holds else '*'}"
    return f"{found.alarms / found.good:.0%}{said}"


def _table(name: str, rows: Sequence[Row], rules: Mapping[str, Rule]) -> Table:
    table = Table(title=f"thresholds of {name}, means over the rows", title_justify="left", box=box.MARKDOWN)
    columns = (
        "rule", "rows", "balanced accuracy", "below the best", "worst", "recall", "false alarms", "promised", "kept",
    )  # fmt: skip
    for column in columns:
        table.add_column(column, justify="left" if column == "rule" else "right")
    for label, rule in rules.items():
        found = [result for row in rows if (result := outcome(rule, row["scores"])) is not None]
        if found:
            table.add_row(label, *_line(found))
    return table


def _line(found: Sequence[Outcome]) -> tuple[str, ...]:
    gaps = [one.best - one.balanced for one in found]
    promised = [one.promised for one in found if one.promised is not None]
    kept = [one.holds for one in found if one.holds is not None]
    return (
        str(len(found)),
        f"{np.mean([one.balanced for one in found]):.3f}",
        f"{np.mean(gaps):.3f}",
        f"{max(gaps):.3f}",
        f"{np.mean([one.recall for one in found]):.3f}",
        f"{np.mean([one.alarms / one.good for one in found]):.3f}",
        f"{np.mean(promised):.3f}" if promised else "-",
        f"{sum(kept)} of {len(kept)}",
    )
