"""What audit.html shows: findings and ranked normals, with their images."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image

from anomaly_lightning.detectors.parts.grid import enlarged
from anomaly_lightning.reports.audit.findings import KINDS, Finding
from anomaly_lightning.reports.images import data_url, shrunk, webp
from anomaly_lightning.runtime.heatmap import overlay
from anomaly_lightning.runtime.reading import ImageError, read_image

if TYPE_CHECKING:
    from anomaly_lightning.reports.audit.run import Audit

SIDE = 192  # long side of a thumbnail in pixels
SHOWN = 40  # findings of one kind with images; audit.json has them all
SCALE_SIDE = 256  # maps are drawn at this size before the image's own


def page_data(audit: "Audit") -> dict[str, Any]:
    """What the template shows."""
    white = audit.white
    by_kind = {kind: [f for f in audit.findings if f.kind == kind] for kind in KINDS if kind != "looks_anomalous"}
    return {
        "category": str(audit.cfg.category.name),
        "where": audit.resolved.where,
        "counts": audit.counts(),
        "notes": audit.notes,
        "serious": len(audit.serious()),
        "exclude": [str(path) for path in audit.exclude()],
        "kinds": [
            {
                "kind": kind,
                "words": KINDS[kind],
                "count": len(found),
                "findings": [_shown(f, white) for f in found[:SHOWN]],
            }
            for kind, found in by_kind.items()
            if found
        ],
        "ranked": _ranked(audit),
    }


def _shown(finding: Finding, white: int | None) -> dict[str, Any]:
    return {"words": finding.words, "images": [(str(path), _thumbnail(path, white)) for path in finding.paths[:4]]}


def _ranked(audit: "Audit") -> list[dict[str, Any]]:
    """The most anomalous normals, each with its image and its heatmap."""
    if audit.oddities is None:
        return []
    maps = enlarged(audit.oddities.error_maps[:, None], (SCALE_SIDE, SCALE_SIDE))[:, 0]
    # One scale for all: what the usual half of the normals hardly ever reaches lies in its middle.
    middle = float(torch.quantile(maps[len(maps) // 2 :, ::4, ::4].flatten()[:4_000_000], 0.999))
    rows = audit.oddities.rows[: audit.cfg.shown]
    drawn = []
    for row, seen in zip(rows, maps, strict=False):
        path, white = Path(row["path"]), audit.white
        drawn.append({**row, "image": _thumbnail(path, white), "heat": _heat(path, seen, middle, white)})
    return drawn


def _small(path: Path, white: int | None) -> Image.Image | None:
    try:
        return shrunk(read_image(path, white=white), SIDE)
    except ImageError:
        return None


def _thumbnail(path: Path, white: int | None) -> str | None:
    """Data URL of a small image, None where it can't be read."""
    image = _small(path, white)
    return None if image is None else data_url(webp(image))


def _heat(path: Path, seen: torch.Tensor, middle: float, white: int | None) -> str | None:
    """Data URL of a small image with its map (h, w) on it."""
    image = _small(path, white)
    if image is None:
        return None
    size = (image.height, image.width)
    resized = enlarged(seen[None, None], size)[0, 0]
    return data_url(webp(Image.fromarray(overlay(image, resized.numpy(), middle))))
