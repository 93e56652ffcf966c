"""Sources: files at a pace, frames of a video and of a stream that breaks off; the line command."""

import inspect
import io
import json
import re
import socket
import sys
import threading
import time
import types
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from hydra.utils import get_object
from lines import QUICK, folder_of, image, line, lines, wait_for
from omegaconf import OmegaConf
from PIL import Image
from toy import command, composed, flat, save

from anomaly_lightning.deploy.line.line import Settings
from anomaly_lightning.deploy.line.part import stable_id
from anomaly_lightning.deploy.line.sources import Feed, SourceLostError
from anomaly_lightning.deploy.line.sources.capturing import Frames
from anomaly_lightning.deploy.line.sources.folder import FolderSource
from anomaly_lightning.deploy.line.sources.live import CameraSource, LiveSource, RtspSource
from anomaly_lightning.deploy.line.sources.pace import Pace
from anomaly_lightning.deploy.line.sources.replay import ReplaySource
from anomaly_lightning.deploy.line.sources.video import VideoSource
from anomaly_lightning.errors import UserError
from anomaly_lightning.places import CONFIG_DIR


def feed(tmp_path, known=lambda name: False, **changed):
    return Feed(threading.Event(), lambda path: Image.open(path).convert("RGB"), known, tmp_path / "out", **changed)


@pytest.fixture
def video(tmp_path):
    """An mp4 of 12 frames, 64 x 48, whose red grows with the frame's number."""
    import cv2

    file = tmp_path / "parts.mp4"
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter_fourcc(*"mp4v"), 25.0, (64, 48))
    for number in range(12):
        frame = np.zeros((48, 64, 3), np.uint8)
        frame[:, 32:] = (0, 0, 20 * number)  # OpenCV's order: blue, green, red
        writer.write(frame)
    writer.release()
    return file


def test_each_frame_of_a_video_is_a_part_in_rgb(tmp_path, video):
    parts = list(VideoSource(video, 1, False).parts(feed(tmp_path)))
    assert [part.names["frame"] for part in parts] == list(range(12))
    assert len({part.id for part in parts}) == 12
    for number, part in enumerate(parts):
        assert part.image.shape == (48, 64, 3)
        assert abs(part.image[:, 40:, 0].mean() - 20 * number) < 12
        assert part.image[..., 2].mean() < 12
        assert part.image[:, :24].mean() < 12


def test_every_third_frame_and_none_twice_after_a_restart(tmp_path, video):
    first = list(VideoSource(video, 3, False).parts(feed(tmp_path)))
    assert [part.names["frame"] for part in first] == [0, 3, 6, 9]
    known = {part.id for part in first[:2]}
    rest = list(VideoSource(video, 3, False).parts(feed(tmp_path, known.__contains__)))
    assert [part.id for part in rest] == [part.id for part in first[2:]]
    assert VideoSource(video, 3, False).again(first[0].names)
    assert not VideoSource(video, 2, False).again(first[1].names)


def test_a_video_in_real_time_takes_its_time(tmp_path, video):
    parts = list(VideoSource(video, 4, True).parts(feed(tmp_path)))
    gaps = np.diff([part.taken for part in parts])
    np.testing.assert_allclose(gaps, 4 / 25, atol=1e-9)


def test_a_video_through_a_line(tmp_path, video):
    line(VideoSource(video, 1, False), tmp_path / "out", images=("NG",)).run()
    rows = lines(tmp_path / "out")
    shown = [row["heatmap"] for row in rows if row["heatmap"]]
    assert len(set(shown)) == 5
    assert all((tmp_path / "out" / name).exists() for name in shown)
    assert [row["frame"] for row in rows] == list(range(12))
    assert [row["decision"] for row in rows] == ["OK"] * 7 + ["NG"] * 5  # above 127 of 255 from frame 7 on


def test_what_is_no_video_is_told(tmp_path):
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(UserError, match=r"text\.mp4"):
        list(VideoSource(tmp_path / "text.mp4", 1, False).parts(feed(tmp_path)))
    with pytest.raises(UserError, match="expected a video file"):
        VideoSource(tmp_path / "none.mp4", 1, False)


