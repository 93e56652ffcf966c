"""What a run has to say of its data: on the console before it trains, and in its files for good."""

import logging
from collections.abc import Sequence
from typing import Any

from anomaly_lightning.data.datamodule import MVNetDataModule
from anomaly_lightning.data.duplicates import leaks
from anomaly_lightning.data.sources import Resolved

logger = logging.getLogger(__name__)

SHOWN = 10  # findings of a kind on the console and in metrics.json


class Intake:
    """Findings about the data of a run. They stop nothing, but who reads the metrics has to know of them.

    Args:
        resolved: Where the images come from.
        source: Their splits, the masks checked.
        trained: Whether the model was, or will be, trained on these splits, so that equal test images are leaks.

    Attributes:
        findings: In words, by what they are about.
    """

    def __init__(self, resolved: Resolved, source: MVNetDataModule, trained: bool = True) -> None:
        self._left_out, self._source = resolved.left_out, source
        self.findings: dict[str, list[str]] = {
            "left_out": [group.words() for group in resolved.left_out],
            "mask": [] if source.mask_check is None else source.mask_check.lines(),
            "tile": [f"{path} shows a defect but has no mask: it is not tested on" for path in source.untested],
            "leak": _leaks(source) if trained else [],
        }

    def warn(self) -> None:
        """Say it on the console, of many findings of a kind the first."""
        for name, found in self.findings.items():
            for line in found[:SHOWN]:
                logger.warning("%s: %s", name, line)
            if len(found) > SHOWN:
                more = len(found) - SHOWN
                logger.warning("%s: and %d more; python -m anomaly_lightning.audit lists all", name, more)

    def notes(self) -> dict[str, str]:
        """For "notes" of metrics.json, which the report shows, too: what there is to say, by what it is about."""
        check = self._source.mask_check
        masks = {} if check is None else check.unreadable  # which `findings` has already
        skipped = [
            f"{path} can't be read ({why}) and is left out"
            for path, why in self._source.skipped.items()
            if path not in masks
        ]
        found = self.findings | {"skipped": skipped}
        return {name: _joined(lines) for name, lines in found.items() if lines}

    def content(self) -> dict[str, Any]:
        """For run.json: all findings, and the first files of those that are left out."""
        findings = {name: found for name, found in self.findings.items() if found and name != "left_out"}
        return {"left_out": [group.plain() for group in self._left_out], "findings": findings}


def _leaks(source: MVNetDataModule) -> list[str]:
    """Test images that are trained on, too: the metrics would be too good."""
    training, testing = ((s.path for s in samples) for samples in (source.splits.normals, source.splits.test))
    found = leaks(training, testing, source.content_hash)
    return [f"{ours} is the same image as {theirs}, which is tested on" for ours, theirs in found]


def _joined(lines: Sequence[str]) -> str:
    more = [f"and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
    return "; ".join([*lines[:SHOWN], *more])
