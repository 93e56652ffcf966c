"""The service's own routes: what is said of an image, and every way of not getting an answer."""

import base64
import gc
import io
import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image
from served import HEIGHT, TOKEN, WIDTH, Redness, encoded, inspector, serving, spotted

pytest.importorskip("fastapi", reason="needs the extra serve")

from anomaly_lightning.errors import UserError
from anomaly_lightning.runtime.heatmap import heatmap
from anomaly_lightning.serving import schema
from anomaly_lightning.serving.admission import WorkQueue
from anomaly_lightning.serving.models import Models
from anomaly_lightning.serving.problems import Problem
from anomaly_lightning.serving.settings import Settings

BEARER = {"Authorization": f"Bearer {TOKEN}"}
BROKEN = encoded(spotted())[:80]


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    """One that lets images of up to 10,000 pixels and bodies of up to 20 kB in."""
    with serving(tmp_path_factory.mktemp("models"), max_pixels=10_000, max_mb=0.02, max_images=3) as it:
        yield it


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("models"), ("left", "right"), token=TOKEN) as it:
        yield it


@pytest.fixture
def held(tmp_path):
    """One whose only worker waits, with places for three images."""
    engine = Redness()
    with serving(tmp_path, engine=engine, queue=3, max_images=3) as it:
        engine.gate.clear()
        engine.began.clear()
        it.before = engine.runs
        yield it


def until(holds):
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


def several(*images):
    return [("image", (name, data)) for name, data in images]


def test_what_is_said_is_what_the_inspector_says(service):
    answer = service.post("/v1/inspect?contours=true", encoded(spotted()))
    assert answer.status_code == 200
    found, said = answer.json(), inspector()(spotted())
    schema.InspectAnswer.model_validate(found)
    (image,) = found["images"]
    assert image["verdict"] == said.verdict == "NG"
    assert image["score"] == said.score
    assert (image["threshold"], image["pixel_threshold"]) == (said.threshold, said.pixel_threshold)
    assert (image["width"], image["height"]) == (WIDTH, HEIGHT)
    assert image["region_count"] == len(said.regions) == 1
    (region,) = image["regions"]
    assert region == {
        "box": list(said.regions[0].box),
        "area": said.regions[0].area,
        "peak": said.regions[0].peak,
        "contour": [list(point) for point in said.regions[0].contour],
    }
    assert set(image["timings_ms"]) == {"queue", "decode", "inspect", "draw"}
    assert sum(image["timings_ms"].values()) <= found["total_ms"]
    assert found["model"] == {"name": "toy", "id": service.service.models.get("toy").id}


def test_images_are_drawn_and_maps_come_as_they_are(service):
    said = inspector()(spotted())
    colours = heatmap(said.anomaly_map, said.pixel_threshold)
    for kind, expected in (("overlay", said.heatmap()), ("colors", colours)):
        (image,) = service.post(f"/v1/inspect?heatmap={kind}&map=true", encoded(spotted())).json()["images"]
        np.testing.assert_array_equal(Image.open(io.BytesIO(base64.b64decode(image["heatmap"]))), expected)
        np.testing.assert_array_equal(np.load(io.BytesIO(base64.b64decode(image["map"]))), said.anomaly_map)
        alone = service.post(f"/v1/heatmap?kind={kind}", encoded(spotted()))
        assert alone.headers["Content-Type"] == "image/png"
        assert (alone.headers["X-Verdict"], float(alone.headers["X-Score"])) == (said.verdict, said.score)
        np.testing.assert_array_equal(Image.open(io.BytesIO(alone.content)), expected)
    raw = service.post("/v1/map", encoded(spotted()))
    np.testing.assert_array_equal(np.load(io.BytesIO(raw.content)), said.anomaly_map)


def turned(values):
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(values, "JPEG", exif=exif)


