"""Fixtures: no network, no cache outside the tests' folder, a small category, and one trained run for the session."""

import gc
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from toy import BARE, SMALL, Ran, command, composed, make_category

# Read by child processes, too, and by libraries when they are imported: hence here and not in a fixture.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["ANOMALY_CONNECT_TIMEOUT_S"] = "0.2"
for proxy in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
    os.environ[proxy] = "http://127.0.0.1:9"  # nobody listens there: a child process reaches nothing
for given in ("MVNET_ROOT", "HYDRA_FULL_ERROR"):
    os.environ.pop(given, None)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden", action="store_true", help="write tests/golden/*.json anew (tests/test_golden.py)"
    )


def pytest_collection_finish(session: pytest.Session) -> None:
    """Let the garbage collector forget what was imported, which stays: a fifth of the time of a test without torch."""
    gc.collect()
    gc.freeze()


LOCAL = ("127.0.0.1", "::1", "localhost", "0.0.0.0", None, "")


class NetworkTouchedError(AssertionError):
    """A test tried to reach another machine."""


@pytest.fixture(scope="session", autouse=True)
def _no_network() -> Iterator[None]:
    """Refuse every connection that leaves this machine."""
    connect, lookup = socket.socket.connect, socket.getaddrinfo

    def guarded_connect(self: socket.socket, address: Any) -> None:
        if self.family != socket.AF_UNIX and address[0] not in LOCAL:
            raise NetworkTouchedError(f"a test connects to {address}")
        connect(self, address)

    def guarded_lookup(host: Any, *arguments: Any, **options: Any) -> Any:
        if host not in LOCAL:
            raise NetworkTouchedError(f"a test looks up {host}")
        return lookup(host, *arguments, **options)

    patch = pytest.MonkeyPatch()
    patch.setattr(socket.socket, "connect", guarded_connect)
    patch.setattr(socket, "getaddrinfo", guarded_lookup)
    yield
    patch.undo()


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the features and generated images of this session."""
    folder = tmp_path_factory.mktemp("cache")
    os.environ["ANOMALY_CACHE"] = str(folder)
    return folder


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data.root with the category `widget`: 15 training normals, 5 good and 7 defective test images, 60 x 84."""
    folder = tmp_path_factory.mktemp("images")
    make_category(folder)
    return folder


@pytest.fixture(scope="session")
def widget(root: Path) -> tuple[str, ...]:
    """Overrides that choose the small category and a small network."""
    return (*SMALL, "category=custom", "category.name=widget", f"data.root={root}")


@pytest.fixture(scope="session")
def trained(widget: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ran]:
    """Folder of one finished run of the train command, and what it printed."""
    place = tmp_path_factory.mktemp("trained")
    ran = command("train", *widget, cwd=place)
    assert ran.code == 0, ran.out
    runs = list((place / "outputs" / "train" / "widget").glob("*/*"))
    assert len(runs) == 1
    return runs[0], ran


@pytest.fixture(scope="session")
def run_folder(trained: tuple[Path, Ran]) -> Path:
    """Folder of one finished run of the train command; not to be written to."""
    return trained[0]


@pytest.fixture(scope="session")
def checkpoint(run_folder: Path) -> Path:
    """best.ckpt of the session's run."""
    return run_folder / "checkpoints" / "best.ckpt"


@pytest.fixture(scope="session")
def exported(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The session's run as a bundle; not to be written to."""
    place = tmp_path_factory.mktemp("exported")
    ran = command("export", f"checkpoint={checkpoint}", "output=line", "parity.limit=2", cwd=place)
    assert ran.code == 0, ran.out
    return place / "line"


@pytest.fixture
def session(widget: tuple[str, ...], tmp_path: Path) -> Callable[..., Any]:
    """Makes a training session on a copy of the small category's images, not yet run."""
    from anomaly_lightning.training.session import TrainingSession

    make_category(tmp_path)

    def make(*overrides: str) -> TrainingSession:
        folder = tmp_path / f"run{len(list(tmp_path.glob('run*')))}"
        given = (f"data.root={tmp_path}", f"run_dir={folder}", "reuse=false", "bootstrap=0", "test=false")
        other = any(override.startswith("model=") for override in overrides)
        small = [o for o in (*widget, *BARE) if not (other and o.startswith("model."))]  # the autoencoder's sizes
        return TrainingSession(composed(*small, *given, *overrides))

    return make


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Headless Chromium, for modules whose tests are marked `NEEDED`."""
    from browsers import chromium

    with chromium() as started:
        yield started
