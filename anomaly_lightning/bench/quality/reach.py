"""How far a threshold from normals alone can get, and where the distance to the best is lost."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.table import Table
from scipy import stats

from anomaly_lightning.calibration import Highest, Rule, StudentT

Row = Mapping[str, Any]
Values = NDArray[np.float64]
RATES = (0.0, 0.02, 0.05, 0.1, 0.15, 0.25)
RULES: Mapping[str, Rule] = MappingProxyType({"highest": Highest(), "Student's t, 5 %": StudentT(alpha=0.05)})
FEWEST = 4  # good test images: two in either half
HALVES = 40  # random halves of the good test images


def best(good: Values, defective: Values) -> tuple[float, float]:
    """Best balanced accuracy of any threshold for scores (n,) and (m,), and the highest threshold that reaches it."""
    cuts = np.concatenate(([-np.inf], np.sort(np.concatenate((good, defective)))))
    reached = np.array([balanced(cut, good, defective) for cut in cuts])
    place = len(cuts) - 1 - int(reached[::-1].argmax())
    return float(reached[place]), float(cuts[place])


def balanced(threshold: float, good: Values, defective: Values) -> float:
    """Balanced accuracy of a threshold for scores (n,) and (m,)."""
    return float(((defective > threshold).mean() + (good <= threshold).mean()) / 2)


def own_quantile(good: Values, defective: Values, rate: float) -> float:
    """Distance to the best of the threshold above which exactly this share of the good test images lies.

    What a rule loses that promises one rate everywhere and knows the good test parts' distribution: no rule on normals
    knows more, since which rate is best depends on how far defects and good parts overlap.
    """
    above = int(np.floor(rate * len(good) + 1e-9))
    threshold = float(np.sort(good)[len(good) - 1 - above])
    return best(good, defective)[0] - balanced(threshold, good, defective)


def half(rule: Rule, good: Values, defective: Values, halves: int = HALVES, seed: int = 0) -> tuple[float, float]:
    """Mean distance to the best and mean share of false alarms of a rule fitted on half of the good test images.

    Test and calibration are then drawn alike, by construction; the other half and the defects judge.
    """
    draw, found = np.random.default_rng(seed), []
    for _ in range(halves):
        order = draw.permutation(len(good))
        known, others = good[order[: len(good) // 2]], good[order[len(good) // 2 :]]
        threshold = rule.place(known)
        missing = best(others, defective)[0] - balanced(threshold, others, defective)
        found.append((missing, float((others > threshold).mean())))
    gap, alarms = np.mean(found, axis=0)
    return float(gap), float(alarms)


def show(rows: Sequence[Row], rules: Mapping[str, Rule] = RULES) -> None:
    """Print, for each experiment, where distances are lost and what could be reached.

    Args:
        rows: Of one result file.
        rules: Of which the first says whether the threshold lies too high or too low.
    """
    console = Console(width=200, highlight=False)
    for name in dict.fromkeys(row["experiment"] for row in rows):
        own = [
            row for row in rows if row["experiment"] == name and row["scores"]["good"] and row["scores"]["defective"]
        ]
        if own:
            console.print(_lost(name, own, next(iter(rules.items()))))
            console.print(_reachable(name, own, rules))


def _scores(row: Row) -> tuple[Values, Values, Values]:
    normals, good, defective = (np.asarray(row["scores"][kind]) for kind in ("normals", "good", "defective"))
    return normals, good, defective


def _lost(name: str, rows: Sequence[Row], chosen: tuple[str, Rule]) -> Table:
    """A line a row: the threshold beside the best one, and good test images beside the held-out normals."""
    label, rule = chosen
    table = _table(f"{name}: where {label} lies", "category")
    for column in ("seed", "normals", "best", "its false alarms", "reached", "lies", "shift", "p", "spread, good test"):
        table.add_column(column, justify="right")
    for row in rows:
        normals, good, defective = _scores(row)
        (top, cut), threshold = best(good, defective), rule.place(normals)
        reached = balanced(threshold, good, defective)
        side = "right" if top - reached < 1e-9 else "too low" if threshold < cut else "too high"
        shift, spread, p_value = _alike(normals, good)
        table.add_row(
            row["category"], str(row["seed"]), str(len(normals)), f"{top:.3f}", f"{(good > cut).mean():.0%}",
            f"{reached:.3f}", side, f"{shift:+.2f}", f"{p_value:.3f}", spread,
        )  # fmt: skip
    return table


def _alike(normals: Values, good: Values) -> tuple[float, str, float]:
    """Difference of the means of logarithms, their deviations, and the p-value of Mann and Whitney's test."""
    before, after = np.log(normals), np.log(good)
    p_value = float(stats.mannwhitneyu(good, normals).pvalue)
    return float(after.mean() - before.mean()), f"{before.std(ddof=1):.2f}, {after.std(ddof=1):.2f}", p_value


def _reachable(name: str, rows: Sequence[Row], rules: Mapping[str, Rule]) -> Table:
    """Distances to the best with knowledge of the good test images that no rule on normals has."""
    table = _table(f"{name}: distance to the best with the good test images known", "calibrated on")
    for column in ("mean", "false alarms", *(f"{row['category']}, {row['seed']}" for row in rows)):
        table.add_column(column, justify="right")
    for rate in RATES:
        missing = [own_quantile(good, defective, rate) for _, good, defective in map(_scores, rows)]
        table.add_row(f"all of them: {rate:.0%}", *_means(missing, [rate]))
    for label, rule in rules.items():
        gaps, alarms = zip(*(half(rule, good, defective) for _, good, defective in map(_scores, rows)), strict=True)
        table.add_row(f"half of them: {label}", *_means(gaps, alarms))
    return table


def _means(gaps: Sequence[float], alarms: Sequence[float]) -> tuple[str, ...]:
    return f"{np.mean(gaps):.3f}", f"{np.mean(alarms):.0%}", *(f"{gap:.3f}" for gap in gaps)


def _table(title: str, first: str) -> Table:
    table = Table(title=title, title_justify="left", box=box.MARKDOWN)
    table.add_column(first)
    return table
