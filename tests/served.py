"""A service for tests: a model made by hand, whose work can be held up, behind a real server on a free port."""

import contextlib
import io
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import requests
from PIL import Image
from toy import card

from anomaly_lightning.runtime.card import ThresholdsCard
from anomaly_lightning.runtime.inspector import Inspector
from anomaly_lightning.runtime.transform import ImageTransform
from anomaly_lightning.serving.app import create_app
from anomaly_lightning.serving.drifts import DriftSettings
from anomaly_lightning.serving.models import Models
from anomaly_lightning.serving.run import Server, bound
from anomaly_lightning.serving.settings import Settings

HEIGHT, WIDTH = 40, 60
TRANSFORM = ImageTransform((20, 30), (0, 0, 0), (1, 1, 1))
TOKEN = "a long secret"


class Redness:
    """An engine whose map is the red channel in [0, 1]; says that it `began`, waits for its gate, counts its runs."""

    def __init__(self) -> None:
        self.gate, self.began, self.runs, self.error = threading.Event(), threading.Event(), 0, None
        self.gate.set()

    def run(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self.began.set()
        self.gate.wait(60)
        self.runs += 1
        if self.error is not None:
            raise self.error
        return images[:, 0], images[:, 0].max((1, 2))


def inspector(engine: Any = None, **thresholds: Any) -> Inspector:
    promised = {"false_alarm_rate": 0.01, "false_alarm_upper": 0.04, "rests_on": ["8 normals."]}
    known = ThresholdsCard(**{"score": 0.5, "pixel": 0.4, "promise": promised, **thresholds})
    return Inspector(card(TRANSFORM, thresholds=known), engine or Redness())


def spotted(level: int = 255, width: int = WIDTH) -> np.ndarray:
    """(40, width, 3) uint8: black with a red spot of 6 x 8 pixels."""
    values = np.zeros((HEIGHT, width, 3), np.uint8)
    values[10:16, 40:48, 0] = level
    return values


def encoded(values: np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, kind, **options)
    return stream.getvalue()


class Running:
    """A service that runs; `engine` is that of every model, `get` and `post` ask it."""

    def __init__(self, url: str, app: Any, engine: Redness) -> None:
        self.url, self.app, self.engine = url, app, engine
        self._local = threading.local()

    @property
    def service(self) -> Any:
        return self.app.state.service

    def ask(self, method: str, path: str, **options: Any) -> requests.Response:
        if not hasattr(self._local, "session"):
            self._local.session = requests.Session()
            self._local.session.trust_env = False  # the tests' environment names a proxy that is not there
        options.setdefault("timeout", 60)  # a busy machine is no failure
        return self._local.session.request(method, self.url + path, **options)

    def get(self, path: str, **options: Any) -> requests.Response:
        return self.ask("GET", path, **options)

    def post(self, path: str, data: Any = None, **options: Any) -> requests.Response:
        return self.ask("POST", path, data=data, **options)

    def until(self, length: int) -> None:
        """Wait until so many images are inside."""
        deadline = time.monotonic() + 30
        while self.service.queue.length != length:
            assert time.monotonic() < deadline, f"{self.service.queue.length} images are inside, not {length}"
            time.sleep(0.005)

    def metric(self, line: str) -> float:
        """Value of a metric by its name with labels, as Prometheus reads it."""
        token = self.service.secret
        text = self.get("/metrics", headers={} if token is None else {"Authorization": f"Bearer {token}"}).text
        found = [one for one in text.splitlines() if one.startswith(f"{line} ")]
        return float(found[0].rpartition(" ")[2]) if found else 0.0


@contextlib.contextmanager
def serving(folder: Path, names: tuple[str, ...] = ("toy",), engine: Any = None, **options: Any) -> Iterator[Running]:
    """A service of one or several equal models, each of a file of its name in the folder; it keeps no decisions."""
    engine = engine or Redness()
    for name in names:
        (folder / name).write_text("as first trained")
    known = {"port": 0, "marks": None, **options, "drift": DriftSettings(**options.get("drift", {}))}
    settings = Settings(bundle={name: str(folder / name) for name in names}, **known)

    def load(path: Path) -> Inspector:
        return inspector(engine)

    app = create_app(settings, Models(settings.bundle, load))
    sock = bound(settings.host, 0)
    server = Server(settings, app)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]}, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the service does not start"
        time.sleep(0.002)
    try:
        yield Running(f"http://127.0.0.1:{sock.getsockname()[1]}", app, engine)
    finally:
        engine.gate.set()
        server.should_exit = True
        thread.join(60)
        assert not thread.is_alive()