@pytest.mark.parametrize("data", [turned(spotted()), encoded(spotted(), "TIFF"), encoded(spotted()[..., 0])])
def test_bytes_are_read_as_files_are(service, data, tmp_path):
    (tmp_path / "image").write_bytes(data)
    said = inspector()(tmp_path / "image")
    (image,) = service.post("/v1/inspect", data).json()["images"]
    assert (image["score"], image["width"], image["height"]) == (said.score, *said.image.size)


def test_of_several_images_a_broken_one_costs_itself_alone(service):
    files = several(("a.png", encoded(spotted())), ("b.png", BROKEN), ("c.png", encoded(spotted(90))))
    answer = service.post("/v1/inspect", files=files)
    assert answer.status_code == 200
    schema.InspectAnswer.model_validate(answer.json())
    first, second, third = answer.json()["images"]
    assert (first["name"], first["verdict"]) == ("a.png", "NG")
    assert (second["name"], second["status"]) == ("b.png", 422)
    assert second["error"].startswith("b.png: truncated")
    assert (third["name"], third["verdict"]) == ("c.png", "OK")


def test_fewer_regions_are_listed_than_counted(service):
    values = spotted()
    values[30:36, 5:15, 0] = 200
    (image,) = service.post("/v1/inspect?regions=1", encoded(values)).json()["images"]
    assert (image["region_count"], len(image["regions"])) == (2, 1)
    assert image["regions"][0]["peak"] == max(region.peak for region in inspector()(values).regions)


