"""Sinks: each line at least once and in order, over brokers and servers that die, drop, delay and refuse."""

import hashlib
import hmac
import json
import shutil
import signal
import socket
import subprocess
import threading
import time
from base64 import b64decode, b64encode
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from lines import Given, image, line, lines, wait_for

from anomaly_lightning.deploy.line.sinks import DeliveryError, Message, RefusedError, Sink
from anomaly_lightning.deploy.line.sinks.jsonl import JsonLinesSink
from anomaly_lightning.deploy.line.sinks.mqtt import MqttSink
from anomaly_lightning.deploy.line.sinks.webhook import WebhookSink, signature
from anomaly_lightning.errors import UserError

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"  # of the specification's example


class Kept(Sink):
    """Keeps ids; raises what it is told to before it takes a message."""

    def __init__(self, errors=()):
        self.ids, self.errors, self.closed = [], list(errors), False

    def deliver(self, message):
        if self.errors and (error := self.errors.pop(0)) is not None:
            raise error
        self.ids.append(message.id)

    def close(self):
        self.closed = True


def ids(folder):
    return [row["id"] for row in lines(folder)]


def test_every_line_comes_in_order_over_failures(tmp_path):
    sink = Kept([None, DeliveryError("gone"), DeliveryError("gone"), None, ValueError("a mistake in a plug-in")])
    summary = line(Given([image()] * 5), tmp_path, {"kept": sink}).run()
    assert sink.ids == ids(tmp_path)
    assert sink.closed
    assert (summary.sinks["kept"].delivered, summary.sinks["kept"].waiting) == (5, False)


class Until(Given):
    """Comes to its end, or gives its parts, when `holds`."""

    def __init__(self, items, holds, first=False):
        super().__init__(items)
        self.holds, self.first = holds, first

    def parts(self, feed):
        if self.first:
            wait_for(self.holds)
        yield from super().parts(feed)
        wait_for(self.holds)


def test_what_was_not_delivered_comes_after_the_next_start(tmp_path):
    dead = Kept([None, None] + [DeliveryError("gone")] * 10_000)
    source = Until([image()] * 5, lambda: len(dead.ids) == 2)
    summary = line(source, tmp_path, {"kept": dead}, flush_s=0.1).run()
    assert dead.ids == ids(tmp_path)[:2]
    assert summary.sinks["kept"].waiting
    alive, other = Kept(), Kept()
    line(Given([image()]), tmp_path, {"kept": alive, "other": other}).run()
    assert alive.ids == ids(tmp_path)[2:]
    assert other.ids == ids(tmp_path)


def test_a_sink_that_was_away_is_tried_again_when_the_line_ends(tmp_path):
    sink = Kept([DeliveryError("gone")])
    source = Until([image()] * 3, lambda: not sink.errors)  # it waits for its next try when the line ends
    summary = line(source, tmp_path, {"kept": sink}, retry_first_s=1000.0, retry_longest_s=1000.0, flush_s=30.0).run()
    assert sink.ids == ids(tmp_path)
    assert not summary.sinks["kept"].waiting


def test_a_crash_before_the_mark_repeats_one_line_and_loses_none(tmp_path):
    first, second = Kept(), Kept()
    line(Given([image()] * 2), tmp_path, {"kept": first}).run()
    mark = (tmp_path / "delivered" / "kept.json").read_bytes()
    line(Given([image()]), tmp_path, {"kept": first}).run()
    (tmp_path / "delivered" / "kept.json").write_bytes(mark)
    line(Given([image()]), tmp_path, {"kept": second}).run()
    assert first.ids + second.ids[1:] == ids(tmp_path)
    assert second.ids[0] == first.ids[-1]


def test_a_journal_that_was_moved_away_starts_anew(tmp_path, caplog):
    line(Given([image()] * 3), tmp_path, {"kept": Kept()}).run()
    (tmp_path / "journal.jsonl").rename(tmp_path / "archive.jsonl")
    sink = Kept()
    line(Given([image()] * 5), tmp_path, {"kept": sink}).run()
    assert sink.ids == ids(tmp_path)
    assert len(sink.ids) == 5
    assert "does not fit the journal" in caplog.text


def test_a_line_that_is_refused_is_put_aside(tmp_path):
    sink = Kept([None, RefusedError("it makes no sense")])
    summary = line(Given([image()] * 3), tmp_path, {"kept": sink}).run()
    refused = ids(tmp_path)[1]
    assert [row["id"] for row in lines(tmp_path, "refused-kept.jsonl")] == [refused]
    assert sink.ids == [name for name in ids(tmp_path) if name != refused]
    assert (summary.sinks["kept"].delivered, summary.sinks["kept"].refused) == (2, 1)


def test_a_slow_sink_holds_nobody_up(tmp_path):
    class Slow(Kept):
        def deliver(self, message):
            released.wait(60)
            super().deliver(message)

    released, slow, quick = threading.Event(), Slow(), Kept()
    made = line(Given([image()] * 5), tmp_path, {"slow": slow, "quick": quick})
    thread = threading.Thread(target=made.run)
    thread.start()
    wait_for(lambda: len(quick.ids) == 5)
    assert slow.ids == []
    released.set()
    thread.join()
    assert slow.ids == quick.ids


