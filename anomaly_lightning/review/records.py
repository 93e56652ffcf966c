"""What a store of decisions holds, and how some of them are asked for."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from anomaly_lightning.errors import ReviewError
from anomaly_lightning.review.marks import MARKS, MEANING, UNMARKED, Mark, Truth
from anomaly_lightning.runtime.decision import VERDICTS, Verdict

Order = Literal["newest", "oldest", "highest", "lowest"]


@dataclass(frozen=True, kw_only=True)
class NewDecision:
    """A decision as it is recorded.

    Attributes:
        model: Name of the model that decided.
        model_id: First 16 digits of the sha256 of its file.
        bundle_version: Version of its bundle; None = it has none.
        name: Of the image, as its sender called it.
        content: Hex sha256 of the image's file, or of its pixels where it came as an array.
        score: Raw error; None = not a number, which is NG.
        threshold: Above it a score is NG.
        pixel_threshold: Above it a pixel belongs to a region.
        verdict: OK, REVIEW, NG or INVALID.
        width: Of the image, in pixels.
        height: Of the image, in pixels.
        review: Lower end of the band of REVIEW; None = no band.
        reason: Why it is INVALID.
        regions: Plain JSON values: box, area, peak and contour of each region in the image's pixels; a contour of very
            many corners is thinned.
        region_count: How many there are; more than `regions` lists where there are very many.
        image: Path of the kept image relative to the database's folder; None = not kept.
        image_bytes: Size on the disk, with what is drawn of it.
        time: When it was decided, UTC.
    """

    model: str
    model_id: str
    bundle_version: str | None = None
    name: str
    content: str
    score: float | None
    threshold: float
    pixel_threshold: float
    verdict: Verdict
    width: int
    height: int
    review: float | None = None
    reason: str | None = None
    regions: Sequence[dict[str, Any]] = ()
    region_count: int = 0
    image: str | None = None
    image_bytes: int = 0
    time: datetime = field(default_factory=lambda: datetime.now(UTC))


@dataclass(frozen=True, kw_only=True)
class Decision(NewDecision):
    """A decision as the store knows it.

    Attributes:
        id: Number within the store, never used again.
        mark: The latest mark; None = none.
        mark_id: Number of the latest entry of its history; None = there is none.
        removed: When its image was deleted because of the size limit; None = it was not.
    """

    id: int
    mark: Mark | None
    mark_id: int | None
    removed: datetime | None

    @property
    def truth(self) -> Truth | None:
        """What the latest mark says of the part; None = nothing."""
        return None if self.mark is None else MEANING.get((self.verdict, self.mark))


@dataclass(frozen=True)
class MarkedImage:
    """A kept image of which a mark says what it shows.

    Attributes:
        decision: The decision on it.
        truth: "normal" or "defect".
        path: Where the image lies, absolute.
    """

    decision: Decision
    truth: Truth
    path: Path


@dataclass(frozen=True)
class Kept:
    """What a store keeps of images.

    Attributes:
        bytes: On the disk.
        removed: Images that were deleted because of the size limit, ever.
        images: How many are kept.
    """

    bytes: int
    removed: int
    images: int


@dataclass(frozen=True, kw_only=True)
class Filter:
    """Which decisions are wanted; what is None or empty does not restrict.

    Attributes:
        verdicts: Any of them.
        marks: Any of them; "unmarked" = without a mark.
        lowest: Scores from it on.
        highest: Scores up to it.
        since: Decided at or after it.
        until: Decided before it.
        model: Name of the model.

    Raises:
        ReviewError: A verdict or mark that there is none of, or a range that is empty.
    """

    verdicts: Sequence[str] = ()
    marks: Sequence[str] = ()
    lowest: float | None = None
    highest: float | None = None
    since: datetime | None = None
    until: datetime | None = None
    model: str | None = None

    def __post_init__(self) -> None:
        for name, given, known in (("verdict", self.verdicts, VERDICTS), ("mark", self.marks, (*MARKS, UNMARKED))):
            if wrong := [one for one in given if one not in known]:
                raise ReviewError(f"{name}={wrong[0]}: expected some of {', '.join(known)}.")
        for what, low, high in (("score", self.lowest, self.highest), ("time", self.since, self.until)):
            if low is not None and high is not None and low > high:  # type: ignore[operator]
                raise ReviewError(f"The range of {what} ends before it begins: {low} to {high}.")


@dataclass(frozen=True)
class Page:
    """Some decisions in order, and where the next ones begin.

    Attributes:
        decisions: At most as many as were asked for.
        next: What to pass as `after` for those that follow; None = there are none.
    """

    decisions: tuple[Decision, ...]
    next: str | None
