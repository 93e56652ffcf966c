"""audit.html: findings and ranked normals with their pictures, in one file that asks nothing of any network."""

import base64
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from anomaly_lightning.audit.findings import KINDS, Finding
from anomaly_lightning.data.images import PictureError, read_picture
from anomaly_lightning.heatmap import overlay
from anomaly_lightning.pages import templates
from anomaly_lightning.scoring import anomaly_map

if TYPE_CHECKING:
    from anomaly_lightning.audit.session import Audit

SIDE = 192  # long side of a thumbnail in pixels
SHOWN = 40  # findings of one kind with pictures; audit.json has them all
SCALE_SIDE = 256  # maps are drawn at this size before the picture's own


def write_page(path: Path, audit: "Audit") -> None:
    """Write the page, whole or not at all."""
    environment = templates("anomaly_lightning.audit")
    kinds = [(kind, words, [f for f in audit.findings if f.kind == kind]) for kind, words in KINDS.items()]
    text = environment.get_template("audit.html.j2").render(
        category=str(audit.cfg.category.name),
        where=audit.resolved.where,
        counts=audit.counts(),
        notes=audit.notes,
        serious=len(audit.serious()),
        exclude=[str(path) for path in audit.exclude()],
        kinds=[
            {"kind": kind, "words": words, "count": len(found), "findings": [_shown(f) for f in found[:SHOWN]]}
            for kind, words, found in kinds
            if found and kind != "looks_anomalous"
        ],
        ranked=_ranked(audit),
    )
    partial = path.with_suffix(".part")
    # A file name may hold bytes that are no text: they are shown as question marks.
    partial.write_text(text, encoding="utf-8", errors="replace")
    partial.replace(path)


def _shown(finding: Finding) -> dict[str, Any]:
    return {"words": finding.words, "pictures": [(str(path), _thumbnail(path)) for path in finding.paths[:4]]}


def _ranked(audit: "Audit") -> list[dict[str, Any]]:
    """The strangest normals, each with its picture and its heatmap."""
    if audit.oddities is None:
        return []
    maps = anomaly_map(audit.oddities.error_maps, (SCALE_SIDE, SCALE_SIDE), sigma=0)
    # One scale for all: what the usual half of the normals hardly ever reaches lies in its middle.
    middle = float(torch.quantile(maps[len(maps) // 2 :, ::4, ::4].flatten()[:4_000_000], 0.999))
    rows = audit.oddities_rows()[: audit.cfg.shown]
    return [
        {**row, "picture": _thumbnail(Path(row["path"])), "heat": _heat(Path(row["path"]), maps[i], middle)}
        for i, row in enumerate(rows)
    ]


def _small(path: Path) -> Image.Image | None:
    try:
        picture = read_picture(path)
    except PictureError:
        return None
    picture.thumbnail((SIDE, SIDE))
    return picture


def _thumbnail(path: Path) -> str | None:
    """Data URL of a small picture, None where it can't be read."""
    picture = _small(path)
    return None if picture is None else _url(picture)


def _heat(path: Path, seen: torch.Tensor, middle: float) -> str | None:
    """Data URL of a small picture with its map (h, w) on it."""
    picture = _small(path)
    if picture is None:
        return None
    size = (picture.height, picture.width)
    resized = torch.nn.functional.interpolate(seen[None, None], size=size, mode="bilinear")[0, 0]
    return _url(Image.fromarray(np.asarray(overlay(picture, resized, middle))))


def _url(picture: Image.Image) -> str:
    stream = io.BytesIO()
    picture.save(stream, "WEBP", quality=70)
    return f"data:image/webp;base64,{base64.b64encode(stream.getvalue()).decode()}"
