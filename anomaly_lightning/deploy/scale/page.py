"""scoring.html: what came out of a large set, and its worst images with their heatmaps."""

import io
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from PIL import Image

from anomaly_lightning.deploy.scale.fetching import fetch
from anomaly_lightning.deploy.scale.model import model_id
from anomaly_lightning.deploy.scale.place import Place
from anomaly_lightning.deploy.scale.scorer import ROWS
from anomaly_lightning.deploy.scale.summary import SUMMARY, count
from anomaly_lightning.deploy.scale.worst import histogram, worst
from anomaly_lightning.errors import DataError, UserError
from anomaly_lightning.reports.images import data_url, shrunk, webp
from anomaly_lightning.reports.templating import write_page
from anomaly_lightning.runtime.decision import VERDICTS
from anomaly_lightning.runtime.inspector import Inspector
from anomaly_lightning.runtime.reading import Encoded, read_bytes

PAGE = "scoring.html"
MOST = 200  # images that are shown
SIDE = 192  # long side of a thumbnail in pixels


def write_scoring_page(folder: str) -> str:
    """Write scoring.html beside the rows, of the model that scored last; returns where it lies.

    Raises:
        UserError: There are no rows, or they are none of predict.
    """
    output = Place.at(folder)
    facts = msgspec.json.decode((output / SUMMARY).read(), type=dict[str, Any])
    known, rows = str(facts["model_id"]), output / ROWS
    counts, notes = count(rows, known), list[str]()
    if not counts.rows:
        raise UserError(f"{rows.address} holds no rows of the model {known[:12]}: run predict to its end first.")
    found = worst(rows, known, MOST)
    if not facts.get("finished"):
        notes.append("The last start was cut off: images are missing. The same command of predict goes on.")
    values = {
        "facts": facts,
        "rows": counts.rows,
        "verdicts": {verdict: counts.verdicts[verdict] for verdict in VERDICTS if counts.verdicts[verdict]},
        "errors": counts.errors.most_common(),
        "histogram": histogram(rows, known),
        "worst": list(_drawn(output, found, facts, notes)),
        "notes": notes,
    }
    with tempfile.TemporaryDirectory() as scratch:
        page = write_page(Path(scratch) / PAGE, values)
        (output / PAGE).write(page.read_bytes())
    return (output / PAGE).address


def _drawn(
    output: Place, rows: Sequence[Mapping[str, Any]], facts: Mapping[str, Any], notes: list[str]
) -> Iterator[dict[str, Any]]:
    """Rows with thumbnails: the heatmap that was written, else one that is made now; `notes` gets what is lacking."""
    lacking = any(row["heatmap"] is None for row in rows)
    inspector = _inspector(facts, notes) if lacking else None
    white = None if inspector is None else inspector.transform.white
    for row in rows:
        heat = None if row["heatmap"] is None else _opened((output / row["heatmap"]).read())
        file = fetch(row["path"])
        if file.error or file.content_hash != row["content_hash"]:
            said = file.error or "is another image by now"
            yield {**row, "image": None, "heat": _url(heat), "note": said}
            continue
        content = Encoded(file.data, row["path"])
        try:
            if heat is None and inspector is not None:
                heat = Image.fromarray(inspector(content).heatmap())
            yield {
                **row,
                "image": _url(read_bytes(content.data, content.name, white=white)),
                "heat": _url(heat),
                "note": None,
            }
        except DataError as error:
            yield {**row, "image": None, "heat": _url(heat), "note": str(error)}


def _inspector(facts: Mapping[str, Any], notes: list[str]) -> Inspector | None:
    """The model that scored, to make heatmaps with; None, and a note, where it is no longer there."""
    path, validity = Path(str(facts["checkpoint"])), bool(facts["validity"])
    try:
        if model_id(path, validity) == facts["model_id"]:
            return Inspector.load(path, validity=validity)
        notes.append(f"Heatmaps are left out: {path} is another model by now.")
    except UserError as error:
        notes.append(f"Heatmaps are left out: {error}")
    return None


def _opened(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content)).convert("RGB")


def _url(image: Image.Image | None) -> str | None:
    return None if image is None else data_url(webp(shrunk(image, SIDE)))
