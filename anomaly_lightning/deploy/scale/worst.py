"""A table of rows in short: where its scores lie, and the images with the largest ones; two passes, flat in memory."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from anomaly_lightning.deploy.scale.place import Place
from anomaly_lightning.deploy.scale.summary import tables
from anomaly_lightning.reports.axis import BINS, on_axis, score_axis

SHOWN = ("path", "content_hash", "score", "threshold", "verdict", "heatmap")


def worst(rows: Place, model_id: str, most: int) -> list[dict[str, Any]]:
    """Rows with the largest scores, the largest first; of INVALID images a score means nothing."""
    found: pa.Table | None = None
    for table in _counting(tables(rows, SHOWN, model_id)):
        joined = table if found is None else pa.concat_tables([found, table])
        found = joined.sort_by([("score", "descending"), ("path", "ascending")]).slice(0, most).combine_chunks()
    values: list[dict[str, Any]] = [] if found is None else found.to_pylist()
    return values


def histogram(rows: Place, model_id: str) -> dict[str, Any] | None:
    """Bars of all scores that count: x, width and height in per cent of the plot, heights logarithmic.

    Returns:
        None where there is no score.
    """
    low, high, threshold = np.inf, -np.inf, None
    for table in _counting(tables(rows, ("score", "threshold", "verdict"), model_id)):
        found = _scores(table)
        if len(found):
            low, high, threshold = min(low, found.min()), max(high, found.max()), table["threshold"][0].as_py()
    if threshold is None:
        return None
    axis = score_axis([float(low), float(high)], threshold)
    counts, edges = np.zeros(BINS, np.int64), np.linspace(0, 1, BINS + 1)
    for table in _counting(tables(rows, ("score", "verdict"), model_id)):
        counts += np.histogram(on_axis(axis, _scores(table)), edges)[0]
    place = float(on_axis(axis, np.array([threshold]))[0])
    return {**_bars(counts, place), "axis": axis, "threshold": threshold, "place": round(100 * place, 2)}


def _bars(counts: NDArray[np.int64], place: float) -> Mapping[str, Any]:
    """Bars of counts (n,); those beyond the threshold, at `place` of the axis, are called bad."""
    heights = np.log1p(counts) / np.log1p(counts.max())
    bars = [
        {
            "x": round(100 * at / len(counts), 3),
            "height": round(100 * float(height), 2),
            "count": int(count),
            "bad": (at + 0.5) / len(counts) > place,
        }
        for at, (height, count) in enumerate(zip(heights, counts, strict=True))
        if count
    ]
    return {"bars": bars, "width": round(100 / len(counts), 3), "most": int(counts.max())}


def _counting(found: Iterable[pa.Table]) -> Iterable[pa.Table]:
    """Rows whose score says something."""
    for table in found:
        says = pc.and_(pc.is_valid(table["score"]), pc.not_equal(table["verdict"], "INVALID"))
        if (kept := table.filter(pc.fill_null(says, False))).num_rows:
            yield kept


def _scores(table: pa.Table) -> NDArray[np.float64]:
    values: NDArray[np.float64] = table["score"].to_numpy()
    return values[np.isfinite(values)]
