"""Everything that the page shows, as one plain dict: from results, metrics.json, run.json and the loss history."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from anomaly_lightning.reports.axis import score_axis
from anomaly_lightning.reports.page import plots, tables, words
from anomaly_lightning.reports.page.gallery import MOST_IMAGES, OPACITY_POWER, drawn_images
from anomaly_lightning.reports.page.losses import loss_curves
from anomaly_lightning.reports.results import Results
from anomaly_lightning.reports.templating import write_page
from anomaly_lightning.runtime.decision import MARGIN
from anomaly_lightning.runtime.heatmap import TURBO
from anomaly_lightning.runtime.promise import promise

REPORT_FILE = "report.html"
HISTORY = Path("history") / "metrics.csv"
_STRIP = 4  # images in each strip of the most anomalous


def write_report(folder: Path, results: Results | None, metrics: Mapping[str, Any], run: Mapping[str, Any]) -> Path:
    """Write <folder>/report.html, whole or not at all; returns its path.

    Args:
        folder: The run's.
        results: Of the test set; None when nothing was tested.
        metrics: Content of metrics.json.
        run: Content of run.json; of an evaluation without one, {"resolved": {name: text}}.
    """
    return write_page(folder / REPORT_FILE, page_data(folder, results, metrics, run))


def page_data(
    folder: Path, results: Results | None, metrics: Mapping[str, Any], run: Mapping[str, Any]
) -> dict[str, Any]:
    """What the template fills in.

    Args:
        folder: The run's; its loss history is read.
        results: Of the test set; None when nothing was tested.
        metrics: Content of metrics.json.
        run: Content of run.json; of an evaluation without one, what was resolved.

    Returns:
        Words, tables and SVG paths; "script" is what the page's own script works on (None without results).
    """
    notes = metrics["notes"]
    tested = results is not None and len(results.samples) > 0
    return {
        "title": f"{metrics['category']}: {metrics['model']} on {metrics['backbone']}",
        "metrics": metrics,
        "promises": metrics.get("promises") or [],  # earlier runs have none
        "words": {
            "promise": promise(metrics["threshold"]),
            "found": words.found(metrics["image"], notes),
            "test_alarms": words.alarms_met(metrics["image"]),
            "rests_on": words.rests_on(metrics, run),
            "made": words.threshold_made(metrics["threshold"]),
            "cautions": words.cautions(metrics, run),
        },
        "facts": tables.facts(metrics, run),
        "image_rows": tables.metric_rows(metrics["image"], words.IMAGE, "image", notes),
        "pixel_rows": tables.metric_rows(metrics["pixel"], words.PIXEL, "pixel", notes),
        "defect_rows": tables.defect_rows(metrics),
        "defect_titles": list(words.DEFECT.values()),
        "losses": loss_curves(folder / HISTORY),
        "colours": _colours(),
        **(_tested(results, metrics) if tested and results is not None else _untested(notes)),
    }


def _untested(notes: Mapping[str, str]) -> dict[str, Any]:
    why = words.reason(notes, "image")
    return {"script": None, "histogram": None, "curves": None, "strips": [], "why_untested": why}


def _tested(results: Results, metrics: Mapping[str, Any]) -> dict[str, Any]:
    threshold = results.threshold if math.isfinite(results.threshold) else None
    scores = [float(score) for score in results.scores]
    axis = score_axis(scores, threshold)
    images = drawn_images(results, ["/".join(sample.path.parts[-2:]) for sample in results.samples])
    masks = (metrics["pixel"] or {}).get("aupro") is not None
    return {
        "script": {
            "threshold": threshold,
            "margin": MARGIN,
            "f1_interval": metrics["image"]["ci95"].get("f1"),
            "start": plots.median_score(results) if threshold is None else threshold,
            "axis": axis,
            "images": images,
            "defects": sorted({image["defect"] for image in images}),
        },
        "histogram": plots.histogram(results, axis),
        "curves": plots.score_curves(results, masks, int(metrics.get("seed") or 0)),
        "strips": _strips(images),
        "left_out": max(0, len(images) - MOST_IMAGES),
        "why_untested": "",
    }


def _strips(images: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The good parts and the defects that are the hardest to tell apart, by place among the images."""
    places = range(len(images))
    good = sorted((i for i in places if not images[i]["bad"]), key=lambda i: -images[i]["score"])
    bad = sorted((i for i in places if images[i]["bad"]), key=lambda i: images[i]["score"])
    strips = [("Good parts with the highest scores", good[:_STRIP]), ("Defects with the lowest scores", bad[:_STRIP])]
    return [{"title": title, "places": chosen} for title, chosen in strips if chosen]


def _colours() -> str:
    """CSS gradient of the heatmap's scale, from no error to twice the pixel threshold and more."""
    stops = []
    for i in range(17):
        red, green, blue = TURBO[min(16 * i, 255)]
        stops.append(f"rgb({red} {green} {blue} / {min(1.0, i / 8) ** OPACITY_POWER:.2f})")
    return f"linear-gradient(to right, {', '.join(stops)})"
