"""What a promised rate came to on images that had no say in it: its interval, and whether the promise held."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from scipy.special import betaincinv

Held = Literal["held", "broken", "too few"]
CONFIDENCE = 0.95
MOST = 100_000  # images that anybody would collect; what needs more can't be told in practice


@dataclass(frozen=True)
class Promised:
    """A rate that was promised, and how sure it was.

    Attributes:
        rate: Expected, or asked for.
        upper: Its upper bound at 95 % confidence, which a calibration on finitely many normals has to leave open.
    """

    rate: float
    upper: float


@dataclass(frozen=True)
class Realised:
    """What became of a promised rate.

    Attributes:
        count: How often it happened.
        total: Of how many; at least 1.
        promised: What was promised.
        low: Lower end of the 95 % interval of the rate (Clopper & Pearson 1934), two-sided.
        high: Its upper end.
        verdict: "broken" where the whole interval lies above the promised bound, "held" where it lies below it, else
            "too few": these images leave both open.
        more: Images that would tell, were the rate to stay as it is, beyond those at hand; 0 where it is told, None
            where more than 100,000 would be needed.
    """

    count: int
    total: int
    promised: Promised
    low: float
    high: float
    verdict: Held
    more: int | None

    @property
    def rate(self) -> float:
        """Share of the images."""
        return self.count / self.total

    def plain(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "count": self.count,
            "total": self.total,
            "rate": self.rate,
            "ci95": [self.low, self.high],
            "promised": self.promised.rate,
            "promised_upper": self.promised.upper,
            "verdict": self.verdict,
            "more_images": self.more,
        }


def interval(count: int, total: int) -> tuple[float, float]:
    """Two-sided 95 % interval of a rate, `count` of `total` (Clopper & Pearson 1934); (0, 1) of nothing."""
    if total == 0:
        return 0.0, 1.0
    tail = (1 - CONFIDENCE) / 2
    low = 0.0 if count == 0 else float(betaincinv(count, total - count + 1, tail))
    high = 1.0 if count == total else float(betaincinv(count + 1, total - count, 1 - tail))
    return low, high


def promised_alarms(threshold: Mapping[str, Any]) -> Promised | None:
    """The false-alarm rate that a threshold promises; None where its normals were too few to promise one.

    Args:
        threshold: The promise in a card's thresholds, or the block "threshold" of metrics.json.
    """
    asked = (threshold.get("parameters") or {}).get("alpha")
    rate = threshold.get("false_alarm_rate") if asked is None else asked
    if rate is None:
        return None
    return Promised(float(rate), max(float(rate), float(threshold["false_alarm_upper"])))


def realised(count: int, total: int, promised: Promised) -> Realised:
    """Hold a promised rate against what happened.

    The bound is what was promised with confidence, so images drawn like those behind the promise break it in at most
    about one set of twenty, and mostly in far fewer.

    Args:
        count: How often it happened.
        total: Of how many images, at least 1.
        promised: The rate and its bound.
    """
    low, high = interval(count, total)
    verdict = _verdict(low, high, promised.upper)
    more = 0 if verdict != "too few" else _more(count, total, promised.upper)
    return Realised(count, total, promised, low, high, verdict, more)


def _verdict(low: float, high: float, bound: float) -> Held:
    return "broken" if low > bound else "held" if high <= bound else "too few"


def _more(count: int, total: int, bound: float) -> int | None:
    """Further images that would tell, at the rate met so far; see `Realised.more`."""

    def tells(images: int) -> bool:
        return _verdict(*interval(math.floor(images * count / total), images), bound) != "too few"

    most = total
    while not tells(most):
        most *= 2
        if most > MOST:
            return None
    least = most // 2
    while most - least > 1:  # not strictly monotonic, as counts are whole numbers: to within one of them
        middle = (least + most) // 2
        least, most = (least, middle) if tells(middle) else (middle, most)
    return most - total


def in_words(found: Realised, what: str, images: str, rests: str = "") -> str:
    """The plain verdict.

    Args:
        found: Of a promised rate.
        what: What was promised, "false alarms" say.
        images: What it was tried on, "good images" say.
        rests: What the promise rests on, ", resting on ..." say.
    """
    met = f"{found.rate:.1%} ({found.count} of {found.total} {images}, 95 % {found.low:.1%} to {found.high:.1%})"
    said = (
        f"{found.promised.rate:.1%} {what} promised{rests} (95 %: at most {found.promised.upper:.1%}), {met} realised"
    )
    if found.verdict == "held":
        return f"Promise held: {said}."
    if found.verdict == "broken":
        return f"Promise broken: {said}. These images differ from those that the threshold was fitted on."
    if found.more is None:
        return f"Too close to tell: {said}; it lies so near the bound that more images would hardly settle it."
    return f"Too few images to tell: {said}; about {found.more} more would tell."
