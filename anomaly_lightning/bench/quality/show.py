"""What the quality suite found, as tables in Markdown, so that documentation can take them over."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from anomaly_lightning.bench.quality.paired import Comparison, compare

Row = Mapping[str, Any]
BY_CATEGORY = ("auroc", "pixel_aupro_256", "pixel_aupro", "balanced_accuracy", "balanced_accuracy_gap")
MEANS = (
    "auroc", "average_precision", "pg2", "recall_at_1%", "recall_at_5%", "balanced_accuracy",
    "balanced_accuracy_oracle", "balanced_accuracy_gap", "f1", "f1_oracle",
    "pixel_aupro_256", "pixel_aupro", "pixel_f1", "pixel_average_precision", "pixel_aupimo",
)  # fmt: skip
COMPARED = (
    "auroc", "pixel_aupro_256", "pixel_aupro", "pixel_f1", "average_precision", "pg2", "pixel_aupimo",
    "recall_at_1%", "recall_at_5%", "balanced_accuracy", "balanced_accuracy_gap",
)  # fmt: skip


def show(rows: Sequence[Row], before: Sequence[Row] | None = None) -> None:
    """Print the metrics of each experiment, and paired comparisons.

    Args:
        rows: Of one result file.
        before: Of another one: each experiment is compared with itself there, or with the only one that is there.
            None: the experiments of `rows` are compared with the first of them.
    """
    console = Console(width=200, highlight=False)
    experiments = by_experiment(rows)
    for metric in BY_CATEGORY:
        console.print(by_category(experiments, metric))
    console.print(means(experiments))
    others = by_experiment(rows if before is None else before)
    for name, own in experiments.items():
        reference = name if before is not None and name in others else next(iter(others), None)
        if reference is not None and (before is not None or reference != name):
            console.print(comparisons(name, own, reference, others[reference]))


def by_experiment(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows by the name of their experiment, in the order in which they came."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row["experiment"], []).append(row)
    return found


def by_category(experiments: Mapping[str, Sequence[Row]], metric: str) -> Table:
    """One metric, mean over seeds: a line a category, a column an experiment."""
    table = _table(metric, "category", experiments)
    values = {name: per_category(rows, metric) for name, rows in experiments.items()}
    for category in dict.fromkeys(category for known in values.values() for category in known):
        table.add_row(category, *(_number(known.get(category)) for known in values.values()))
    table.add_row("mean", *(_number(_mean(known.values())) for known in values.values()))
    return table


def means(experiments: Mapping[str, Sequence[Row]]) -> Table:
    """Mean over the categories that have the metric: a line a metric, a column an experiment."""
    table = _table("mean over categories", "metric", experiments)
    for metric in MEANS:
        table.add_row(metric, *(_number(_mean(per_category(rows, metric).values())) for rows in experiments.values()))
    return table


def comparisons(name: str, new: Sequence[Row], reference: str, old: Sequence[Row]) -> Table:
    """Paired differences of two experiments: a line a metric."""
    columns = ("difference", "least without one category", "most", "p (signs)", "pairs")
    table = _table(f"{name} against {reference}", "metric", columns)
    for metric in COMPARED:
        found = compare(new, old, metric)
        if found is not None:
            table.add_row(metric, *_differences(found))
    return table


def per_category(rows: Sequence[Row], metric: str) -> dict[str, float]:
    """Mean over the seeds, by category, where the metric is defined."""
    found: dict[str, list[float]] = {}
    for row in rows:
        if row["metrics"].get(metric) is not None:
            found.setdefault(row["category"], []).append(row["metrics"][metric])
    return {category: float(np.mean(values)) for category, values in found.items()}


def _differences(found: Comparison) -> tuple[str, ...]:
    ends = ("-", "-")
    if found.without:
        least, most = (pick(found.without, key=found.without.__getitem__) for pick in (min, max))
        ends = f"{found.without[least]:+.4f} ({least})", f"{found.without[most]:+.4f} ({most})"
    return f"{found.mean:+.4f}", *ends, f"{found.p_value:.3f}", str(found.pairs)


def _table(title: str, first: str, columns: Mapping[str, object] | Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", box=box.MARKDOWN)
    table.add_column(first)
    for name in columns:
        table.add_column(name, justify="right")
    return table


def _mean(values: Any) -> float | None:
    known = list(values)
    return float(np.mean(known)) if known else None


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
