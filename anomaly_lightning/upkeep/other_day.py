"""Whether a model's promises hold on images from another time: `evaluate ... normals=<folder>`."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from anomaly_lightning.calibration import shift_warning
from anomaly_lightning.calibration.realised import Promised, Realised, interval, promised_alarms, realised
from anomaly_lightning.errors import DataError, UserError
from anomaly_lightning.reports.tested import Tested, tried
from anomaly_lightning.runtime.card import ThresholdsCard
from anomaly_lightning.runtime.decision import exceeds
from anomaly_lightning.runtime.inspector import Inspector
from anomaly_lightning.runtime.reading import read_image
from anomaly_lightning.upkeep.images import Scored
from anomaly_lightning.upkeep.paired import auroc
from anomaly_lightning.upkeep.shifts import STEPS, Shift, shifts


@dataclass(frozen=True)
class Step:
    """One step of a light shift on the normals.

    Attributes:
        shift: What was changed; None = nothing.
        alarms: What the promise of false alarms came to.
        invalid: How many were INVALID.
    """

    shift: Shift | None
    alarms: Realised
    invalid: int

    def plain(self) -> dict[str, Any]:
        """JSON values."""
        named = {"kind": "none"} if self.shift is None else {"kind": self.shift.kind, "strength": self.shift.strength}
        return {**named, **self.alarms.plain(), "invalid": self.invalid}


def needed_promise(known: ThresholdsCard) -> Promised:
    """The rate of false alarms that a model promises; raises `UserError` where it promises none."""
    found = promised_alarms(known.promise)
    if found is None:
        raise UserError(
            "This model promises no rate of false alarms: its threshold came from too few normals. Calibrate it on "
            "more (python -m anomaly_lightning.recalibrate, or train again)."
        )
    return found


def promises(inspector: Inspector, normals: Sequence[Scored]) -> list[Tested]:
    """Every promise about good parts that a model makes, held against normals that had no say in it."""
    needed_promise(inspector.thresholds)
    invalid = sum(one.reason is not None for one in normals)
    return tried(inspector.card, [one.score for one in normals], invalid, "good images")


def misses(known: ThresholdsCard, normals: Sequence[Scored], defects: Sequence[Scored]) -> dict[str, Any] | None:
    """What is found of known defects, as JSON values; None without any."""
    if not defects:
        return None
    missed = sum(not exceeds(one.score, known.score) for one in defects)
    area = auroc([one.score for one in normals], [one.score for one in defects])
    total = len(defects)
    return {
        "missed": missed,
        "total": total,
        "rate": missed / total,
        "ci95": list(interval(missed, total)),
        "auroc": area,
    }


def drifted(known: ThresholdsCard, normals: Sequence[Scored]) -> str | None:
    """Sentence where the scores of the normals differ from those behind the threshold beyond chance."""
    if not known.scores:
        return None
    return shift_warning(known.scores, [one.score for one in normals], good_share=1.0)


def light_shifts(inspector: Inspector, paths: Sequence[Path]) -> Iterable[Step]:
    """What the promise of false alarms comes to on images as they are and at each step of each change.

    Args:
        inspector: The model.
        paths: Good parts that can be read.
    """
    yield _step(inspector, paths, None)
    for shift in shifts():
        yield _step(inspector, paths, shift)


def _step(inspector: Inspector, paths: Sequence[Path], shift: Shift | None) -> Step:
    def shown(path: Path) -> Image.Image:
        image = read_image(path, white=inspector.transform.white)
        return image if shift is None else shift(image)

    alarms = invalid = 0
    for said in inspector.stream(map(shown, paths)):
        if isinstance(said, DataError):
            raise said
        alarms += bool(exceeds(said.score, said.threshold))
        invalid += said.reason is not None
    return Step(shift, realised(alarms, len(paths), needed_promise(inspector.thresholds)), invalid)


def breaks(steps: Sequence[Step]) -> dict[str, str]:
    """In a sentence for each kind of change, from which step on the promise breaks."""
    plain = next(step for step in steps if step.shift is None)
    if plain.alarms.verdict == "broken":
        return dict.fromkeys(STEPS, "The promise is broken without any change of light.")
    of_kind = {kind: [step for step in steps if step.shift and step.shift.kind == kind] for kind in STEPS}
    return {kind: _breaks(found) for kind, found in of_kind.items()}


def _breaks(steps: Sequence[Step]) -> str:
    """The first step whose images break the promise, and whether the model calls them INVALID."""
    first = next((step for step in steps if step.alarms.verdict == "broken"), None)
    refused = next((step for step in steps if 2 * step.invalid > step.alarms.total), None)
    told = "" if refused is None or refused.shift is None else f"; from {refused.shift.words} on most are INVALID"
    if first is None or first.shift is None:
        worst = max(steps, key=lambda step: step.alarms.count)
        return f"Not broken up to {_words(steps[-1])} (at most {worst.alarms.count} of {worst.alarms.total}){told}."
    return f"Broken from {first.shift.words} on ({first.alarms.count} of {first.alarms.total}){told}."


def _words(step: Step) -> str:
    return "" if step.shift is None else step.shift.words
