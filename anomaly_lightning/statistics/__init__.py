"""Streaming statistics of features that several detectors are made of; nothing here knows a detector."""

from anomaly_lightning.statistics.memory import PatchMemory
from anomaly_lightning.statistics.moments import ChannelMoments
from anomaly_lightning.statistics.projection import Projection
from anomaly_lightning.statistics.whitening import PositionWhitening

__all__ = ["ChannelMoments", "PatchMemory", "PositionWhitening", "Projection"]
