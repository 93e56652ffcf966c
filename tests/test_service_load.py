"""The benchmark of a service: what its clients count. Nothing here looks at how fast anything was."""

import json
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from served import Redness, encoded, serving, spotted
from toy import command, flat

pytest.importorskip("fastapi", reason="needs the extra serve")

from anomaly_lightning.bench.load import Load, drive
from anomaly_lightning.bench.service import _summary, show
from anomaly_lightning.errors import UserError

REFUSED = 'anomaly_requests_total{route="/v1/inspect",status="429"}'
IMAGES = [encoded(spotted(level)) for level in (255, 90)]


def port_of(service):
    return int(service.url.rpartition(":")[2])


def until_refused(service):
    """Wait until a client was refused."""
    deadline = time.monotonic() + 60
    while not service.metric(REFUSED) and time.monotonic() < deadline:
        time.sleep(0.01)


def test_clients_count_what_the_service_counts(tmp_path):
    with serving(tmp_path, queue=2, max_images=2) as service, ThreadPoolExecutor(1) as others:
        queue = service.service.queue
        queue._mean_s = 0.005  # so that refused clients come back soon
        queue.take(2)
        others.submit(until_refused, service).add_done_callback(lambda _: queue.give(2))
        load = drive(port_of(service), IMAGES, clients=6, seconds=1.5)
        verdicts = [service.metric(f'anomaly_images_total{{model="toy",verdict="{word}"}}') for word in ("NG", "OK")]
        assert len(load.answered) == len(load.waited) == sum(verdicts) > 6
        assert abs(verdicts[0] - verdicts[1]) <= 1, "images take turns"
        assert load.refused == service.metric(REFUSED) > 0
        assert all(waited >= answered for waited, answered in zip(load.waited, load.answered, strict=True))
        assert max(load.answered) <= load.seconds


def test_another_answer_ends_the_measurement(tmp_path):
    engine = Redness()
    with serving(tmp_path, engine=engine) as service:
        engine.error = RuntimeError("broken")
        with pytest.raises(UserError, match="failed under 2 clients: 500"):
            drive(port_of(service), IMAGES, clients=2, seconds=1)


def test_ratios_are_medians_over_rounds_and_times_are_of_all_requests(capsys):
    # A loop of 0.1 s an image; three rounds in which the service took 0.1, 0.2 and 0.05 s.
    loads = [
        Load([0.1] * 10, [0.1] * 10, 1, 1.0),
        Load([0.2] * 5, [0.9] * 5, 2, 1.0),
        Load([0.05] * 20, [0.05] * 20, 0, 1.0),
    ]
    row = _summary(list(zip(loads, (1.1, 1.0, 1.2), strict=True)), [(0.1, 0.1)] * 3)
    assert row["images"] == 35
    assert row["per_second"] == 10
    assert row["ratio"] == pytest.approx(1.0)
    assert row["cpu_ratio"] == pytest.approx(1.1)
    assert row["refused"] == 3
    times = 1000 * np.concatenate([load.answered for load in loads])
    assert [row[f"p{q}_ms"] for q in (50, 95, 99)] == pytest.approx(np.percentile(times, (50, 95, 99)).tolist())
    assert row["waited_p95_ms"] == pytest.approx(900)
    show({"queue": 8, "workers": 1, "loop": {"image_ms": 100.0}, "clients": {4: row}})
    assert "queue 8, workers 1; a loop in one process takes 100.0 ms an image" in flat(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["suite=nothing"], "suite=nothing: expected one of speed, service, drift, scale, quality, certificates"),
        (["suite=service"], "needs load.bundle="),
        (["suite=service", "load.bundle=x", "load.images=nowhere"], "load.images=nowhere"),
    ],
)
def test_what_is_missing_is_named(arguments, words, tmp_path):
    ran = command("benchmark", *arguments, cwd=tmp_path)
    assert ran.code == 1
    assert words in flat(ran.out)


@pytest.mark.slow
def test_a_trained_model_is_served_and_measured(checkpoint, root, tmp_path):
    options = (
        f"load.bundle={checkpoint}",
        f"load.images={root}/widget/test/good",
        "load.clients=[1,3]",
        "run_dir=here",
    )
    ran = command("benchmark", "suite=service", *options, "load.rounds=1", "load.seconds=1", cwd=tmp_path)
    assert ran.code == 0, ran.out
    found = json.loads((tmp_path / "here" / "benchmark.json").read_text())
    assert set(found["clients"]) == {"1", "3"}
    assert all(row["images"] > 0 for row in found["clients"].values())