FORM = {"Content-Type": "multipart/form-data; boundary=x"}
REFUSED = {
    "no image": ("/v1/inspect", {"data": b"hello"}, 422, "is no image: text ('hello')"),
    "empty": ("/v1/inspect", {"data": b""}, 422, "0 bytes"),
    "truncated": ("/v1/inspect", {"data": BROKEN}, 422, "truncated"),
    "all broken": ("/v1/inspect", {"files": several(("a", BROKEN), ("b", b"x"))}, 422, "a: truncated"),
    "pixels": ("/v1/inspect", {"data": encoded(np.zeros((101, 100), np.uint8))}, 413, "claims 100x101 pixels"),
    "pixels alone": ("/v1/map", {"data": encoded(np.zeros((101, 100), np.uint8))}, 413, "claims 100x101 pixels"),
    "bytes": ("/v1/inspect", {"data": bytes(20_001)}, 413, "at most 20000 bytes"),
    "bytes in chunks": ("/v1/inspect", {"data": iter([bytes(15_000)] * 2)}, 413, "at most 20000 bytes"),
    "bytes in a form": ("/v1/inspect", {"files": several(("a", bytes(30_000)))}, 413, "at most 20000 bytes"),
    "images": ("/v1/inspect", {"files": several(*[("a", BROKEN)] * 4)}, 413, "at most 3 images"),
    "two for one": ("/v1/heatmap", {"files": several(*[("a", BROKEN)] * 2)}, 413, "at most 1 images"),
    "packed": ("/v1/inspect", {"data": b"x", "headers": {"Content-Encoding": "gzip"}}, 415, "Content-Encoding"),
    "no file": ("/v1/inspect", {"files": [("heatmap", (None, "overlay"))]}, 422, "'heatmap' is no file"),
    "nothing": ("/v1/inspect", {"data": b"--x--\r\n", "headers": FORM}, 422, "got none"),
    "form": ("/v1/inspect", {"data": b"nonsense", "headers": FORM}, 400, "form can't be read"),
    "no boundary": ("/v1/inspect", {"data": b"x", "headers": {"Content-Type": "multipart/form-data"}}, 400, "form"),
    "option": ("/v1/inspect?heatmap=red", {"data": b"x"}, 422, "heatmap: Input should be"),
    "regions": ("/v1/inspect?regions=-1", {"data": b"x"}, 422, "regions"),
    "no drawing": ("/v1/heatmap?kind=none", {"data": b"x"}, 422, "kind=none"),
    "model": ("/v1/inspect?model=cable", {"data": b"x"}, 404, "There is no model 'cable' here; there: toy"),
    "reload": ("/v1/models/toy/reload", {}, 403, "Without a token"),
    "path": ("/v1/nothing", {}, 404, "Not Found"),
    "method": ("/v1/models", {}, 405, "Not Allowed"),
    "host": ("/v1/inspect", {"data": b"x", "headers": {"Host": "evil.example"}}, 400, "nvalid host"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(service, case):
    path, options, status, words = REFUSED[case]
    answer = service.post(path, **options)
    assert answer.status_code == status
    assert words in answer.text
    service.until(0)


def test_errors_are_json_with_one_key(service):
    for path in ("/v1/inspect", "/v1/inspect?heatmap=red", "/v1/nothing", "/v1/inspect?model=x"):
        assert isinstance(service.post(path, b"").json()["error"], str)


def connected(service):
    host, port = service.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=30)


def test_a_slow_upload_is_given_up(tmp_path):
    with serving(tmp_path, upload_s=0.3) as service, connected(service) as sock:
        sock.sendall(b"POST /v1/inspect HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nhalf")
        assert b" 408 " in sock.recv(1000)
        service.until(0)


def test_several_models_are_asked_by_name(two):
    assert two.post("/v1/inspect", encoded(spotted()), headers=BEARER).status_code == 400
    for name in ("left", "right"):
        answer = two.post(f"/v1/inspect?model={name}", encoded(spotted()), headers=BEARER)
        assert answer.json()["model"]["name"] == name
    listed = two.get("/v1/models", headers=BEARER).json()
    for model in listed:
        schema.ModelAnswer.model_validate(model)
    assert [model["name"] for model in listed] == ["left", "right"]
    assert listed[0]["promise"] == "Of 100 good parts about 1 will be called defective (95 %: 0 to 4)."


OPEN = (
    "/",
    "/static/page.js",
    "/healthz",
    "/readyz",
    "/docs",
    "/openapi.json",
    "/v2",
    "/v2/health/live",
    "/v2/health/ready",
)
CLOSED = ("/v1/models", "/v1/decisions", "/metrics", "/v2/models/left", "/v2/models/left/ready")


def test_only_who_shows_the_token_gets_in(two):
    assert [two.get(path).status_code for path in OPEN] == [200] * len(OPEN)
    for headers, status in (({}, 401), ({"Authorization": "Bearer wrong"}, 401), (BEARER, 200)):
        assert [two.get(path, headers=headers).status_code for path in CLOSED] == [status] * len(CLOSED)
    for path in ("/v1/inspect", "/v1/heatmap", "/v1/map", "/v2/models/left/infer", "/v1/models/left/reload"):
        answer = two.post(path, encoded(spotted()))
        assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, "Bearer")


def test_a_full_queue_refuses_before_it_reads_and_answers_what_it_took(held):
    with ThreadPoolExecutor(3) as clients:
        taken = [clients.submit(held.post, "/v1/inspect", encoded(spotted())) for _ in range(3)]
        held.until(3)
        answer = held.post("/v1/inspect", encoded(spotted()))
        assert answer.status_code == 429
        assert int(answer.headers["Retry-After"]) >= 1
        assert answer.json()["retry_after_s"] <= int(answer.headers["Retry-After"])
        # A client that waits to be asked for its body is not asked.
        with connected(held) as sock:
            head = "POST /v1/inspect HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\nExpect: 100-continue\r\n\r\n"
            sock.sendall(head.encode())
            assert sock.recv(1000).startswith(b"HTTP/1.1 429 ")
        assert held.metric("anomaly_queue_length") == 3
        held.engine.gate.set()
        assert [future.result().status_code for future in taken] == [200] * 3
    held.until(0)
    assert held.metric('anomaly_images_total{model="toy",verdict="NG"}') == 3
    assert held.metric('anomaly_requests_total{route="/v1/inspect",status="429"}') == 2


