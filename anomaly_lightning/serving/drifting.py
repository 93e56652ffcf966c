"""The route by which a person takes an alarm of the drift monitor back."""

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool

from anomaly_lightning.errors import UserError
from anomaly_lightning.runtime.drift import Restart
from anomaly_lightning.serving import schema
from anomaly_lightning.serving.access import MayRead, MayWrite
from anomaly_lightning.serving.problems import Problem
from anomaly_lightning.serving.service import TheService
from anomaly_lightning.serving.v1 import PROBLEMS

router = APIRouter(prefix="/v1", dependencies=[MayRead], tags=["drift"])


class Reset(BaseModel):
    """What to compare with from now on; as a JSON body, which no page from elsewhere can send."""

    model_config = ConfigDict(extra="forbid")
    reference: Restart = Field(
        "seen",
        description="seen: calibration normals and all images so far (a false alarm, or the cause is repaired); "
        "calibration: the calibration normals alone; line: only what comes from now on (the present state is right)",
    )


@router.post(
    "/models/{name}/drift/reset", response_model=schema.DriftAnswer, responses=PROBLEMS, dependencies=[MayWrite]
)
async def reset(service: TheService, name: str, asked: Reset) -> Response:
    """Take the alarm back and gather evidence anew. Thresholds stay as they are."""
    model = service.models.get(name)
    try:
        await run_in_threadpool(service.drifts.reset, model, asked.reference)
    except UserError as error:
        raise Problem(422, str(error)) from error
    return JSONResponse(service.drifts.status(model))
