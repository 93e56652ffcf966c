"""Fetching from a local server that drops, truncates, redirects and lies."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.error import HTTPError
from urllib.request import Request

import numpy as np
import pytest

from anomaly_lightning.data.fetch import AddressError, Connection, _NoDowngrade, fetch
from anomaly_lightning.errors import DataError

BODY = np.random.default_rng(0).bytes(1_000_000)
OTHER = np.random.default_rng(1).bytes(1_000_000)
QUICK = Connection(tries=3, timeout_s=1, wait_s=0.01, max_bytes=5_000_000)


class Server(ThreadingHTTPServer):
    """Serves BODY with the fault that the path names, and notes each request's range."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.ranges: list[str | None] = []
        self.address = f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def log_message(self, *_) -> None:
        pass

    def give(self, body: bytes, claim: int | None = None, tag: str | None = '"1"', ranges: bool = True) -> None:
        """Answer with a body, or with the rest of it that was asked for; `claim` is what the header says."""
        start = 0
        asked = self.headers.get("Range")
        if ranges and asked and self.headers.get("If-Range") == tag:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
        if start and start >= len(body):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{claim or len(body)}")
        if tag:
            self.send_header("ETag", tag)
        self.send_header("Content-Length", str((claim or len(body)) - start))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body[start:])

    def do_GET(self) -> None:
        self.server.ranges.append(self.headers.get("Range"))
        self.close_connection = True
        getattr(self, self.path.strip("/").replace("-", "_"))(len(self.server.ranges))

    def good(self, _: int) -> None:
        self.give(BODY)

    def drops(self, count: int) -> None:
        """Gives 300 kB more at each connection."""
        self.give(BODY[: 300_000 * count], len(BODY))

    def drops_without_ranges(self, count: int) -> None:
        self.give(BODY if count == 3 else BODY[:1000], len(BODY), ranges=False)

    def drops_without_mark(self, count: int) -> None:
        self.give(BODY if count == 3 else BODY[:1000], len(BODY), tag=None)

    def changes(self, count: int) -> None:
        """Breaks off in one file, and has another one under the same address the next time."""
        self.give(BODY[:400_000] if count == 1 else OTHER, len(BODY), tag=f'"{count}"')

    def wrong_piece(self, count: int) -> None:
        if count == 2:
            self.send_response(206)
            self.send_header("ETag", '"1"')
            self.send_header("Content-Range", f"bytes 5-9/{len(BODY)}")
            self.send_header("Content-Length", "5")
            self.end_headers()
            self.wfile.write(BODY[5:10])
        else:
            self.give(BODY[:1000] if count == 1 else BODY, len(BODY))

    def shrinks(self, count: int) -> None:
        """Has less than what came already."""
        self.give(BODY[:9000] if count == 1 else BODY[:2000], len(BODY) if count == 1 else None)

    def says_more(self, _: int) -> None:
        self.give(BODY, len(BODY) + 1000)

    def hangs(self, count: int) -> None:
        if count == 1:
            self.send_response(200)
            self.send_header("ETag", '"1"')
            self.send_header("Content-Length", str(len(BODY)))
            self.end_headers()
            self.wfile.write(BODY[:1000])
            self.wfile.flush()
            threading.Event().wait(2)
        else:
            self.give(BODY)

    def busy(self, count: int) -> None:
        self.give(BODY) if count == 3 else self.send_error(503)

    def always_busy(self, _: int) -> None:
        self.send_error(503)

    def huge(self, _: int) -> None:
        self.give(BODY, 10**12)

    def endless(self, _: int) -> None:
        self.send_response(200)
        self.end_headers()
        for _ in range(20):
            self.wfile.write(BODY)

    def chunks(self, count: int) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.write(b"%x\r\n%b\r\n" % (len(BODY), BODY))
        if count > 1:
            self.wfile.write(b"0\r\n\r\n")

    def redirects(self, _: int) -> None:
        self.redirect("/good")

    def loop(self, _: int) -> None:
        self.redirect("/loop")

    def to_a_file(self, _: int) -> None:
        self.redirect("file:///etc/hostname")

    def redirect(self, where: str) -> None:
        self.send_response(302)
        self.send_header("Location", where)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def missing(self, _: int) -> None:
        self.send_error(404)

    def forbidden(self, _: int) -> None:
        self.send_error(403)


