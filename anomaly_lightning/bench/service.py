"""What a service makes of a model: its throughput as a ratio to a loop in one process, and how long clients wait."""

import http.client
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig
from rich import box
from rich.console import Console
from rich.table import Table

from anomaly_lightning.bench.load import Load, drive
from anomaly_lightning.errors import UserError
from anomaly_lightning.reports import run_files
from anomaly_lightning.runtime.files import images_in
from anomaly_lightning.runtime.inspector import Inspector

WARMUP = 3
CAPTION = "ratio: throughput to the loop's; p95/img: in images of the loop; p95 all: with refusals and pauses before"


def measure(cfg: DictConfig) -> dict[str, Any]:
    """Do what `cfg.load` says; returns what benchmark.json holds, and writes it.

    Loop and clients take turns, round after round, so that whatever else the machine does meets all of them.

    Raises:
        UserError: An option is missing or makes no sense, or the service fails.
    """
    known = cfg.load
    if known.bundle is None or known.images is None:
        raise UserError("suite=service needs load.bundle=<checkpoint or bundle> and load.images=<folder>.")
    files = images_in(Path(known.images).expanduser(), recursive=True)
    if not files:
        raise UserError(f"load.images={known.images}: there is no image in it.")
    Path(cfg.run_dir).mkdir(parents=True, exist_ok=True)
    inspector = Inspector.load(known.bundle, threads=known.threads)
    loops: list[tuple[float, float]] = []
    loads: dict[int, list[tuple[Load, float]]] = {clients: [] for clients in known.clients}
    images = [file.read_bytes() for file in files]
    with _service(known) as port:
        drive(port, images, 1, 0.0)
        for file in files[:WARMUP]:
            inspector(file)
        for _ in range(known.rounds):
            loops.append(_loop(inspector, files, known.seconds))
            for clients, found in loads.items():
                before = _cpu_seconds(port)
                load = drive(port, images, clients, known.seconds)
                found.append((load, _cpu_seconds(port) - before))
    measured = {
        "machine": run_files.environment(),
        "queue": known.queue,
        "workers": known.workers,
        "loop": {"image_ms": 1000 * float(np.median([wall for wall, _ in loops])), "images": len(files)},
        "clients": {clients: _summary(found, loops) for clients, found in loads.items()},
    }
    run_files.write_json(Path(cfg.run_dir) / "benchmark.json", measured)
    return measured


def show(measured: Mapping[str, Any]) -> None:
    """Print the table."""
    loop, console = measured["loop"]["image_ms"], Console()
    setting = f"queue {measured['queue']}, workers {measured['workers']}"
    title = f"service, {setting}; a loop in one process takes {loop:.1f} ms an image"
    table = Table(title=title, caption=CAPTION, title_justify="left", caption_justify="left", box=box.SIMPLE)
    names = ("clients", "1/s", "ratio", "by CPU", "p50 ms", "p95", "p99", "p95/img", "429s", "p95 all")
    for name in names:
        table.add_column(name, justify="right")
    for clients, row in measured["clients"].items():
        times = [f"{row[key]:.0f}" for key in ("p50_ms", "p95_ms", "p99_ms")]
        ratios = [f"{row['per_second']:.1f}", f"{row['ratio']:.2f}", f"{row['cpu_ratio']:.2f}"]
        rest = [f"{row['p95_ms'] / loop:.1f}", str(row["refused"]), f"{row['waited_p95_ms']:.0f}"]
        table.add_row(str(clients), *ratios, *times, *rest)
    console.print(table)


def _loop(inspector: Inspector, files: Sequence[Path], seconds: float) -> tuple[float, float]:
    """Wall and CPU seconds an image of what a program of ten lines does."""
    count, wall, cpu = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() < wall + seconds:
        said = inspector(files[count % len(files)])
        _ = said.verdict, said.regions
        count += 1
    return (time.perf_counter() - wall) / count, (time.process_time() - cpu) / count


def _summary(found: Sequence[tuple[Load, float]], loops: Sequence[tuple[float, float]]) -> dict[str, float]:
    """Medians over the rounds of the ratios; percentiles of all requests, in milliseconds."""
    answered = 1000 * np.concatenate([load.answered for load, _ in found])
    waited = 1000 * np.concatenate([load.waited for load, _ in found])
    rates = [len(load.answered) / load.seconds for load, _ in found]
    p50, p95, p99 = np.percentile(answered, (50, 95, 99)).tolist()
    spent = [cpu / len(load.answered) for load, cpu in found]
    return {
        "images": len(answered),
        "per_second": float(np.median(rates)),
        "ratio": float(np.median([rate * wall for rate, (wall, _) in zip(rates, loops, strict=True)])),
        "cpu_ratio": float(np.median([cpu / own for cpu, (_, own) in zip(spent, loops, strict=True)])),
        "p50_ms": p50,
        "p95_ms": p95,
        "p99_ms": p99,
        "waited_p95_ms": float(np.percentile(waited, 95)),
        "refused": sum(load.refused for load, _ in found),
    }


@contextmanager
def _service(known: DictConfig) -> Iterator[int]:
    """Port of a service in a process of its own."""
    arguments = [f"bundle={known.bundle}", f"queue={known.queue}", f"workers={known.workers}", "max_images=1", "port=0"]
    arguments.append("marks=null")  # a loop records nothing, either
    arguments.append(f"threads={'null' if known.threads is None else known.threads}")
    command = [sys.executable, "-m", "anomaly_lightning.serve", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            assert process.stdout is not None
            greeting = process.stdout.readline()
            if not (place := re.search(r"http://127\.0\.0\.1:(\d+)", greeting)):
                raise UserError(f"The service did not start: {greeting}{process.stdout.read()}")
            yield int(place[1])
        finally:
            process.terminate()


def _cpu_seconds(port: int) -> float:
    """CPU time of the service's process so far; NaN where the system does not tell."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    found = re.search(r"^process_cpu_seconds_total (\S+)$", text, re.MULTILINE)
    return float(found[1]) if found else float("nan")
