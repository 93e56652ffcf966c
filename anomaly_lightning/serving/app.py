"""The routes, and what stands around all of them: limits, errors, measurements."""

import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from anomaly_lightning import __version__
from anomaly_lightning.errors import ReviewError
from anomaly_lightning.serving import drifting, marking, page, probes, v1, v2
from anomaly_lightning.serving.admission import WorkQueue
from anomaly_lightning.serving.drifts import Drifts
from anomaly_lightning.serving.marking import told
from anomaly_lightning.serving.metrics import Metrics
from anomaly_lightning.serving.models import Models
from anomaly_lightning.serving.problems import Problem
from anomaly_lightning.serving.recent import Recent
from anomaly_lightning.serving.reviewing import reviewing_of
from anomaly_lightning.serving.service import FAULT, Service
from anomaly_lightning.serving.settings import Settings
from anomaly_lightning.serving.uploads import UploadLimits
from anomaly_lightning.serving.waiting import CLIENT_GONE

logger = logging.getLogger(__name__)


def create_app(settings: Settings, models: Models) -> FastAPI:
    """The whole service as an ASGI app.

    Args:
        settings: Of the service.
        models: Loaded.
    """
    queue = WorkQueue(settings.workers, settings.queue)
    metrics = Metrics(queue)
    drifts = Drifts(settings.drift)
    metrics.register(drifts)
    for model in models.all():
        metrics.serving(model)
        drifts.serving(model)
    reviewing = reviewing_of(settings, models.all(), metrics)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        queue.close()
        drifts.close()
        if reviewing is not None:
            reviewing.store.close()

    app = FastAPIOffline(
        title="Anomaly inspection",
        version=__version__,
        description="Tells good parts from defective ones, and shows where the defect is.",
        redoc_url=None,
        static_url="/docs-static",
        lifespan=lifespan,
    )
    recent = Recent(settings.recent)
    app.state.service = Service(
        settings, settings.secret, settings.read_secret, models, queue, metrics, recent, reviewing, drifts
    )
    app.state.started = datetime.now(UTC).isoformat(timespec="milliseconds")
    for part in (v1, drifting, marking, v2, probes, page):
        app.include_router(part.router)
    _add_handlers(app)
    app.add_middleware(UploadLimits, max_bytes=settings.max_bytes, seconds=settings.upload_s)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=settings.known_hosts)
    app.add_middleware(Measured, metrics=metrics)  # added last, hence around all the others
    return app


def _add_handlers(app: FastAPI) -> None:
    """Every error is JSON with the one key `error`, as the Open Inference Protocol has it, too."""

    @app.exception_handler(Problem)
    async def problem(request: Request, error: Problem) -> JSONResponse:
        return JSONResponse({"error": error.detail, **error.extra}, error.status, error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        wrong = "; ".join(f"{'.'.join(map(str, one['loc'][1:]))}: {one['msg']}" for one in error.errors())
        return JSONResponse({"error": wrong}, 422)

    @app.exception_handler(ReviewError)
    async def review(request: Request, error: ReviewError) -> JSONResponse:
        return JSONResponse(*told(error))

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse({"error": str(error.detail)}, error.status_code, error.headers)

    @app.exception_handler(ClientDisconnect)
    async def gone(request: Request, error: ClientDisconnect) -> JSONResponse:
        return JSONResponse({"error": "The client has gone."}, CLIENT_GONE)

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"error": FAULT}, 500, {"Connection": "close"})  # uvicorn closes it after a fault


class Measured:
    """Counts requests and how long they take, by route; what no route takes is one route, "other"."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the app and note its answer's status."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, status = time.perf_counter(), 500

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, noted)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            self.metrics.request(route, status, time.perf_counter() - start)
