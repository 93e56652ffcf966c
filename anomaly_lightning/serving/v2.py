"""The Open Inference Protocol, version 2, so that clients of Triton and KServe work."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from numpy.typing import NDArray
from starlette.concurrency import run_in_threadpool

from anomaly_lightning import __version__
from anomaly_lightning.errors import DataError
from anomaly_lightning.runtime.inspection import Inspection
from anomaly_lightning.serving import tensors
from anomaly_lightning.serving.access import MayRead, MayWrite
from anomaly_lightning.serving.inspecting import job
from anomaly_lightning.serving.models import Model
from anomaly_lightning.serving.problems import Problem
from anomaly_lightning.serving.service import Service, TheService, status_of

router = APIRouter(prefix="/v2", tags=["Open Inference Protocol"])
protected = [MayRead]


@dataclass(frozen=True)
class Made:
    """How an output is made of an inspection; `shape` is that of one image."""

    datatype: str
    shape: tuple[int, ...]
    of: Callable[[Inspection], Any]


OUTPUTS = {
    "score": Made("FP32", (), lambda said: np.float32(said.score)),
    "threshold": Made("FP64", (), lambda said: np.float64(said.threshold)),
    "verdict": Made("BYTES", (), lambda said: said.verdict),
    "reason": Made("BYTES", (), lambda said: said.reason or ""),
    "anomaly_map": Made("FP32", (-1, -1), lambda said: said.anomaly_map),
    "mask": Made("BOOL", (-1, -1), lambda said: said.mask),
    "heatmap": Made("UINT8", (-1, -1, 3), lambda said: said.heatmap()),
}
UNASKED = ("score", "threshold", "verdict", "reason")
INPUTS = [
    {"name": "images", "datatype": "UINT8", "shape": [-1, -1, -1, 3]},  # one of the two: RGB, channels last
    {"name": "files", "datatype": "BYTES", "shape": [-1]},  # or whole files; base64 where they come as JSON
]


@router.get("")
async def server() -> JSONResponse:
    """Name, version and extensions of the server."""
    return JSONResponse({"name": "anomaly_lightning", "version": __version__, "extensions": ["binary_tensor_data"]})


@router.get("/health/live")
async def live() -> JSONResponse:
    """The process answers."""
    return JSONResponse({"live": True})


@router.get("/health/ready")
async def ready() -> JSONResponse:
    """Every model is loaded; nothing is accepted before that."""
    return JSONResponse({"ready": True})


@router.get("/models/{name}", dependencies=protected)
@router.get("/models/{name}/versions/{version}", dependencies=protected)
async def metadata(service: TheService, name: str, version: str | None = None) -> JSONResponse:
    """Inputs and outputs of a model. Its version is its id."""
    model = _model(service, name, version)
    outputs = [{"name": key, "datatype": made.datatype, "shape": [-1, *made.shape]} for key, made in OUTPUTS.items()]
    known = {"name": model.name, "versions": [model.id], "platform": "anomaly_lightning"}
    return JSONResponse({**known, "inputs": INPUTS, "outputs": outputs})


@router.get("/models/{name}/ready", dependencies=protected)
@router.get("/models/{name}/versions/{version}/ready", dependencies=protected)
async def model_ready(service: TheService, name: str, version: str | None = None) -> JSONResponse:
    """Whether a model is served."""
    return JSONResponse({"name": _model(service, name, version).name, "ready": True})


@router.post("/models/{name}/infer", dependencies=[MayWrite])
@router.post("/models/{name}/versions/{version}/infer", dependencies=[MayWrite])
async def infer(request: Request, service: TheService, name: str, version: str | None = None) -> Response:
    """Inspect the images of one input, `images` or `files`; see the model's metadata."""
    model = _model(service, name, version)
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise Problem(415, "Expected a body without Content-Encoding.")
    with service.queue.admit() as ticket:
        body = await request.body()
        asked, values = await run_in_threadpool(tensors.read, body, request.headers.get(tensors.HEADER))
        del body
        wanted, sources = _wanted(asked), _sources(asked, values, service)
        names = [f"{asked.id or asked.inputs[0].name}[{number}]" for number in range(len(sources))]
        pixels = service.settings.max_pixels
        finish = lambda said: [OUTPUTS[key].of(said) for key in wanted]  # noqa: E731
        jobs = [
            job(model, label, source, pixels, finish, service.note)
            for label, source in zip(names, sources, strict=True)
        ]
        results = await service.inspect(request, ticket, model, jobs, names)
    for result in results:
        if isinstance(result, DataError):
            raise Problem(status_of(result), str(result))
    found = [result[1] for result in results if not isinstance(result, DataError)]
    columns = [_tensor(key, column) for key, column in zip(wanted, zip(*found, strict=True), strict=True)]
    head = {"model_name": model.name, "model_version": model.id, **({"id": asked.id} if asked.id else {})}
    text, headers = await run_in_threadpool(tensors.write, head, columns, asked.binary_outputs())
    return Response(text, headers=headers)


def _model(service: Service, name: str, version: str | None) -> Model:
    model = service.models.get(name)
    if version is not None and version != model.id:
        raise Problem(404, f"There is no version {version!r} of {name} here; there: {model.id}.")
    return model


def _wanted(asked: tensors.InferRequest) -> list[str]:
    wanted = [output.name for output in asked.outputs] or list(UNASKED)
    if unknown := [name for name in wanted if name not in OUTPUTS]:
        raise Problem(400, f"There is no output {unknown[0]!r}; there: {', '.join(OUTPUTS)}.")
    return wanted


def _sources(
    asked: tensors.InferRequest, values: Sequence[list[bytes] | NDArray[np.uint8]], service: Service
) -> list[bytes | NDArray[np.uint8]]:
    """The images of a request, each a file's content or (H, W, 3) uint8."""
    if [one.name for one in asked.inputs] not in (["images"], ["files"]):
        came = ", ".join(one.name for one in asked.inputs) or "none"
        raise Problem(400, f"Expected one input, images (UINT8) or files (BYTES); got {came}.")
    (one,), (found,) = asked.inputs, values
    if isinstance(found, list) != (one.name == "files"):
        raise Problem(400, f"Input {one.name}: expected {'BYTES' if one.name == 'files' else 'UINT8'}.")
    if not isinstance(found, list) and (found.ndim != 4 or found.shape[3] != 3):
        raise Problem(400, f"Input images: expected the shape [n, height, width, 3], got {list(found.shape)}.")
    if not 1 <= len(found) <= service.settings.max_images:
        most = service.settings.max_images
        raise Problem(413, f"Expected 1 to {most} images a request (max_images), got {len(found)}.")
    return list(found)


def _tensor(name: str, column: Sequence[Any]) -> tensors.Tensor:
    """One output of all images; raises `Problem` 400 where their maps differ in size."""
    made = OUTPUTS[name]
    if made.datatype == "BYTES":
        return tensors.Tensor(name, made.datatype, list(column))
    if len({np.shape(value) for value in column}) > 1:
        raise Problem(400, f"Images of different sizes have no common tensor {name}: ask for them one by one.")
    return tensors.Tensor(name, made.datatype, np.stack(column))
