"""The service as a process: it answers what it took before it ends, loads again on SIGHUP, and says what is wrong."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests
from served import encoded, spotted
from test_public import base
from toy import command

pytest.importorskip("fastapi", reason="needs the extra serve")

ROOT = Path(__file__).resolve().parents[1]
# The command with a model made by hand, each of whose runs waits while there is a file `hold`.
SLOW = """
import sys, time
from pathlib import Path

sys.path.insert(0, "tests")
from served import Redness, inspector

from anomaly_lightning.runtime.inspector import Inspector
from anomaly_lightning.serve import main


class Slow(Redness):
    def run(self, images):
        while Path(sys.argv[1].partition("=")[2]).with_name("hold").exists():
            time.sleep(0.01)
        return super().run(images)


Inspector.load = lambda *given: inspector(Slow())
main()
"""


@pytest.fixture
def process(tmp_path):
    (tmp_path / "model").write_text("as first trained")
    arguments = [sys.executable, "-c", SLOW, f"bundle={tmp_path}/model", "port=0", "queue=8"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        arguments, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as started:
        started.url = re.search(r" at (http://\S+)", started.stdout.readline())[1]
        started.model, started.hold = tmp_path / "model", tmp_path / "hold"
        try:
            yield started
        finally:
            if started.poll() is None:
                started.kill()


def ask(method, url, **options):
    with requests.Session() as session:
        session.trust_env = False
        return session.request(method, url, timeout=60, **options)


def wait_for(holds):
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def answers(process):
    try:
        return ask("GET", f"{process.url}/readyz").status_code == 200
    except requests.ConnectionError:
        return False


def test_it_answers_what_it_took_before_it_ends_and_loads_again_on_sighup(process):
    wait_for(lambda: answers(process))  # its socket is bound before it listens

    def model():
        return ask("GET", f"{process.url}/v1/models").json()[0]["id"]

    before = model()
    process.model.write_text("trained again")
    process.send_signal(signal.SIGHUP)
    wait_for(lambda: model() != before)

    process.hold.touch()
    with ThreadPoolExecutor(8) as clients:
        body = encoded(spotted())
        taken = [clients.submit(ask, "POST", f"{process.url}/v1/inspect", data=body) for _ in range(8)]
        wait_for(lambda: "anomaly_queue_length 8.0" in ask("GET", f"{process.url}/metrics").text)
        process.send_signal(signal.SIGTERM)
        wait_for(lambda: not answers(process))  # it takes no more
        assert not any(future.done() for future in taken)
        process.hold.unlink()
        found = [future.result() for future in taken]
    assert [answer.status_code for answer in found] == [200] * 8
    assert {answer.json()["images"][0]["verdict"] for answer in found} == {"NG"}
    assert process.wait(30) == 0
    assert "every request that was taken has been answered" in process.stdout.read()
    assert not answers(process)


def test_a_port_that_is_taken_is_named_before_a_model_is_loaded(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ran = command("serve", "bundle=nowhere", f"port={port}", cwd=tmp_path)
    assert ran.code == 1
    assert f"port={port}: Address already in use" in ran.out
    assert "Traceback" not in ran.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "There is no default for bundle"),
        (["bundle=nowhere", "port=0"], "bundle=nowhere can't be read: No such file"),
        (["bundle=x", "host=0.0.0.0"], "can be reached from other machines"),
        (["bundle=x", "que=3"], "que"),
        (["bundle=x", "keep=some"], "keep: Invalid enum value 'some'. Expected one of all, flagged, none."),
        (["bundle=x", "port=abc"], "port: Expected `int`, got `str`"),
        (["bundle=3"], "bundle=3 can't be read: No such file"),
    ],
)
def test_a_mistake_is_one_paragraph(arguments, words, tmp_path):
    ran = command("serve", *arguments, cwd=tmp_path)
    assert ran.code == 1
    assert words in ran.out
    assert "Traceback" not in ran.out
    assert not list(tmp_path.iterdir())


def test_without_its_extra_the_command_says_what_to_install(tmp_path):
    ran = base('LACKING.add("fastapi")\nfrom anomaly_lightning.serve import main; main()', "bundle=x", cwd=tmp_path)
    assert ran.returncode == 1
    assert ran.stderr.splitlines() == ["serve needs fastapi, which is not here: pip install 'anomaly-lightning[serve]'"]


def test_the_service_needs_no_torch():
    ran = base(
        "import anomaly_lightning.serving.run, sys\n"
        "assert not {name.partition('.')[0] for name in sys.modules} & LACKING\n"
    )
    assert ran.returncode == 0, ran.stderr