def test_images_of_one_request_get_in_together_or_not_at_all(held):
    with ThreadPoolExecutor(1) as clients:
        taken = clients.submit(held.post, "/v1/inspect", encoded(spotted()))
        held.until(1)
        answer = held.post("/v1/inspect", files=several(*[("a", encoded(spotted()))] * 3))
        assert answer.status_code == 429
        held.until(1)
        held.engine.gate.set()
        assert taken.result().status_code == 200


def test_retry_times_differ_so_that_clients_do_not_come_back_together():
    queue = WorkQueue(workers=1, capacity=1)
    queue.take(1)
    seconds = []
    for _ in range(20):
        with pytest.raises(Problem) as caught:
            queue.admit()
        seconds.append(caught.value.extra["retry_after_s"])
    assert len(set(seconds)) > 10
    queue.close()


def test_what_is_late_is_told_so_and_not_done(tmp_path, caplog):
    engine = Redness()
    with serving(tmp_path, engine=engine, timeout_s=0.2) as held:
        engine.gate.clear()
        engine.began.clear()
        before, answers = engine.runs, []
        while not engine.began.is_set():  # on a busy machine the time may be up before the work begins
            answers.append(held.post("/v1/inspect", encoded(spotted())))
        with ThreadPoolExecutor(3) as clients:
            answers += clients.map(lambda _: held.post("/v1/inspect", encoded(spotted())), range(3))
        assert {answer.status_code for answer in answers} == {504}
        held.until(1)  # the one that is being worked on keeps its place
        engine.gate.set()
        held.until(0)
        assert engine.runs == before + 1
    gc.collect()  # which is when asyncio logs an exception that nobody looked at
    assert [one.getMessage() for one in caplog.records if one.name == "asyncio"] == []


def test_what_nobody_waits_for_is_not_done(held):
    body = encoded(spotted())
    head = f"POST /v1/inspect HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    socks = [connected(held) for _ in range(3)]
    for sock in socks:
        sock.sendall(head.encode() + body)
    held.until(3)
    assert held.engine.began.wait(30)
    until(lambda: held.service.queue._pool._work_queue.qsize() == 2)  # the bodies have been read
    for sock in socks:
        sock.close()
    held.until(1)
    held.engine.gate.set()
    held.until(0)
    assert held.engine.runs == held.before + 1


@pytest.mark.parametrize("path", ["/v1/inspect", "/v2/models/toy/infer"])
@pytest.mark.parametrize("kind", ["image/png", "multipart/form-data; boundary=x"])
def test_a_client_that_goes_while_it_sends_is_no_fault_of_the_service(tmp_path, caplog, path, kind):
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: 100\r\n\r\n--x"
    with serving(tmp_path) as service:
        with connected(service) as sock:
            sock.sendall(head.encode())
            service.until(1)
        service.until(0)
        route = path.replace("toy", "{name}")
        until(lambda: service.metric(f'anomaly_requests_total{{route="{route}",status="499"}}') == 1)
    assert [one.getMessage() for one in caplog.records if one.levelname == "ERROR"] == []


def test_a_fault_of_the_service_is_a_500_and_frees_the_place(tmp_path, caplog):
    engine = Redness()
    with serving(tmp_path, engine=engine) as broken:
        engine.error = RuntimeError("out of memory")
        answer = broken.post("/v1/inspect", encoded(spotted()))
        assert (answer.status_code, "out of memory" in caplog.text) == (500, True)
        assert "its log says what" in answer.json()["error"]
        engine.error = None
        assert broken.post("/v1/inspect", encoded(spotted())).status_code == 200
        assert broken.metric('anomaly_requests_total{route="/v1/inspect",status="500"}') == 1