class Camera(ThreadingHTTPServer):
    """Motion JPEG over HTTP: some frames, then the connection breaks; so it goes on each time."""

    daemon_threads = True

    def __init__(self, frames):
        self.frames, self.connections = frames, 0
        super().__init__(("127.0.0.1", 0), Stream)
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()


class Stream(BaseHTTPRequestHandler):
    server: Camera

    def do_GET(self):
        self.server.connections += 1
        stream = io.BytesIO()
        Image.fromarray(np.kron(image(red=True), np.ones((4, 4, 1), np.uint8))).save(stream, "JPEG", quality=95)
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        for _ in range(self.server.frames):
            head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {stream.tell()}\r\n\r\n"
            self.wfile.write(head.encode() + stream.getvalue() + b"\r\n")
            time.sleep(0.01)
        self.wfile.flush()
        self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, *arguments):
        """Say nothing."""


def test_a_stream_that_breaks_off_is_opened_again(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    camera = Camera(frames=15)
    made = line(RtspSource(f"http://127.0.0.1:{camera.server_port}/", 0.0, 2.0), tmp_path, heartbeat_s=0.02)
    thread = threading.Thread(target=made.run)
    thread.start()
    wait_for(lambda: camera.connections >= 3 and len(lines(tmp_path)) >= 30)
    made.stop.set()
    thread.join(60)
    camera.shutdown()
    camera.server_close()
    rows = lines(tmp_path)
    assert {row["decision"] for row in rows} == {"NG"}
    numbers = [int(row["id"].rpartition("-")[2]) for row in rows]
    assert numbers == list(range(1, len(rows) + 1))


class Steady(LiveSource):
    """A camera whose frames come 32 times a second, by its own clock; each frame is its number."""

    what, number = "a camera", 0

    def __enter__(self):
        return self

    def __exit__(self, *error):
        """Nothing is open."""

    def open(self):
        return self

    def monotonic(self):
        return 100 + self.number / 32

    def grab(self):
        self.number += 1
        return self.number <= 40

    def read(self):
        return self.number


def test_the_frame_that_is_due_is_a_part(tmp_path, monkeypatch):
    source, parts = Steady(0.125), []
    monkeypatch.setattr("anomaly_lightning.deploy.line.sources.live.time", source)
    with pytest.raises(SourceLostError, match="no more frames"):
        parts.extend(source.parts(feed(tmp_path)))
    numbers = [1, *range(4, 41, 4)]  # the first at once, then eight a second, and never one from before
    assert [(part.image, part.taken) for part in parts] == [(number, 100 + number / 32) for number in numbers]


def test_frames_in_between_are_no_parts(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    camera, told = Camera(frames=40), feed(tmp_path)
    source, parts = RtspSource(f"http://127.0.0.1:{camera.server_port}/", 0.1, 2.0), []
    start = time.monotonic()
    with pytest.raises(SourceLostError, match="no more frames"):
        parts.extend(source.parts(told))
    camera.shutdown()
    camera.server_close()
    assert 1 <= len(parts) <= 1 + (time.monotonic() - start) / 0.1


def test_a_camera_that_is_not_there_is_lost_and_not_fatal(tmp_path):
    with pytest.raises(SourceLostError, match="can't be opened"):
        next(CameraSource("/dev/video77", None, None, None, 0.0).parts(feed(tmp_path)))


def test_a_camera_that_gives_another_size_is_refused(monkeypatch, video):
    frames = Frames(str(video), "CAP_FFMPEG")
    monkeypatch.setattr("anomaly_lightning.deploy.line.sources.live.Frames", lambda *a: frames)
    with pytest.raises(UserError, match=r"refuses CAP_PROP_FRAME_WIDTH=1280 and would give 64"):
        CameraSource(0, 1280, None, None, 0.0).open()
    frames = Frames(str(video), "CAP_FFMPEG")
    assert CameraSource(0, 64, 48, 25, 0.0).open() is frames


def test_a_belt_does_not_wait_but_stands_still_while_it_is_held(tmp_path):
    held = [0.0]
    told = feed(tmp_path, held_s=lambda: held[0])
    pace = Pace(0.01, told)
    first = pace.wait()
    time.sleep(0.05)  # the reader is slow: parts were due meanwhile
    assert pace.wait() == pytest.approx(first + 0.01)
    held[0] += 0.5  # the line held it up
    assert pace.wait() == pytest.approx(first + 0.52)
    told.stop.set()
    assert pace.wait() is None


def test_a_replay_goes_round_and_goes_on_where_it_was(tmp_path):
    folder = folder_of(tmp_path / "in", 4)
    every = list(ReplaySource(folder, None, 2).parts(feed(tmp_path)))
    assert [(part.names["name"], part.names["round"]) for part in every] == [
        (f"{number:03d}.png", turn) for turn in (1, 2) for number in range(4)
    ]
    assert len({part.id for part in every}) == 8
    known = {part.id for part in every[:5]}
    rest = list(ReplaySource(folder, None, 2).parts(feed(tmp_path, known.__contains__)))
    assert [part.id for part in rest] == [part.id for part in every[5:]]
    assert [ReplaySource(folder, None, 1).again(part.names) for part in every] == [True] * 4 + [False] * 4


def test_a_file_that_changes_while_it_is_read_is_read_again(tmp_path):
    folder, reads = folder_of(tmp_path / "in", 1), []
    told = feed(tmp_path)

    def decode(path):
        reads.append(path.read_bytes())
        if len(reads) == 1:
            save(image(red=True, blue=True), path)
        return Image.open(path).convert("RGB")

    told.decode = decode
    part = next(FolderSource(folder, 0.01, 0.0, 0.0).parts(told))
    assert len(reads) == 2
    assert part.names["bytes"] == len(reads[1]) != len(reads[0])


def test_a_folder_that_goes_away_is_lost(tmp_path):
    folder = folder_of(tmp_path / "in", 1)
    source = FolderSource(folder, 0.01, 0.0, 0.0)
    folder.rename(tmp_path / "elsewhere")
    with pytest.raises(SourceLostError, match="not there any more"):
        next(source.parts(feed(tmp_path)))


@pytest.mark.parametrize("name", ["a b/größe 部品.png", "two\nlines.png", "..", "x" * 300, "a\udcff.png", "%s;rm.png"])
def test_ids_are_safe_everywhere_and_tell_files_apart(name):
    made = stable_id(name, name, 1, 2)
    assert made.isascii()
    assert all(sign.isalnum() or sign in "_.+-" for sign in made)
    assert len(made) < 60
    assert not made.startswith(".")
    assert len({made, stable_id(name, name, 1, 3), stable_id(name, name, 12), stable_id(name, "other", 1, 2)}) == 4


# The command


@pytest.mark.parametrize(
    "file", sorted((CONFIG_DIR / "source").glob("*.yaml")) + sorted((CONFIG_DIR / "sink").glob("*"))
)
def test_every_yaml_says_exactly_the_arguments_of_what_it_makes(file):
    yaml = OmegaConf.load(file)
    assert set(yaml) - {"_target_"} == set(inspect.signature(get_object(yaml._target_)).parameters)


def test_settings_say_what_the_yaml_says():
    config = composed("bundle=x", config="line")
    assert set(inspect.signature(Settings).parameters) - {"journal"} <= set(config)
    assert set(config.sink) == {"jsonl", "mqtt", "webhook"}


def test_the_command_from_a_checkpoint_to_a_table(checkpoint, root, tmp_path):
    given = (f"bundle={checkpoint}", "source=replay", f"source.folder={root}/widget/test", "device=cpu", "images=all")
    more = ("name=cell 7", "validity=false", "source.per_minute=6000")
    ran = command("line", *given, *more, cwd=tmp_path)
    assert ran.code == 0, ran.out
    out = tmp_path / "outputs" / "line" / "cell_7"
    rows = lines(out)
    assert len(rows) == 12
    (day,) = (out / "results").iterdir()
    assert day.read_bytes() == (out / "journal.jsonl").read_bytes()
    assert len(list((out / "heatmaps").rglob("*.png"))) == 12
    assert "taken" in ran.out
    assert "The model saw 12 parts" in flat(ran.out)
    assert json.loads((out / "heartbeat.json").read_text())["state"] == "stopped"
    from anomaly_lightning.runtime.inspector import Inspector

    inspector = Inspector.load(checkpoint, "cpu", validity=False)
    for row in rows:
        said = inspector(row["path"])
        assert (row["score"], row["decision"]) == (pytest.approx(said.score, rel=1e-5), said.verdict)
    again = command("line", *given, *more, cwd=tmp_path)
    assert again.code == 0
    assert len(lines(out)) == 12


def test_what_is_not_delivered_is_told_by_the_status(checkpoint, root, tmp_path, monkeypatch):
    monkeypatch.setenv("ANOMALY_WEBHOOK_SECRET", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    given = (f"bundle={checkpoint}", "source=replay", f"source.folder={root}/widget/test", "device=cpu")
    more = ("sinks=[webhook]", "sink.webhook.url=http://127.0.0.1:9/", "flush_s=0.1", *map("=".join, quick()))
    ran = command("line", *given, *more, cwd=tmp_path)
    assert ran.code == 1
    assert "Not all is delivered to webhook" in flat(ran.out)
    assert "Traceback" not in ran.out


def quick():
    return [(key, str(value)) for key, value in QUICK.items() if key != "flush_s"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["source=replay", "source.folder=nowhere"], "source.folder=nowhere: expected a folder with images"),
        (["source.folder=nowhere"], "nowhere: expected a folder that is there"),
        ([], "source.folder"),
        (["source=scanner"], "camera"),
        (["source=replay", "source.folder=.", "sinks=[post]"], "expected some of jsonl, mqtt, webhook"),
        (["source.folder=.", "images=some"], "images=some: expected one of none, rejected, all"),
        (["source.folder=.", "sinks=[mqtt]"], "sink.mqtt.host="),
    ],
)
def test_mistakes_are_one_paragraph(tmp_path, given, said):
    ran = command("line", "bundle=best.ckpt", *given, cwd=tmp_path)
    assert ran.code == 1
    assert said in flat(ran.out)
    assert "Traceback" not in ran.out


# The plug-in that the documentation shows


class Buffer:
    def __init__(self, values):
        channels = values.shape[2] if values.ndim == 3 else 1
        seen = types.SimpleNamespace(data=values.ravel(), height=values.shape[0], width=values.shape[1])
        self.payload, self.channels = types.SimpleNamespace(components=[seen]), channels

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.payload.components[0].data[:] = 77  # the driver uses it again


class Harvester:
    """A stand-in for harvesters.core.Harvester 1.4: one camera, whose fetches are given."""

    def __init__(self):
        self.calls = []

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.calls.append("reset")

    def add_file(self, path):
        assert path == "a.cti"

    def update(self):
        """Find the cameras."""

    def create(self, search_key):
        assert search_key == {"serial_number": "1"}
        return self

    def start(self):
        """Go."""

    def stop(self):
        self.calls.append("stop")

    def destroy(self):
        self.calls.append("destroy")

    fetches = ()

    def try_fetch(self, *, timeout):
        found = self.fetches.pop(0)
        if isinstance(found, Exception):
            raise found
        return found


def test_the_plug_in_of_the_documentation_works(tmp_path, monkeypatch):
    text = (CONFIG_DIR.parent / "docs" / "line.md").read_text(encoding="utf-8")
    (code,) = [block for block in re.findall(r"^```python\n(.*?)^```", text, re.M | re.S) if "GenicamSource" in block]
    room = {}
    exec(compile(code, "docs/line.md", "exec"), room)
    module = types.ModuleType("harvesters.core")
    module.Harvester = Harvester
    monkeypatch.setitem(sys.modules, "harvesters", types.ModuleType("harvesters"))
    monkeypatch.setitem(sys.modules, "harvesters.core", module)
    grey, colour = np.full((20, 30), 200, np.uint8), image(red=True)
    Harvester.fetches = [Buffer(grey), None, OSError("unplugged"), Buffer(colour), Buffer(image()), None]
    source = room["GenicamSource"]("a.cti", "1", 0.1)
    made = line(source, tmp_path)
    thread = threading.Thread(target=made.run)
    thread.start()
    wait_for(lambda: len(lines(tmp_path)) == 3)
    made.stop.set()
    Harvester.fetches.extend([None] * 1000)
    thread.join()
    rows = lines(tmp_path)
    assert [row["decision"] for row in rows] == ["NG", "NG", "OK"]
    assert rows[0]["score"] == pytest.approx(200 / 255)
    assert {row["camera"] for row in rows} == {"1"}