def message(name, day="2026-11-28"):
    row = {"id": name, "decided": f"{day}T10:00:00.000+00:00"}
    return Message(row, json.dumps(row).encode())


def test_a_file_for_each_day_has_each_line_once_and_whole(tmp_path):
    sink = JsonLinesSink(tmp_path)
    for part in ("a", "b"):
        sink.deliver(message(part))
    sink.close()
    with (tmp_path / "2026-11-28.jsonl").open("ab") as stream:
        stream.write(b'{"id": "cut')
    again = JsonLinesSink(tmp_path)  # after a crash before the mark: the last line comes again
    for part in (message("b"), message("c"), message("d", "2026-11-29")):
        again.deliver(part)
    assert [row["id"] for row in lines(tmp_path, "2026-11-28.jsonl")] == ["a", "b", "c"]
    assert [row["id"] for row in lines(tmp_path, "2026-11-29.jsonl")] == ["d"]


def test_a_folder_that_can_not_be_written_is_tried_again(tmp_path):
    (tmp_path / "results").write_text("a file")
    with pytest.raises(DeliveryError, match="results"):
        JsonLinesSink(tmp_path / "results").deliver(message("a"))


# Webhook


class Receiver(ThreadingHTTPServer):
    """Answers as `behaviour` says, one word for each request, then 200; keeps what it accepted and all it was sent."""

    def __init__(self, behaviour=()):
        self.behaviour, self.accepted, self.tried = list(behaviour), [], []
        super().__init__(("127.0.0.1", 0), Answer)
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/hook"


