"""Which promises a model makes about good parts, and what tested each of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from anomaly_lightning.calibration.realised import Promised, Realised, in_words, interval, promised_alarms, realised
from anomaly_lightning.runtime.card import ModelCard, ThresholdsCard
from anomaly_lightning.runtime.decision import exceeds, verdict
from anomaly_lightning.runtime.validity import Validity

UNTESTED = "python -m anomaly_lightning.evaluate checkpoint=... normals=<folder of good parts> tests it"


@dataclass(frozen=True)
class Tested:
    """One promise, and what became of it.

    Attributes:
        name: Which promise: "false alarms", "review", "invalid".
        what: What is counted, in words.
        promised: The rate and its bound.
        by: What it was tried on.
        found: What was counted; None = nothing tested it.
        rests: What the promise rests on, ", resting on ..." say.
    """

    name: str
    what: str
    promised: Promised
    by: str
    found: Realised | None
    rests: str = ""

    @property
    def words(self) -> str:
        """The plain verdict."""
        if self.found is None:
            return f"Not tested: {self.promised.rate:.1%} {self.what} promised{self.rests}; {UNTESTED}."
        return in_words(self.found, self.what, self.by, self.rests)

    def plain(self) -> dict[str, Any]:
        """JSON values."""
        named = {"promise": self.name, "tested_by": None if self.found is None else self.by, "words": self.words}
        return named | ({} if self.found is None else self.found.plain())


def tried(card: ModelCard, scores: Sequence[float], invalid: int | None, by: str) -> list[Tested]:
    """Every promise about good parts that a model makes, held against normals that had no say in it.

    Args:
        card: Of the model.
        scores: Of the normals, raw errors; empty = nothing tests the promises.
        invalid: How many of them were INVALID; None = that was not looked at.
        by: What they are, in words.

    Returns:
        [] where no threshold was calibrated, or no rate can be promised.
    """
    known, total = card.thresholds, len(scores)
    alarms = None if known is None else promised_alarms(known.promise)
    if known is None or alarms is None:
        return []
    above = sum(bool(exceeds(score, known.score)) for score in scores)
    counted = [("false alarms", "false alarms", alarms, above if total else None)]
    if (band := _band(known)) is not None:
        inside = sum(verdict(score, known.score, known.review) == "REVIEW" for score in scores)
        counted.append(("review", "of the good parts for review", band, inside if total else None))
    if card.validity is not None:
        rate = Validity.from_card(card.validity).false_rate
        refused = Promised(rate, interval(0, card.validity.normals)[1])
        counted.append(("invalid", "of the good parts INVALID", refused, invalid))
    rests = {"false alarms": resting_on(known.promise)}
    return [
        Tested(
            name, what, promised, by, None if count is None else realised(count, total, promised), rests.get(name, "")
        )
        for name, what, promised, count in counted
    ]


def resting_on(promise: Mapping[str, Any]) -> str:
    """What a promise of false alarms rests on, to be put behind "promised": normals and rule; "" if unknown."""
    normals, refitted = promise.get("normals"), promise.get("cross_fitted") or 0
    if normals is None:
        return ""
    more = f" and {refitted} cross-fitted training normals" if refitted else ""
    return f", resting on {normals - refitted} held-out normals{more} by the rule {promise.get('method')}"


def _band(known: ThresholdsCard) -> Promised | None:
    """The share of good parts that the review band takes, and its bound; None without a band."""
    share, normals = known.promise.get("review_share"), len(known.scores)
    if known.review is None or not isinstance(share, float) or not normals:
        return None
    return Promised(share, max(share, interval(round(share * normals), normals)[1]))
