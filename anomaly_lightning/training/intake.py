"""What a run says of its data before it trains, and what stays of it in its files."""

import logging
from collections.abc import Sequence
from typing import Any

from anomaly_lightning.data.datamodule import MVNetDataModule
from anomaly_lightning.data.duplicates import leaks
from anomaly_lightning.data.sources import Resolved

logger = logging.getLogger(__name__)

SHOWN = 10


def warn_of_intake(resolved: Resolved, source: MVNetDataModule) -> None:
    """Say once what was left out, and which masks are odd or don't fit."""
    for group in resolved.left_out:
        logger.warning("left out: %s", group.words())
    found = source.mask_check
    if found is None:
        return
    gone = [f"{mask} {why}; it is left out of the pixel metrics" for mask, why in found.unfit.items()]
    gone += [f"{mask} can't be read ({why}); it counts as no mask" for mask, why in found.unreadable.items()]
    _warn("mask", gone + found.remarks)


def warn_of_leaks(source: MVNetDataModule, tested: bool) -> None:
    """Say before training which test images are trained on, too: the metrics would be too good."""
    training = [sample.path for sample in source.splits.normals]
    testing = [sample.path for sample in source.splits.test] if tested else []
    found = leaks(training, testing, source.content_hash)
    _warn("leak", [f"{ours} is the same image as {theirs}, which is tested on" for ours, theirs in found])


def with_mask_note(found: dict[str, Any], source: MVNetDataModule) -> dict[str, Any]:
    """Blocks of metrics.json with a note on the masks that count for nothing, where there are some."""
    note = None if source.mask_check is None else source.mask_check.note()
    return found if note is None else {**found, "notes": {**found["notes"], "masks": note}}


def _warn(kind: str, findings: Sequence[str]) -> None:
    for finding in findings[:SHOWN]:
        logger.warning("%s: %s", kind, finding)
    if len(findings) > SHOWN:
        more = len(findings) - SHOWN
        logger.warning("%s: and %d more of this kind; python -m anomaly_lightning.audit lists all", kind, more)