class Answer(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.tried.append((dict(self.headers), body))
        what = self.server.behaviour.pop(0) if self.server.behaviour else 200
        if what == "drop":
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        if what == "delay":
            time.sleep(0.5)
        if what in ("accept and drop", "delay", 200):
            self.server.accepted.append((dict(self.headers), body))
        if what == "accept and drop":
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        self.send_response(what if isinstance(what, int) else 200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *arguments):
        """Say nothing."""


@pytest.fixture
def receiver(monkeypatch):
    """A function that starts a server; the secret is in the environment, and no proxy stands between."""
    monkeypatch.setenv("ANOMALY_WEBHOOK_SECRET", SECRET)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    made = []

    def start(*behaviour):
        made.append(Receiver(behaviour))
        return made[-1]

    yield start
    for server in made:
        server.shutdown()
        server.server_close()


def webhook(server, timeout_s=60):
    return WebhookSink(server.url, "ANOMALY_WEBHOOK_SECRET", timeout_s)


def test_the_signature_is_that_of_the_specification():
    key = b64decode(SECRET.removeprefix("whsec_"))
    made = signature(key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert made == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_a_server_that_fails_in_every_way_gets_every_line_in_order(tmp_path, receiver):
    server = receiver(500, "drop", "delay", 503, "accept and drop", 200, 429, 404, 401, 302)
    summary = line(Given([image()] * 6), tmp_path, {"webhook": webhook(server, timeout_s=0.2)}).run()
    assert summary.sinks["webhook"].delivered == 6
    accepted = [headers["webhook-id"] for headers, _ in server.accepted]
    assert list(dict.fromkeys(accepted)) == ids(tmp_path), "each at least once, and in order"
    assert len(accepted) > 6, "what was taken and not answered came twice, under the same id"
    key = b64decode(SECRET.removeprefix("whsec_"))
    rows = {row["id"]: row for row in lines(tmp_path)}
    for headers, body in server.tried:
        signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
        digest = b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()
        assert headers["webhook-signature"] == f"v1,{digest}"
        assert headers["Idempotency-Key"] == headers["webhook-id"]
        assert json.loads(body) == rows[headers["webhook-id"]]
        assert abs(int(headers["webhook-timestamp"]) - time.time()) < 60


def test_a_body_that_the_server_calls_wrong_does_not_stop_the_others(tmp_path, receiver):
    server = receiver(200, 422)
    line(Given([image()] * 3), tmp_path, {"webhook": webhook(server)}).run()
    assert len(server.accepted) == 2
    assert len(lines(tmp_path, "refused-webhook.jsonl")) == 1


def test_a_server_that_is_not_there_costs_the_line_nothing(tmp_path, receiver):
    server = receiver()
    server.shutdown()
    server.server_close()
    summary = line(Given([image()] * 3), tmp_path, {"webhook": webhook(server)}, flush_s=0.1).run()
    assert (len(ids(tmp_path)), summary.sinks["webhook"].waiting) == (3, True)


@pytest.mark.parametrize("secret", [None, "", "plain", "whsec_c2hvcnQ=", "whsec_!!!"])
def test_a_secret_that_others_could_not_use_is_refused(monkeypatch, secret):
    monkeypatch.delenv("ANOMALY_WEBHOOK_SECRET", raising=False)
    if secret is not None:
        monkeypatch.setenv("ANOMALY_WEBHOOK_SECRET", secret)
    with pytest.raises(UserError, match=r"ANOMALY_WEBHOOK_SECRET.*whsec_"):
        WebhookSink("http://127.0.0.1:9/", "ANOMALY_WEBHOOK_SECRET", 1.0)


# MQTT, against a broker that the test starts


class Broker:
    """mosquitto on a port of its own, that forgets nothing at a kill."""

    def __init__(self, program, folder):
        self.place = socket.socket()  # bound and never listening: nobody else is given the port, not even at a kill
        self.place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.place.bind(("127.0.0.1", 0))
        self.program, self.port = program, self.place.getsockname()[1]
        self.config = folder / "mosquitto.conf"
        self.config.write_text(
            f"listener {self.port} 127.0.0.1\nallow_anonymous true\npersistence true\n"
            f"persistence_location {folder}/\nautosave_on_changes true\nautosave_interval 1\nuser root\n"
        )
        self.start()

    def start(self):
        self.process = subprocess.Popen([self.program, "-c", str(self.config)], stderr=subprocess.DEVNULL)
        wait_for(self._answers)

    def _answers(self):
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def sink(self, **changed):
        known = {"topic": "inspection/line", "client_id": "line", "username": None, "password_env": "NONE"}
        more = {"tls": False, "ca_file": None, "keepalive_s": 60, "timeout_s": 20.0}
        return MqttSink("127.0.0.1", self.port, **{**known, **more, **changed})


@pytest.fixture
def broker(tmp_path):
    program = shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin:/opt/homebrew/sbin")
    if program is None:
        pytest.skip("mosquitto is not installed (Debian: apt-get install mosquitto)")
    (tmp_path / "broker").mkdir()
    made = Broker(program, tmp_path / "broker")
    yield made
    made.kill()
    made.place.close()


@pytest.fixture
def heard(broker):
    """(topic, payload) of all that a subscriber with a session of its own gets; it reconnects by itself."""
    from paho.mqtt import client as paho

    found, ready = [], threading.Event()
    client = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id="listener", clean_session=False)
    client.on_connect = lambda *a: client.subscribe("inspection/#", qos=1)
    client.on_subscribe = lambda *a: ready.set()
    client.on_message = lambda client, data, got: found.append((got.topic, got.payload))
    client.reconnect_delay_set(0.05, 0.2)
    client.connect("127.0.0.1", broker.port, 5)
    client.loop_start()
    assert ready.wait(30)
    yield found
    client.disconnect()
    client.loop_stop()


def results(heard):
    return [json.loads(body)["id"] for topic, body in heard if topic == "inspection/line/result"]


def test_a_broker_that_is_killed_twice_loses_nothing(tmp_path, broker, heard):
    made = line(Given([image()] * 90, 0.02), tmp_path / "out", {"mqtt": broker.sink()})
    thread = threading.Thread(target=made.run)
    thread.start()
    for count in (15, 45):
        wait_for(lambda count=count: len(results(heard)) >= count)
        broker.kill()
        time.sleep(0.3)
        broker.start()
    thread.join(90)
    assert not thread.is_alive()
    wait_for(lambda: set(results(heard)) == set(ids(tmp_path / "out")))
    assert list(dict.fromkeys(results(heard))) == ids(tmp_path / "out")
    assert len(ids(tmp_path / "out")) == 90


def test_a_broker_hears_that_a_line_is_there_that_it_lives_and_that_it_ends(tmp_path, broker, heard):
    source = Until([image(red=True)], lambda: any(topic.endswith("heartbeat") for topic, _ in list(heard)), first=True)
    line(source, tmp_path / "out", {"mqtt": broker.sink()}, heartbeat_s=0.05).run()
    wait_for(lambda: ("inspection/line/status", b"offline") in heard)
    assert next(body for topic, body in heard if topic.endswith("status")) == b"online"
    beats = [json.loads(body) for topic, body in heard if topic == "inspection/line/heartbeat"]
    assert beats[0]["state"] == "running"
    (result,) = [json.loads(body) for topic, body in heard if topic == "inspection/line/result"]
    assert result == lines(tmp_path / "out")[0]
    assert result["decision"] == "NG"


def test_a_broker_tells_of_a_line_that_ended_without_a_word(broker, heard):
    sink = broker.sink()
    sink.keep()
    wait_for(lambda: ("inspection/line/status", b"online") in heard)
    sink._client.socket().shutdown(socket.SHUT_RDWR)  # as the end of the process does it
    wait_for(lambda: ("inspection/line/status", b"offline") in heard)


def test_a_broker_that_is_not_there_is_tried_again(broker):
    sink = broker.sink()
    broker.kill()
    with pytest.raises(DeliveryError, match="can't be reached"):
        sink.deliver(message("a"))
    broker.start()
    sink.deliver(message("a"))
    sink.close()


def test_a_user_needs_a_password(monkeypatch, broker):
    monkeypatch.delenv("SECRET_WORD", raising=False)
    with pytest.raises(UserError, match="SECRET_WORD"):
        broker.sink(username="line", password_env="SECRET_WORD")


def test_a_topic_is_one_place(broker):
    with pytest.raises(UserError, match="without"):
        broker.sink(topic="inspection/#")
