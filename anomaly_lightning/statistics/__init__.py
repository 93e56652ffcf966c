"""Streaming statistics of features that several detectors are made of; nothing here knows a detector."""

from anomaly_lightning.statistics.memory import PatchMemory
from anomaly_lightning.statistics.moments import ChannelMoments
from anomaly_lightning.statistics.principal import PrincipalAxes
from anomaly_lightning.statistics.projection import Projection
from anomaly_lightning.statistics.sample import PatchSample, greedy_k_center
from anomaly_lightning.statistics.view import ChannelView
from anomaly_lightning.statistics.whitening import PositionWhitening

__all__ = [
    "ChannelMoments",
    "ChannelView",
    "PatchMemory",
    "PatchSample",
    "PositionWhitening",
    "PrincipalAxes",
    "Projection",
    "greedy_k_center",
]
