"""The curve over `data.shots`: how a method does with 1, 2, 4 ... training normals, over categories and seeds."""

from dataclasses import dataclass
from typing import Any

from anomaly_lightning.reports.leaderboard.summary import Leaderboard, Method, Summary

OPTION = "data.shots="
METRIC = "auroc"
TOP, WIDE = 40.0, 100.0  # the plot's box: height and width


@dataclass(frozen=True)
class Curve:
    """Image AUROC of one category and method by the number of training normals.

    Attributes:
        category: Whose images.
        method: What was done, but for the shots.
        points: Ascending by shots: (shots, seeds, mean, sample standard deviation over seeds or None).
    """

    category: str
    method: Method
    points: tuple[tuple[int, int, float, float | None], ...]


def shot_curves(board: Leaderboard) -> list[Curve]:
    """Curves of the categories and methods that were run with at least two numbers of shots."""
    groups: dict[tuple[str, Method], list[tuple[int, int, float, float | None]]] = {}
    for summary in board.by_category:
        shots, mean = _shots(summary), summary.means[METRIC]
        if shots is None or mean is None:
            continue
        rest = tuple(text for text in summary.settings if not text.startswith(OPTION))
        key = summary.names["category"], (summary.names["model"], summary.names["backbone"], rest)
        groups.setdefault(key, []).append((shots, summary.runs, mean, summary.deviations[METRIC]))
    return [Curve(*key, tuple(sorted(points))) for key, points in groups.items() if len(points) > 1]


def _shots(summary: Summary) -> int | None:
    """Training normals that a summary's runs were given; None where that is no part of what makes them differ."""
    given = [text.removeprefix(OPTION) for text in summary.settings if text.startswith(OPTION)]
    return int(given[0]) if given and given[0].isdecimal() else None


def plotted(curve: Curve) -> dict[str, Any]:
    """A curve as SVG places in a box of 100 x 40: shots evenly along it, AUROC upwards from the lowest bar to 1."""
    lows = [mean - (deviation or 0) for _, _, mean, deviation in curve.points]
    floor = min(0.9, int(max(min(lows), 0) * 10) / 10)
    step = WIDE / len(curve.points)

    def height(value: float) -> float:
        return round(TOP * (1 - (min(max(value, floor), 1) - floor) / (1 - floor)), 2)

    dots = [
        {
            "x": round(step * (place + 0.5), 2),
            "y": height(mean),
            "high": height(mean + (deviation or 0)),
            "low": height(mean - (deviation or 0)),
            "shots": shots,
            "text": f"{mean:.3f}" + ("" if deviation is None else f" ± {deviation:.3f}"),
            "seeds": seeds,
        }
        for place, (shots, seeds, mean, deviation) in enumerate(curve.points)
    ]
    return {"floor": f"{floor:.1f}", "line": " ".join(f"{dot['x']},{dot['y']}" for dot in dots), "dots": dots}