def test_a_model_is_exchanged_under_load_and_no_request_is_lost(two, tmp_path):
    path, stop, answers = two.service.models.get("left").path, threading.Event(), []

    def client(_):
        while not stop.is_set():
            answer = two.post("/v1/inspect?model=left", encoded(spotted()), headers=BEARER)
            answers.append((answer.status_code, answer.json()["model"]["id"], answer.json()["images"][0]["verdict"]))

    def more():
        seen = len(answers)
        until(lambda: len(answers) >= seen + 8)

    ids = [two.service.models.get("left").id]
    with ThreadPoolExecutor(4) as clients:
        running = [clients.submit(client, number) for number in range(4)]
        try:
            for number in range(3):
                more()
                path.write_text(f"trained again, {number}")
                ids.append(two.post("/v1/models/left/reload", headers=BEARER).json()["id"])
            more()
        finally:
            stop.set()
        for future in running:
            future.result()
    assert len(set(ids)) == 4
    assert {status for status, _, _ in answers} == {200}
    assert {one for _, one, _ in answers} == set(ids)
    assert {verdict for _, _, verdict in answers} == {"NG"}
    assert two.metric(f'anomaly_model_info{{id="{ids[-1]}",model="left"}}') == 1
    assert two.metric(f'anomaly_model_info{{id="{ids[0]}",model="left"}}') == 0


def test_of_two_reloads_at_once_the_last_is_what_is_told(tmp_path, monkeypatch):
    with serving(tmp_path) as service:
        models, second, asked = service.service.models, [], threading.Event()
        load = models._load

        def slow(path):
            if not second:  # the first load: another one is asked for, and has as much time as it needs to come near
                second.append(clients.submit(service.service.reload, "toy"))
                asked.wait(0.5)
                path.write_text("trained twice")
            else:
                asked.set()
            return load(path)

        monkeypatch.setattr(models, "_load", slow)
        with ThreadPoolExecutor(1) as clients:
            (tmp_path / "toy").write_text("trained once")
            service.service.reload("toy")
            second[0].result()
        text = service.get("/metrics").text
        served = [line for line in text.splitlines() if line.startswith("anomaly_model_info{")]
        assert served == [f'anomaly_model_info{{id="{models.get("toy").id}",model="toy"}} 1.0']


def test_a_model_that_can_not_be_loaded_leaves_the_one_before(two):
    before = two.service.models.get("right")
    kept = before.path.read_bytes()
    before.path.unlink()
    try:
        answer = two.post("/v1/models/right/reload", headers=BEARER)
    finally:
        before.path.write_bytes(kept)
    assert answer.status_code == 422
    assert "The model before stays" in answer.json()["error"]
    assert two.service.models.get("right") is before
    assert two.metric('anomaly_model_loads_total{model="right",outcome="failed"}') == 1
    assert two.post("/v1/models/nothing/reload", headers=BEARER).status_code == 404


def test_metrics_count_what_was_answered(tmp_path):
    with serving(tmp_path, max_pixels=10_000) as it:
        for level, times in ((255, 2), (90, 3)):
            for _ in range(times):
                it.post("/v1/inspect", encoded(spotted(level)))
        it.post("/v1/inspect", BROKEN)
        it.post("/v1/inspect", files=several(("a", encoded(spotted())), ("b", BROKEN)))
        it.post("/v1/nothing")
        assert it.metric('anomaly_images_total{model="toy",verdict="NG"}') == 3
        assert it.metric('anomaly_images_total{model="toy",verdict="OK"}') == 3
        assert it.metric('anomaly_images_total{model="toy",verdict="INVALID"}') == 0
        assert it.metric('anomaly_images_refused_total{model="toy"}') == 2
        assert it.metric('anomaly_requests_total{route="/v1/inspect",status="200"}') == 6
        assert it.metric('anomaly_requests_total{route="/v1/inspect",status="422"}') == 1
        assert it.metric('anomaly_requests_total{route="other",status="404"}') == 1
        assert it.metric('anomaly_request_seconds_count{route="/v1/inspect"}') == 7
        for stage in ("queue", "decode", "inspect", "draw"):
            assert it.metric(f'anomaly_stage_seconds_count{{model="toy",stage="{stage}"}}') == 6
        assert it.metric("anomaly_queue_capacity") == 8
        assert it.get("/metrics").headers["Content-Type"].startswith("text/plain")


