"""A line for tests: an inspector whose network is the red channel, sources made by hand, and small images."""

import json
import time
from pathlib import Path

import numpy as np
from toy import card, save

from anomaly_lightning.deploy.line.command import line_of
from anomaly_lightning.deploy.line.line import Settings
from anomaly_lightning.deploy.line.part import Part
from anomaly_lightning.runtime.card import ThresholdsCard
from anomaly_lightning.runtime.inspector import Inspector
from anomaly_lightning.runtime.transform import ImageTransform

TRANSFORM = ImageTransform((20, 30), (0, 0, 0), (1, 1, 1))
QUICK = {"retry_first_s": 0.02, "retry_longest_s": 0.1, "flush_s": 60.0}


class Redness:
    """An engine whose map is the red channel in [0, 1]; each call takes a while, as it is told."""

    def __init__(self, seconds=0.0):
        self.seconds, self.calls = seconds, 0

    def run(self, images):
        self.calls += 1
        time.sleep(self.seconds)
        if (images[:, 2] > 0.9).any():
            raise RuntimeError("blue is too much")
        return images[:, 0], images[:, 0].max((1, 2))


def inspector(seconds=0.0):
    """OK where nothing is red, NG where something is; an image that is blue breaks the engine."""
    return Inspector(card(TRANSFORM, thresholds=ThresholdsCard(score=0.5, pixel=0.4)), Redness(seconds))


def image(red=False, blue=False):
    """(20, 30, 3) uint8: black, with a red spot, or blue all over."""
    values = np.zeros((20, 30, 3), np.uint8)
    if red:
        values[5:10, 20:28, 0] = 255
    if blue:
        values[..., 2] = 255
    return values


def folder_of(where: Path, count: int) -> Path:
    """<where>/000.png and on; every third is NG."""
    for number in range(count):
        save(image(red=number % 3 == 0), where / f"{number:03d}.png")
    return where


class Given:
    """A source of parts that can't be had again: arrays, a pause before each, and what it raises in between."""

    repeats = False

    def __init__(self, items, pause_s=0.0):
        self.items, self.pause_s, self.walks = list(items), pause_s, 0

    def again(self, names):
        return False

    def parts(self, feed):
        self.walks += 1
        while self.items:
            item = self.items.pop(0)
            if feed.stop.wait(self.pause_s):
                return
            if isinstance(item, Exception):
                raise item
            yield Part(feed.new_id(), item, time.monotonic())


def line(source, folder, sinks=None, seconds=0.0, watch=None, **settings):
    """A line that is ready to run."""
    known = Settings(**{**QUICK, **settings})
    return line_of(inspector(seconds), source, sinks or {}, known, folder, maps=False, watch=watch)


def lines(folder, name="journal.jsonl"):
    """The whole lines of a journal, which may be written to meanwhile."""
    file = folder / name
    rows = file.read_bytes().splitlines(keepends=True) if file.exists() else []
    return [json.loads(row) for row in rows if row.endswith(b"\n")]


def wait_for(condition, seconds=60.0):
    """Wait until it holds; fail where it does not in time."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.01)
