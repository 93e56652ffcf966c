"""What audit.html shows: findings and ranked normals, with their images."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from anomaly_lightning.reports.audit.findings import KINDS, Finding
from anomaly_lightning.reports.images import data_url, shrunk, webp
from anomaly_lightning.runtime.heatmap import overlay
from anomaly_lightning.runtime.reading import ImageError, read_image
from anomaly_lightning.scoring import anomaly_map

if TYPE_CHECKING:
    from anomaly_lightning.reports.audit.run import Audit

SIDE = 192  # long side of a thumbnail in pixels
SHOWN = 40  # findings of one kind with images; audit.json has them all
SCALE_SIDE = 256  # maps are drawn at this size before the image's own


def page_data(audit: "Audit") -> dict[str, Any]:
    """What the template shows."""
    by_kind = {kind: [f for f in audit.findings if f.kind == kind] for kind in KINDS if kind != "looks_anomalous"}
    return {
        "category": str(audit.cfg.category.name),
        "where": audit.resolved.where,
        "counts": audit.counts(),
        "notes": audit.notes,
        "serious": len(audit.serious()),
        "exclude": [str(path) for path in audit.exclude()],
        "kinds": [
            {"kind": kind, "words": KINDS[kind], "count": len(found), "findings": [_shown(f) for f in found[:SHOWN]]}
            for kind, found in by_kind.items()
            if found
        ],
        "ranked": _ranked(audit),
    }


def _shown(finding: Finding) -> dict[str, Any]:
    return {"words": finding.words, "images": [(str(path), _thumbnail(path)) for path in finding.paths[:4]]}


def _ranked(audit: "Audit") -> list[dict[str, Any]]:
    """The most anomalous normals, each with its image and its heatmap."""
    if audit.oddities is None:
        return []
    maps = anomaly_map(audit.oddities.error_maps, (SCALE_SIDE, SCALE_SIDE), sigma=0)
    # One scale for all: what the usual half of the normals hardly ever reaches lies in its middle.
    middle = float(torch.quantile(maps[len(maps) // 2 :, ::4, ::4].flatten()[:4_000_000], 0.999))
    rows = audit.oddities.rows[: audit.cfg.shown]
    return [
        {**row, "image": _thumbnail(Path(row["path"])), "heat": _heat(Path(row["path"]), maps[i], middle)}
        for i, row in enumerate(rows)
    ]


def _small(path: Path) -> Image.Image | None:
    try:
        return shrunk(read_image(path), SIDE)
    except ImageError:
        return None


def _thumbnail(path: Path) -> str | None:
    """Data URL of a small image, None where it can't be read."""
    image = _small(path)
    return None if image is None else data_url(webp(image))


def _heat(path: Path, seen: torch.Tensor, middle: float) -> str | None:
    """Data URL of a small image with its map (h, w) on it."""
    image = _small(path)
    if image is None:
        return None
    size = (image.height, image.width)
    resized = torch.nn.functional.interpolate(seen[None, None], size=size, mode="bilinear")[0, 0]
    return data_url(webp(Image.fromarray(np.asarray(overlay(image, resized, middle)))))
