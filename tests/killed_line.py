"""A line in a process of its own, to be killed: python killed_line.py <replay|live> <images> <output>."""

import itertools
import sys
from pathlib import Path

from lines import Given, image, line

from anomaly_lightning.deploy.line.sinks.jsonl import JsonLinesSink
from anomaly_lightning.deploy.line.sources.replay import ReplaySource
from anomaly_lightning.deploy.watching import stopping


class Endless(Given):
    """A camera: parts without end."""

    def __init__(self):
        super().__init__([], 0.002)
        self.items = Frames()


class Frames:
    """As many images as are asked for."""

    def __init__(self):
        self.numbers = itertools.count()

    def pop(self, index):
        return image(red=next(self.numbers) % 3 == 0)


kind, images, output = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
source = ReplaySource(images, None, 1) if kind == "replay" else Endless()
made = line(source, output, {"jsonl": JsonLinesSink(output / "results")}, 0.004, images=("NG",))
with stopping(made.stop):
    made.run()
