"""predict with engine=ray: the rows of one machine, from several processes, whoever of them is killed and when."""

import importlib.util
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from bundles import make_bundle, make_images
from test_large_sets import rows

from anomaly_lightning.places import PACKAGE

RAY = all(importlib.util.find_spec(name) is not None for name in ("ray", "pyarrow"))
pytestmark = [
    pytest.mark.skipif(not RAY, reason="engine=ray needs the extra scale"),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks for processes in /proc"),
]
KILLS = 10
# Raises where anything imports torch; read by Python at the start of each process.
NO_TORCH = """
import sys

class Lacking:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "pytorch_lightning", "scipy", "timm"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Lacking())
"""


def start(bundle: Path, images: Path, out: Path, *more: str, path: str = "") -> subprocess.Popen:
    words = (f"checkpoint={bundle}", f"input={images}", f"output={out}", "format=parquet", "part=4", *more)
    environment = {**os.environ, "PYTHONPATH": f"{path}{PACKAGE.parent}", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "anomaly_lightning.predict", *words],
        cwd=out.parent,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def ended(process: subprocess.Popen, timeout: float = 600) -> str:
    out, _ = process.communicate(timeout=timeout)
    assert process.returncode == 0, out
    return out


def below(root: int) -> dict[int, str]:
    """Processes that descend from one, with their command lines."""
    parents, found = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
    inside = {root}
    while more := {pid for pid, parent in parents.items() if parent in inside} - inside:
        inside |= more
    return {pid: found[pid] for pid in inside - {root}}


def actors(process: subprocess.Popen) -> list[int]:
    """Processes that score, once they are more than a name."""
    return [pid for pid, words in below(process.pid).items() if "MapWorker" in words]


def parts(out: Path) -> int:
    return len(list((out / "rows").glob("part-*.parquet")))


def gone(pids: set[int]) -> Iterator[bool]:
    """Whether processes have ended, asked for half a minute."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        yield not any(Path(f"/proc/{pid}").exists() for pid in pids)
        time.sleep(0.2)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return make_images(tmp_path_factory.mktemp("images"), 1200)


@pytest.mark.slow  # Ray takes its time to start
def test_two_actors_give_the_rows_of_one_process_without_torch(images, tmp_path):
    bundle = make_bundle(tmp_path / "bundle")
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(NO_TORCH)
    some = images / "0"
    ended(start(bundle, some, tmp_path / "one", "threads=1"))
    ray = start(bundle, some, tmp_path / "two", "engine=ray", "ray.actors=2", path=f"{tmp_path / 'site'}:")
    seen: set[int] = set()
    while ray.poll() is None:
        seen |= set(below(ray.pid))
        time.sleep(0.1)
    said = ended(ray)
    assert "100 images: 34 NG, 66 OK, 0 unreadable." in said
    assert "Ray" not in said, "its own log stays in its files"
    assert rows(tmp_path / "two") == rows(tmp_path / "one")
    assert len(seen) > 2
    assert any(gone(seen)), "Ray is stopped"


@pytest.mark.slow
def test_actors_that_are_killed_cost_no_row(images, tmp_path):
    bundle, dice, killed = make_bundle(tmp_path / "bundle", work=40), random.Random(0), 0
    ray = start(bundle, images, tmp_path / "two", "engine=ray", "ray.actors=2")
    while ray.poll() is None and killed < KILLS:
        if parts(tmp_path / "two") and (there := actors(ray)):
            time.sleep(dice.uniform(0, 3))
            os.kill(dice.choice(there), signal.SIGKILL)
            killed += 1
        time.sleep(0.2)
    ended(ray)
    assert killed == KILLS
    ended(start(bundle, images, tmp_path / "one", "threads=1"))
    assert rows(tmp_path / "two") == rows(tmp_path / "one")


@pytest.mark.slow
@pytest.mark.parametrize(
    "engine", [("engine=local", "threads=1"), ("engine=ray", "ray.actors=2")], ids=("local", "ray")
)
def test_a_driver_that_is_killed_costs_no_row(images, tmp_path, engine):
    bundle, dice, out = make_bundle(tmp_path / "bundle", work=4), random.Random(1), tmp_path / "out"
    for _ in range(KILLS):
        process, before = start(bundle, images, out, *engine), parts(out)
        while process.poll() is None and parts(out) <= before:
            time.sleep(0.02)
        time.sleep(dice.uniform(0, 1.5))
        assert process.poll() is None, "it is killed before its end"
        process.kill()
        process.wait()
    assert 0 < parts(out) < 300
    said = ended(start(bundle, images, out, *engine))
    assert "of 1,200 were done before" in said
    ended(start(bundle, images, tmp_path / "one", "threads=1"))
    assert rows(out) == rows(tmp_path / "one")
