"""From a composed config to a service that runs until it is told to stop."""

import contextlib
import logging
import signal
import socket
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn
from rich.console import Console

from anomaly_lightning.errors import UserError
from anomaly_lightning.runtime.inspector import Inspector
from anomaly_lightning.runtime.signals import Handler, handled
from anomaly_lightning.serving.app import create_app
from anomaly_lightning.serving.models import Models
from anomaly_lightning.serving.service import Service
from anomaly_lightning.serving.settings import Settings

logger = logging.getLogger(__name__)

KEEP_ALIVE_S = 75  # longer than a client waits that was refused, and than the minute of most proxies


def serve(values: Mapping[str, Any]) -> None:
    """Serve what a composed config names; returns when all that was taken has been answered.

    Raises:
        UserError: An option makes no sense, a model can't be loaded, or the port is taken.
    """
    settings = Settings.from_config(values)

    def load(path: Path) -> Inspector:
        return Inspector.load(
            path, settings.device, settings.trust, settings.validity, settings.threads, settings.compile
        )

    with bound(settings.host, settings.port) as sock:
        app = create_app(settings, Models(settings.bundle, load))
        Console().print(greeting(app.state.service, sock), soft_wrap=True, highlight=False)
        Server(settings, app).run(sockets=[sock])
    Console().print("stopped; every request that was taken has been answered")


def bound(host: str, port: int) -> socket.socket:
    """A socket that is bound and does not listen yet: a port that is taken is known before models are loaded.

    Raises:
        UserError: It can't be bound.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        sock = socket.socket(family, kind, protocol)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
    except OSError as error:
        raise UserError(f"host={host} port={port}: {error.strerror or error}. Choose another port or host.") from error
    return sock


def greeting(service: Service, sock: socket.socket) -> str:
    """Where it is, what it serves, and who may ask."""
    host, port = sock.getsockname()[:2]
    where = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    served = ", ".join(f"{model.name} ({model.id})" for model in service.models.all())
    who = "with the token" if service.secret is not None else "without a token"
    known = service.reviewing
    kept = "not kept" if known is None else f"kept in {known.store.path} (images: {known.keeper.keep})"
    return f"serving {served} {who} at {where}  (page: {where}/  API: {where}/docs)\ndecisions are {kept}"


class Server(uvicorn.Server):
    """Uvicorn, which on SIGINT or SIGTERM takes no more, answers what it took and ends with 0; SIGHUP loads again."""

    def __init__(self, settings: Settings, app: Any) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_keep_alive=KEEP_ALIVE_S,
                lifespan="on",
                timeout_graceful_shutdown=max(1, round(settings.shutdown_s)),
            )
        )
        self.service: Service = app.state.service

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Listen to signals while it runs; uvicorn's own would end the process by the signal that it got."""
        handlers: dict[int, Handler] = {signal.SIGINT: self.handle_exit, signal.SIGTERM: self.handle_exit}
        if hasattr(signal, "SIGHUP"):  # Windows has none
            handlers[signal.SIGHUP] = self._again
        with handled(handlers):
            yield

    def _again(self, number: int, frame: FrameType | None) -> None:
        threading.Thread(target=self._reload_all, name="reload", daemon=True).start()

    def _reload_all(self) -> None:
        for model in self.service.models.all():
            try:
                self.service.reload(model.name)
            except UserError as error:
                logger.error("model %s stays as it was: %s", model.name, error)