@pytest.fixture
def server(monkeypatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("fault", "requests"),
    [
        ("good", 1),
        ("drops", 4),
        ("drops-without-ranges", 3),
        ("drops-without-mark", 3),
        ("wrong-piece", 3),
        ("hangs", 2),
        ("busy", 3),
        ("chunks", 2),
        ("redirects", 2),
    ],
)
def test_faults_that_pass(server, tmp_path, fault, requests):
    fetch(f"{server.address}/{fault}", tmp_path / "a.tar", QUICK)
    assert (tmp_path / "a.tar").read_bytes() == BODY
    assert [p.name for p in tmp_path.iterdir()] == ["a.tar"]
    assert len(server.ranges) == requests


def test_a_dropped_connection_goes_on_where_it_left_off(server, tmp_path):
    seen = []
    fetch(f"{server.address}/drops", tmp_path / "a", QUICK, lambda here, total: seen.append((here, total)))
    assert server.ranges == [None, "bytes=300000-", "bytes=600000-", "bytes=900000-"]
    assert seen == sorted(seen)
    assert seen[-1] == (len(BODY), len(BODY))


def test_the_next_call_goes_on(server, tmp_path):
    (tmp_path / "a.part").write_bytes(BODY[:123_456])
    (tmp_path / "a.part.version").write_text('"1"')
    fetch(f"{server.address}/good", tmp_path / "a", QUICK)
    assert server.ranges == ["bytes=123456-"]
    assert (tmp_path / "a").read_bytes() == BODY


def test_two_versions_of_a_file_are_never_joined(server, tmp_path):
    fetch(f"{server.address}/changes", tmp_path / "a", QUICK)
    assert server.ranges == [None, "bytes=400000-"]
    assert (tmp_path / "a").read_bytes() == OTHER


def test_a_part_longer_than_the_file_is_thrown_away(server, tmp_path):
    fetch(f"{server.address}/shrinks", tmp_path / "a", QUICK)
    assert (tmp_path / "a").read_bytes() == BODY[:2000]


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("missing", r"answers 404 .*the address is dead"),
        ("forbidden", r"answers 403 .*the address is dead"),
        ("loop", "the address is dead"),
        ("to-a-file", "not allowed: the address is dead"),
        ("always-busy", r"failed 3 times in a row: .*503"),
        ("says-more", "failed 3 times in a row"),
        ("huge", "more than 0.005 GB"),
        ("endless", "more than 0.005 GB"),
    ],
)
def test_faults_that_stay(server, tmp_path, fault, words):
    with pytest.raises(DataError, match=words):
        fetch(f"{server.address}/{fault}", tmp_path / "a", QUICK)
    assert not (tmp_path / "a").exists()


def test_nobody_listens(tmp_path):
    with pytest.raises(AddressError, match="failed 3 times in a row"):
        fetch("http://127.0.0.1:9/a", tmp_path / "a", QUICK)


@pytest.mark.parametrize("address", ["file:///etc/passwd", "ftp://x/y", "leather.tar.xz", ""])
def test_other_addresses_are_refused(tmp_path, address):
    with pytest.raises(DataError, match="starts with https://"):
        fetch(address, tmp_path / "a", QUICK)


def test_https_is_never_left():
    with pytest.raises(HTTPError, match="not safe"):
        _NoDowngrade().redirect_request(Request("https://a/b"), None, 302, "", {}, "http://a/b")


def test_a_part_that_cannot_be_written_is_named(server, tmp_path):
    (tmp_path / "a.part").mkdir()
    with pytest.raises(DataError, match=r"a.part can't be written.*the next call goes on"):
        fetch(f"{server.address}/good", tmp_path / "a", QUICK)
