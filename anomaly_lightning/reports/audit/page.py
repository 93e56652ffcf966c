"""audit.html: findings and ranked normals with their images, in one file that asks nothing of any network."""

import base64
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image

from anomaly_lightning.reports.audit.findings import KINDS, Finding
from anomaly_lightning.reports.templating import templates
from anomaly_lightning.runtime.heatmap import overlay
from anomaly_lightning.runtime.reading import ImageError, read_image
from anomaly_lightning.scoring import anomaly_map

if TYPE_CHECKING:
    from anomaly_lightning.reports.audit.run import Audit

SIDE = 192  # long side of a thumbnail in pixels
SHOWN = 40  # findings of one kind with images; audit.json has them all
SCALE_SIDE = 256  # maps are drawn at this size before the image's own


def write_page(path: Path, audit: "Audit") -> None:
    """Write the page, whole or not at all."""
    environment = templates("anomaly_lightning.reports.audit")
    kinds = [(kind, words, [f for f in audit.findings if f.kind == kind]) for kind, words in KINDS.items()]
    text = environment.get_template("audit.html.j2").render(
        category=str(audit.cfg.category.name),
        where=audit.resolved.where,
        counts=audit.counts(),
        notes=audit.notes,
        serious=len(audit.serious()),
        exclude=[str(path) for path in audit.exclude()],
        kinds=[
            {
                "kind": kind,
                "words": words,
                "count": len(found),
                "findings": [_shown(f, audit.white) for f in found[:SHOWN]],
            }
            for kind, words, found in kinds
            if found and kind != "looks_anomalous"
        ],
        ranked=_ranked(audit),
    )
    partial = path.with_suffix(".part")
    # A file name may hold bytes that are no text: they are shown as question marks.
    partial.write_text(text, encoding="utf-8", errors="replace")
    partial.replace(path)


def _shown(finding: Finding, white: int | None) -> dict[str, Any]:
    return {"words": finding.words, "images": [(str(path), _thumbnail(path, white)) for path in finding.paths[:4]]}


def _ranked(audit: "Audit") -> list[dict[str, Any]]:
    """The most anomalous normals, each with its image and its heatmap."""
    if audit.oddities is None:
        return []
    maps = anomaly_map(audit.oddities.error_maps, (SCALE_SIDE, SCALE_SIDE), sigma=0)
    # One scale for all: what the usual half of the normals hardly ever reaches lies in its middle.
    middle = float(torch.quantile(maps[len(maps) // 2 :, ::4, ::4].flatten()[:4_000_000], 0.999))
    rows = audit.oddities_rows()[: audit.cfg.shown]
    drawn = []
    for row, seen in zip(rows, maps, strict=False):
        path, white = Path(row["path"]), audit.white
        drawn.append({**row, "image": _thumbnail(path, white), "heat": _heat(path, seen, middle, white)})
    return drawn


def _small(path: Path, white: int | None) -> Image.Image | None:
    try:
        image = read_image(path, white=white)
    except ImageError:
        return None
    image.thumbnail((SIDE, SIDE))
    return image


def _thumbnail(path: Path, white: int | None) -> str | None:
    """Data URL of a small image, None where it can't be read."""
    image = _small(path, white)
    return None if image is None else _url(image)


def _heat(path: Path, seen: torch.Tensor, middle: float, white: int | None) -> str | None:
    """Data URL of a small image with its map (h, w) on it."""
    image = _small(path, white)
    if image is None:
        return None
    size = (image.height, image.width)
    resized = torch.nn.functional.interpolate(seen[None, None], size=size, mode="bilinear")[0, 0]
    return _url(Image.fromarray(overlay(image, resized.numpy(), middle)))


def _url(image: Image.Image) -> str:
    stream = io.BytesIO()
    image.save(stream, "WEBP", quality=70)
    return f"data:image/webp;base64,{base64.b64encode(stream.getvalue()).decode()}"
