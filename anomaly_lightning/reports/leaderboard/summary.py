"""Runs gathered: seeds of one run as mean and standard deviation, and a mean over the categories for each method."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import TypeVar

from anomaly_lightning.reports.leaderboard.rows import METRICS, Row

Method = tuple[str, str, tuple[str, ...]]
Item = TypeVar("Item")


@dataclass(frozen=True)
class Summary:
    """Several runs in one row.

    Attributes:
        names: category ("" over all), model and backbone.
        settings: The overrides that make this method another than the others.
        runs: Seeds, or categories, that the means are taken over.
        failed: Runs, or categories, that failed and are not in them.
        means: Means by the names in `METRICS`; None where no run has the metric.
        deviations: Sample standard deviations over seeds; None for fewer than two. Empty over categories.
    """

    names: dict[str, str]
    settings: tuple[str, ...]
    runs: int
    failed: int
    means: dict[str, float | None]
    deviations: dict[str, float | None]

    @property
    def method(self) -> Method:
        """What was done, whatever the category."""
        return self.names["model"], self.names["backbone"], self.settings


@dataclass(frozen=True)
class Leaderboard:
    """What a leaderboard shows.

    Attributes:
        rows: One a run.
        by_category: One a category and method, over its seeds.
        by_method: One a method, over its categories, each of which weighs the same.
    """

    rows: Sequence[Row]
    by_category: Sequence[Summary]
    by_method: Sequence[Summary]

    @property
    def of_seeds(self) -> list[Summary]:
        """The categories and methods that were run with several seeds."""
        return [summary for summary in self.by_category if summary.runs > 1]

    @property
    def several_categories(self) -> bool:
        """Whether there is something to take a mean over categories of."""
        return len({summary.names["category"] for summary in self.by_category}) > 1


def method_of(row: Row) -> Method:
    """What was done in a run, whatever the category and the seed."""
    return row.names["model"], row.names["backbone"], row.settings


def summarise(rows: Sequence[Row]) -> Leaderboard:
    """Gather rows over seeds, then over categories; groups come in the order of their first run."""
    by_category = [_over_seeds(group) for group in _groups(rows, lambda row: (row.names["category"], method_of(row)))]
    by_method = [_over_categories(group) for group in _groups(by_category, lambda one: one.method)]
    return Leaderboard(rows, by_category, [summary for summary in by_method if summary.runs])


def _groups(items: Iterable[Item], key: Callable[[Item], object]) -> list[list[Item]]:
    groups: dict[object, list[Item]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return list(groups.values())


def _over_seeds(rows: Sequence[Row]) -> Summary:
    finished = [row.metrics for row in rows if not row.error]
    names = {name: rows[0].names[name] for name in ("category", "model", "backbone")}
    values = {name: [value for one in finished if (value := one.get(name)) is not None] for name in METRICS}
    means = {name: fmean(of) if of else None for name, of in values.items()}
    deviations = {name: stdev(of) if len(of) > 1 else None for name, of in values.items()}
    return Summary(names, rows[0].settings, len(finished), len(rows) - len(finished), means, deviations)


def _over_categories(summaries: Sequence[Summary]) -> Summary:
    finished = [one for one in summaries if one.runs]
    means = {}
    for name in METRICS:
        values = [value for one in finished if (value := one.means[name]) is not None]
        means[name] = fmean(values) if values else None
    names = {**summaries[0].names, "category": ""}
    return Summary(names, summaries[0].settings, len(finished), len(summaries) - len(finished), means, {})