def test_the_last_decisions_are_listed(tmp_path):
    with serving(tmp_path, recent=3) as it:
        for name in "abcde":
            it.post("/v1/inspect", files=several((name, encoded(spotted()))))
        found = it.get("/v1/decisions").json()
        schema.Decisions.model_validate(found)
        assert [one["name"] for one in found["decisions"]] == ["c", "d", "e"]
        last = found["decisions"][-1]
        assert (last["number"], last["verdict"], last["model"]) == (5, "NG", "toy")
        assert [one["name"] for one in it.get("/v1/decisions?after=4").json()["decisions"]] == ["e"]


def test_a_score_that_is_no_number_is_null_and_ng(tmp_path):
    class Nothing(Redness):
        def run(self, images):
            return np.full_like(images[:, 0], np.nan), np.full(len(images), np.nan, np.float32)

    with serving(tmp_path, engine=Nothing()) as it:
        (image,) = json.loads(it.post("/v1/inspect", encoded(spotted())).text, parse_constant=pytest.fail)["images"]
        assert (image["score"], image["verdict"]) == (None, "NG")


def test_openapi_lists_every_answer(service):
    paths = service.get("/openapi.json").json()["paths"]
    assert {"/v1/inspect", "/v1/heatmap", "/v1/map", "/v1/models", "/v2/models/{name}/infer", "/metrics"} <= set(paths)
    assert {"200", "401", "413", "422", "429", "504"} <= set(paths["/v1/inspect"]["post"]["responses"])
    page = service.get("/docs").text
    assert "http://" not in page.replace(service.url, "")
    assert "https://" not in page


SETTINGS = {
    "others may come in": ({"host": "0.0.0.0"}, "can be reached from other machines"),
    "by its name": ({"host": "inspection.example"}, "can be reached from other machines"),
    "an empty token": ({"token": " "}, "token is empty"),
    "two tokens": ({"token": "a", "token_file": "b"}, "contradict each other"),
    "no such file": ({"token_file": "/nowhere"}, "can't be read"),
    "no queue": ({"queue": 0}, "queue=0: expected a number above 0"),
    "a queue too short": ({"queue": 2, "max_images": 3}, "contradicts queue=2"),
    "threads": ({"threads": 0}, "threads=0: expected a number above 0"),
    "port": ({"port": 70000}, "port=70000"),
    "time": ({"timeout_s": -1}, "timeout_s=-1"),
}


@pytest.mark.parametrize("case", SETTINGS)
def test_settings_that_make_no_sense_are_named(case):
    given, words = SETTINGS[case]
    with pytest.raises(UserError, match=words):
        _ = Settings(bundle="x", **given).secret


@pytest.mark.parametrize("given", [{"token": "secret"}, {"insecure": True}])
def test_other_machines_are_let_in_with_a_token_or_on_purpose(given):
    assert Settings(bundle="x", host="0.0.0.0", **given).known_hosts == ["*"]


def test_a_token_comes_from_a_file(tmp_path):
    (tmp_path / "token").write_text("secret\n")
    assert Settings(bundle="x", host="::", token_file=str(tmp_path / "token")).secret == "secret"


def test_models_are_named_by_their_category_or_as_the_user_says(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).write_text(name)
    one, two = str(tmp_path / "one"), str(tmp_path / "two")

    def load(path):
        return inspector()

    assert [model.name for model in Models(one, load).all()] == ["toy"]
    assert [model.name for model in Models({"a": one, "b": two}, load).all()] == ["a", "b"]
    with pytest.raises(UserError, match="are both called 'toy'"):
        Models([one, two], load)
    with pytest.raises(UserError, match="names no model"):
        Models([], load)
    with pytest.raises(UserError, match="can't be a model's name"):
        Models({"a/b": one}, load)
    with pytest.raises(UserError, match="nowhere can't be read"):
        Models(str(tmp_path / "nowhere"), load)
