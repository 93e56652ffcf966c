"""Renders the page: one file, with style, script and images inside, that asks nothing of any network."""

import json
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from markupsafe import Markup

from anomaly_lightning.reports.page.content import page_data
from anomaly_lightning.reports.results import Results
from anomaly_lightning.reports.templating import templates

REPORT_FILE = "report.html"


def write_report(folder: Path, results: Results | None, metrics: Mapping[str, Any], run: Mapping[str, Any]) -> Path:
    """Write <folder>/report.html, whole or not at all; returns its path.

    Args:
        folder: The run's.
        results: Of the test set; None when nothing was tested.
        metrics: Content of metrics.json.
        run: Content of run.json; of an evaluation without one, {"resolved": {name: text}}.
    """
    path = folder / REPORT_FILE
    partial = path.with_suffix(".part")
    # A file name may hold bytes that are no text: they are shown as question marks.
    partial.write_text(render(page_data(folder, results, metrics, run)), encoding="utf-8", errors="replace")
    partial.replace(path)
    return path


def render(data: Mapping[str, Any]) -> str:
    """HTML of the page for what `page_data` gives."""
    package = resources.files("anomaly_lightning.reports.page")
    environment = templates("anomaly_lightning.reports.page")
    files = {name: Markup((package / "static" / f"report.{name}").read_text("utf-8")) for name in ("css", "js")}
    return environment.get_template("report.html.j2").render(**data, **files, json=script_json(data["script"]))


def script_json(value: Any) -> Markup:
    """JSON that is safe inside a script element: no `<` can end it, and no byte is outside ASCII."""
    return Markup(json.dumps(value, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c"))
