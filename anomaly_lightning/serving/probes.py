"""For orchestrators and Prometheus: is it alive, is it ready, what has it done."""

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

from anomaly_lightning.serving.access import MayRead
from anomaly_lightning.serving.metrics import FORMAT
from anomaly_lightning.serving.service import TheService

router = APIRouter(tags=["operation"])


@router.get("/healthz")
async def healthz() -> JSONResponse:
    """The process answers."""
    return JSONResponse({"status": "alive"})


@router.get("/readyz")
async def readyz(service: TheService) -> JSONResponse:
    """Every model is loaded; nothing is accepted before that."""
    return JSONResponse({"status": "ready", "models": [model.name for model in service.models.all()]})


@router.get("/metrics", dependencies=[MayRead], response_class=Response)
async def metrics(service: TheService) -> Response:
    """Counts and durations in Prometheus' text format; with the token, where there is one."""
    return Response(service.metrics.text(), media_type=FORMAT)
