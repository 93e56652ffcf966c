"""The answers of /v1/review as the OpenAPI page describes them. Tests hold every answer against these."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from anomaly_lightning.review.marks import Mark, Truth
from anomaly_lightning.serving.schema import Verdict


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Images(_Answer):
    """What is kept of images, and by which policy."""

    keep: Literal["all", "flagged", "none"]
    max_bytes: int
    full: bool = Field(description="marked images alone are above the limit, so that no further one is kept")
    bytes: int
    removed: int = Field(description="images that were deleted because of the limit, ever")
    images: int


class Count(_Answer):
    """Decisions of a verdict and mark."""

    verdict: Verdict
    mark: Mark | None
    count: int


class Summary(_Answer):
    """Whether decisions are kept, and which there are."""

    enabled: bool
    reason: str | None = Field(None, description="why none are kept")
    may_mark: bool = Field(description="whether the token that was shown may mark")
    images: Images | None = None
    counts: list[Count] | None = None


class BriefDecision(_Answer):
    """A decision in a list."""

    id: int
    time: str
    model: str
    model_id: str
    name: str
    verdict: Verdict
    score: float | None
    threshold: float
    reason: str | None
    mark: Mark | None
    mark_id: int | None = Field(description="number of the latest entry of the history; send it as `seen`")
    image: bool = Field(description="whether its image is kept")
    removed: str | None = Field(description="when its image was deleted because of the size limit")


class Decisions(_Answer):
    """A page of decisions."""

    decisions: list[BriefDecision]
    next: str | None = Field(description="what to send as `after` for the next page; null: this was the last")


class Entry(_Answer):
    """A mark that was set, or, null, taken back."""

    id: int
    mark: Mark | None
    who: str
    time: str


class WholeDecision(BriefDecision):
    """All that is known of a decision."""

    bundle_version: str | None
    content: str
    pixel_threshold: float
    review: float | None
    width: int
    height: int
    regions: list[dict[str, Any]] = Field(description="box, area, peak and contour, in the image's pixels")
    region_count: int
    truth: Truth | None = Field(description="what the latest mark says of the part")
    history: list[Entry]


class NewMark(_Answer):
    """A mark to set."""

    mark: Mark | None = Field(description="null takes the mark back")
    who: str = Field(description="name of who marks")
    seen: int | None = Field(
        None, description="`mark_id` that it rests on, 0 = none: refused (409) where another mark has come since"
    )


class Conflict(_Answer):
    """Another mark came between."""

    error: str
    latest: Entry
