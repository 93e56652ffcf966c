"""The project's own routes: images in, verdicts out."""

import time
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool

from anomaly_lightning.errors import DataError, UserError
from anomaly_lightning.runtime.inspection import Inspection
from anomaly_lightning.serving import bodies, schema
from anomaly_lightning.serving.access import MayRead, MayWrite
from anomaly_lightning.serving.inspecting import Drawing, Inspected, Wish, as_json, drawn, job, number, raw
from anomaly_lightning.serving.models import Model
from anomaly_lightning.serving.problems import Problem
from anomaly_lightning.serving.service import Service, TheService, status_of

router = APIRouter(prefix="/v1", dependencies=[MayRead], tags=["inspect"])

PROBLEMS: dict[int | str, dict[str, Any]] = {
    400: {"model": schema.Error, "description": "Several models are served and none was named; a broken form"},
    401: {"model": schema.Error, "description": "No token, or not the right one"},
    403: {"model": schema.Error, "description": "A token that may only look"},
    404: {"model": schema.Error, "description": "No such model"},
    408: {"model": schema.Error, "description": "The body did not arrive in time"},
    413: {"model": schema.Error, "description": "Too many bytes, pixels or images"},
    422: {"model": schema.Error, "description": "An image that can't be read, or an option that makes no sense"},
    429: {"model": schema.Error, "description": "The queue is full: come back after Retry-After seconds"},
    504: {"model": schema.Error, "description": "Not done in time"},
}
_BINARY: dict[str, Any] = {"schema": {"type": "string", "format": "binary"}}
_FORM: dict[str, Any] = {
    "schema": {"type": "object", "properties": {"image": {"type": "array", "items": _BINARY["schema"]}}}
}
BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {"multipart/form-data": _FORM, "image/*": _BINARY, "application/octet-stream": _BINARY},
    }
}
ASKED: dict[str, Any] = {"responses": PROBLEMS, "openapi_extra": BODY, "dependencies": [MayWrite]}

ModelQuery = Annotated[str | None, Query(description="Which model; may be left out where there is one")]


@router.post(
    "/inspect", response_model=schema.InspectAnswer, responses=PROBLEMS, openapi_extra=BODY, dependencies=[MayWrite]
)
async def inspect(
    request: Request,
    service: TheService,
    model: ModelQuery = None,
    heatmap: Annotated[Drawing, Query(description="A PNG: the image with its map on it, or the map alone")] = "none",
    raw_map: Annotated[bool, Query(alias="map", description="The raw anomaly map")] = False,
    contours: Annotated[bool, Query(description="Outlines of the regions")] = False,
    regions: Annotated[int, Query(ge=0, le=10_000, description="Most regions that are listed")] = 100,
) -> Response:
    """Inspect one image (the body) or several (files of a form)."""
    wish, start = Wish(heatmap, raw_map, contours, regions), time.perf_counter()
    asked = service.models.get(model)
    names, results = await _inspected(request, service, asked, lambda said: as_json(said, wish))
    answers = [_answer(name, result) for name, result in zip(names, results, strict=True)]
    errors = [result for result in results if isinstance(result, DataError)]
    if len(errors) == len(results):
        raise Problem(min(map(status_of, errors)), " ".join(map(str, errors)), extra={"images": answers})
    total = _milliseconds(time.perf_counter() - start)
    return JSONResponse({"model": {"name": asked.name, "id": asked.id}, "images": answers, "total_ms": total})


@router.post("/heatmap", response_class=Response, **ASKED)
async def heatmap(
    request: Request, service: TheService, model: ModelQuery = None, kind: Drawing = "overlay"
) -> Response:
    """Inspect one image; its heatmap comes as PNG, verdict, score and threshold in headers."""
    if kind == "none":
        raise Problem(422, "kind=none: expected overlay or colors.")
    return await _one(request, service, model, lambda said: drawn(said, kind), "image/png")


@router.post("/map", response_class=Response, **ASKED)
async def anomaly_map(request: Request, service: TheService, model: ModelQuery = None) -> Response:
    """Inspect one image; its anomaly map comes as .npy, (height, width) float32, verdict and score in headers."""
    return await _one(request, service, model, raw, "application/octet-stream")


@router.get("/models", response_model=list[schema.ModelAnswer], responses={401: PROBLEMS[401]})
async def models(service: TheService) -> Response:
    """What is served."""
    return JSONResponse([service.describe(model) for model in service.models.all()])


@router.get("/decisions", response_model=schema.Decisions, responses={401: PROBLEMS[401]})
async def decisions(request: Request, service: TheService, after: Annotated[int, Query(ge=0)] = 0) -> Response:
    """The last decisions of all clients whose number is larger than `after`, oldest first."""
    models = {model.name: model.id for model in service.models.all()}
    known = service.recent.after(after)
    return JSONResponse({"started": request.app.state.started, "decisions": known, "models": models})


@router.post("/models/{name}/reload", response_model=schema.ModelAnswer, responses=PROBLEMS, dependencies=[MayWrite])
async def reload(service: TheService, name: str) -> Response:
    """Load a model again from where it lies, and put it in the place of the one before; no request is lost."""
    if service.secret is None:
        raise Problem(403, "Without a token nobody may change what is served: set one, or send the process SIGHUP.")
    try:
        model = await run_in_threadpool(service.reload, name)
    except UserError as error:
        raise Problem(422, f"The model before stays. {error}") from error
    return JSONResponse(service.describe(model))


async def _inspected(
    request: Request, service: Service, model: Model, finish: Callable[[Inspection], Any], most: int | None = None
) -> tuple[list[str], list[tuple[Inspected, Any] | DataError]]:
    """Names and results of a request's images; a place in the queue is taken before the body is read."""
    known = service.settings
    with service.queue.admit() as ticket:
        images = await bodies.images(request, most or known.max_images, known.max_bytes)
        names = [name for name, _ in images]
        jobs = [job(model, name, data, known.max_pixels, finish, service.note) for name, data in images]
        del images  # the jobs hold what they need, and let go of it one by one
        return names, await service.inspect(request, ticket, model, jobs, names)


async def _one(
    request: Request, service: Service, name: str | None, finish: Callable[[Inspection], bytes], kind: str
) -> Response:
    model = service.models.get(name)
    _, (result,) = await _inspected(request, service, model, finish, most=1)
    if isinstance(result, DataError):
        raise Problem(status_of(result), str(result))
    said = result[0].said
    headers = {"X-Model": f"{model.id}", "X-Verdict": said.verdict, "X-Threshold": repr(said.threshold)}
    return Response(result[1], media_type=kind, headers={**headers, "X-Score": repr(number(said.score))})


def _answer(name: str, result: tuple[Inspected, Any] | DataError) -> dict[str, Any]:
    if isinstance(result, DataError):
        return {"name": name, "error": str(result), "status": status_of(result)}
    timings = {stage: _milliseconds(spent) for stage, spent in result[0].seconds.items()}
    return {"name": name, "decision": result[0].decision, **result[1], "timings_ms": timings}


def _milliseconds(seconds: float) -> float:
    return round(1000 * seconds, 3)
