"""Made streams for tests of the drift monitor: normals whose measures are independent and normally distributed."""

import numpy as np

from anomaly_lightning.runtime.drift import Observation
from anomaly_lightning.runtime.drift_fit import drift_card
from anomaly_lightning.runtime.drift_measures import MEASURES

NAMES = list(MEASURES)
K = len(NAMES)


def drawn(random, count, **moved):
    """(count, K) measures; those that are named are moved by so many standard deviations."""
    values = random.normal(size=(count, K))
    for name, by in moved.items():
        values[:, NAMES.index(name)] += by
    return values


def normals_card(random, count=30):
    """A card of so many normals."""
    return drift_card(list(drawn(random, count).T), np.zeros((16, 16)))


def show(monitor, values, invalid=False):
    """Show images one by one until an alarm comes; returns how many it took, None where none came."""
    for number, row in enumerate(values, start=1):
        if monitor.update(Observation(row, invalid)) is not None:
            return number
    return None
