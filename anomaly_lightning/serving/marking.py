"""The routes of the review: decisions that were made, their images, and marks."""

from collections.abc import Iterable
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Response
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse

from anomaly_lightning.errors import DataError, ReviewError
from anomaly_lightning.review.exporting import MANIFEST, TABLE, csv_lines, manifest_rows, table_rows
from anomaly_lightning.review.keeping import view_of
from anomaly_lightning.review.marks import MarkedSinceError, MarkEntry, NoDecisionError, StoreError, as_text
from anomaly_lightning.review.records import Decision, Filter, Order
from anomaly_lightning.runtime.files import SUFFIXES
from anomaly_lightning.runtime.reading import read_image
from anomaly_lightning.serving import review_schema as schema
from anomaly_lightning.serving.access import MayRead, MayWrite, TheRole
from anomaly_lightning.serving.inspecting import as_png
from anomaly_lightning.serving.problems import Problem
from anomaly_lightning.serving.reviewing import Reviewing
from anomaly_lightning.serving.schema import Error
from anomaly_lightning.serving.service import TheService

router = APIRouter(prefix="/v1/review", dependencies=[MayRead], tags=["review"])

PROBLEMS: dict[int | str, dict[str, Any]] = {
    401: {"model": Error, "description": "No token, or not the right one"},
    404: {"model": Error, "description": "No such decision or image, or decisions are not kept"},
    422: {"model": Error, "description": "A filter or mark that makes no sense"},
    503: {"model": Error, "description": "The store can't be read or written"},
}
MARK_PROBLEMS: dict[int | str, dict[str, Any]] = {
    **PROBLEMS,
    403: {"model": Error, "description": "A token that may only look"},
    409: {"model": schema.Conflict, "description": "Another mark came between"},
}
NOTHING_KEPT = "This service keeps no decisions: start it with marks=<file>, and its log says why it does not."
# What browsers show; other formats are converted.
SHOWN = {suffix: f"image/{kind.lower()}" for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP") for suffix in SUFFIXES[kind]}
FOR_GOOD = {"Cache-Control": "private, max-age=31536000, immutable"}  # an image of a decision never changes


def _reviewing(service: TheService) -> Reviewing:
    if service.reviewing is None:
        raise Problem(404, NOTHING_KEPT)
    return service.reviewing


TheReviewing = Annotated[Reviewing, Depends(_reviewing)]


def _filter(
    verdict: Annotated[list[str] | None, Query(description="Any of these; may be repeated")] = None,
    mark: Annotated[list[str] | None, Query(description="Any of these; unmarked = without a mark")] = None,
    lowest: Annotated[float | None, Query(description="Scores from it on")] = None,
    highest: Annotated[float | None, Query(description="Scores up to it")] = None,
    since: Annotated[datetime | None, Query(description="Decided at or after it")] = None,
    until: Annotated[datetime | None, Query(description="Decided before it")] = None,
    model: str | None = None,
) -> Filter:
    return Filter(
        verdicts=verdict or (), marks=mark or (), lowest=lowest, highest=highest, since=since, until=until, model=model
    )


TheFilter = Annotated[Filter, Depends(_filter)]


@router.get("", response_model=schema.Summary, responses={401: PROBLEMS[401]})
def summary(service: TheService, role: TheRole) -> Response:
    """What is kept, by which policy, and how many decisions there are by verdict and mark."""
    known = service.reviewing
    if known is None:
        return JSONResponse({"enabled": False, "reason": NOTHING_KEPT, "may_mark": False})
    kept = asdict(known.store.kept())
    policy = {"keep": known.keeper.keep, "max_bytes": known.keeper.max_bytes, "full": known.keeper.full, **kept}
    counts = [{"verdict": of[0], "mark": of[1], "count": count} for of, count in known.store.counts().items()]
    return JSONResponse({"enabled": True, "may_mark": role == "write", "images": policy, "counts": counts})


@router.get("/decisions", response_model=schema.Decisions, responses=PROBLEMS)
def decisions(
    reviewing: TheReviewing,
    wanted: TheFilter,
    order: Order = "newest",
    after: Annotated[str | None, Query(description="`next` of the page before")] = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 60,
) -> Response:
    """Some decisions in order. A page takes as long for the millionth decision as for the first."""
    page = reviewing.store.page(wanted, order, after, limit)
    return JSONResponse({"decisions": [_brief(one) for one in page.decisions], "next": page.next})


@router.get("/decisions/{number}", response_model=schema.WholeDecision, responses=PROBLEMS)
def decision(reviewing: TheReviewing, number: int) -> Response:
    """All that is known of one decision, with the history of its marks."""
    return JSONResponse(_whole(reviewing, number))


@router.post(
    "/decisions/{number}/marks", response_model=schema.WholeDecision, responses=MARK_PROBLEMS, dependencies=[MayWrite]
)
def mark(reviewing: TheReviewing, number: int, wish: schema.NewMark) -> Response:
    """Mark a decision; what was marked before stays in its history. The answer comes when the disk has it."""
    reviewing.store.mark(number, wish.mark, wish.who, wish.seen)
    return JSONResponse(_whole(reviewing, number))


@router.get("/decisions/{number}/{what}", response_class=Response, responses=PROBLEMS)
def image(
    service: TheService,
    reviewing: TheReviewing,
    number: int,
    what: Literal["original", "shown", "small", "heatmap"],
) -> Response:
    """A decision's image: the file as it came; as a browser can show it; small; its heatmap."""
    known = reviewing.store.decision(number)
    if known.image is None:
        why = "was deleted because of the size limit" if known.removed else "was not kept"
        raise Problem(404, f"The image of decision {number} {why}.")
    path = reviewing.keeper.folder / (view_of(known.image, what) if what in ("small", "heatmap") else known.image)
    if not path.is_file():
        raise Problem(404, f"The image of decision {number} is gone from the disk.")
    if what == "shown" and path.suffix not in SHOWN:
        return Response(_converted(path, service.settings.max_pixels), media_type="image/png", headers=FOR_GOOD)
    kind = SHOWN.get(path.suffix, "application/octet-stream")
    headers = {**FOR_GOOD, "X-Content-Type-Options": "nosniff"}
    return FileResponse(path, media_type=kind, headers=headers, filename=_called(known) if what == "original" else None)


@router.get("/marks.csv", response_class=Response, responses=PROBLEMS)
def table(reviewing: TheReviewing) -> Response:
    """All decisions with a mark, oldest first, as CSV."""
    return _download("marks.csv", csv_lines(TABLE, table_rows(reviewing.store)))


@router.get("/manifest.csv", response_class=Response, responses=PROBLEMS)
def manifest(reviewing: TheReviewing, model: str | None = None) -> Response:
    """Kept images that are marked, as a table that data=manifest reads on the machine of the service."""
    rows = list(manifest_rows(reviewing.store, None, model))  # before the answer begins: it may be an error
    return _download("manifest.csv", csv_lines(MANIFEST, rows))


def told(error: ReviewError) -> tuple[dict[str, Any], int]:
    """What a client is told of an error of the store, and the status."""
    if isinstance(error, MarkedSinceError):
        return {"error": str(error), "latest": _entry(error.latest)}, 409
    return {"error": str(error)}, {NoDecisionError: 404, StoreError: 503}.get(type(error), 422)


def _brief(one: Decision) -> dict[str, Any]:
    names = ("id", "model", "model_id", "name", "verdict", "score", "threshold", "reason", "mark", "mark_id")
    removed = None if one.removed is None else as_text(one.removed)
    return {name: getattr(one, name) for name in names} | {
        "time": as_text(one.time), "image": one.image is not None, "removed": removed,
    }  # fmt: skip


def _whole(reviewing: Reviewing, number: int) -> dict[str, Any]:
    one = reviewing.store.decision(number)
    names = ("bundle_version", "content", "pixel_threshold", "review", "width", "height", "regions", "region_count")
    history = [_entry(entry) for entry in reviewing.store.history(number)]
    return _brief(one) | {name: getattr(one, name) for name in names} | {"truth": one.truth, "history": history}


def _entry(entry: MarkEntry) -> dict[str, Any]:
    return {"id": entry.id, "mark": entry.mark, "who": entry.who, "time": as_text(entry.time)}


def _converted(path: Path, max_pixels: int) -> bytes:
    try:
        return as_png(read_image(path, max_pixels))
    except DataError as error:
        raise Problem(404, f"The image can't be read any more: {error}") from error


def _called(known: Decision) -> str:
    """What a browser is to call the file that it saves."""
    return f"{known.id}{Path(str(known.image)).suffix}"


def _download(name: str, lines: Iterable[str]) -> Response:
    headers = {"Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": "no-store"}
    return StreamingResponse(lines, media_type="text/csv; charset=utf-8", headers=headers)
