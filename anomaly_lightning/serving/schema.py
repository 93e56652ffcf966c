"""The answers of /v1 as the OpenAPI page describes them. Tests hold every answer against these."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Verdict = Literal["OK", "REVIEW", "NG", "INVALID"]


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid")


class RegionAnswer(_Answer):
    """One connected defect, in the image's pixels."""

    box: tuple[int, int, int, int] = Field(description="left, top, width, height")
    area: int
    peak: float | None = Field(description="largest error inside")
    contour: list[tuple[int, int]] | None = Field(None, description="corners x, y; with contours=true")


class Timings(_Answer):
    """Milliseconds: waiting, decoding, inspecting, drawing what was asked for, recording."""

    queue: float
    decode: float
    inspect: float
    draw: float
    keep: float | None = Field(None, description="recording the decision, where decisions are kept")


class ImageAnswer(_Answer):
    """What is said of one image."""

    name: str
    decision: int | None = Field(description="number under which it can be marked; null: decisions are not kept")
    verdict: Verdict
    score: float | None = Field(description="raw error, larger = more anomalous; null: not a number, which is NG")
    threshold: float = Field(description="above it a score is NG")
    pixel_threshold: float
    review: float | None = Field(description="lower end of the band of REVIEW; null = no band")
    reason: str | None = Field(description="why the image is INVALID")
    width: int
    height: int
    region_count: int
    regions: list[RegionAnswer] = Field(description="largest peak first, at most as many as asked for")
    heatmap: str | None = Field(None, description="PNG, base64; with heatmap=")
    map: str | None = Field(None, description=".npy file, (height, width) float32, base64; with map=true")
    timings_ms: Timings


class BrokenImage(_Answer):
    """An image that can't be inspected."""

    name: str
    error: str
    status: Literal[413, 422]


class ModelName(_Answer):
    """Which model answered."""

    name: str
    id: str = Field(description="first 16 digits of the sha256 of the model's file")


class InspectAnswer(_Answer):
    """Answer of /v1/inspect; of several images those that can't be inspected say so, the others count."""

    model: ModelName
    images: list[ImageAnswer | BrokenImage]
    total_ms: float


class DriftAlarm(_Answer):
    """What has changed, as far as the monitor can tell."""

    cause: Literal["camera or lighting", "another product", "more defects"]
    words: str = Field(description="what to look at")
    measure: str = Field(description="whose evidence raised the alarm")
    since: int = Field(description="images before the change, about")
    image: int = Field(description="number of the image that raised it")
    time: str


class DriftAnswer(_Answer):
    """Whether the images of a model are still what they were."""

    watched: bool
    why: str | None = Field(None, description="why it is not watched, and how it would be")
    images_per_alarm: int | None = Field(None, description="at most one false alarm in so many, while nothing changes")
    images: int | None = None
    compared_with: int | None = Field(None, description="images that a new one is compared with")
    evidence: float | None = Field(None, description="0 to 1, where it is an alarm")
    alarm: DriftAlarm | None = Field(None, description="stands until it is reset")


class ModelAnswer(ModelName):
    """A model that is served."""

    loaded: str
    category: str
    detector: str
    backbone: str
    input_size: tuple[int, int] = Field(description="height, width")
    tiled: bool
    threshold: float
    pixel_threshold: float
    review: float | None
    promise: str = Field(description="what the threshold promises about false alarms, in words")
    rests_on: list[str]
    drift: DriftAnswer


class Decision(_Answer):
    """One of the last decisions."""

    number: int
    time: str
    model: str
    name: str
    verdict: Verdict
    score: float | None
    threshold: float
    reason: str | None


class Decisions(_Answer):
    """The last decisions, oldest first, and which models are served."""

    started: str = Field(description="when the service started: numbers begin anew with it")
    decisions: list[Decision]
    models: dict[str, str] = Field(description="ids of the models that are served, by name")


class Error(BaseModel):
    """Why there is no answer."""

    error: str
