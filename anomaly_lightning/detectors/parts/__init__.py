"""Streaming statistics of features that several detectors are made of; nothing here knows a detector."""

from anomaly_lightning.detectors.parts.coreset import PatchSample, greedy_k_center
from anomaly_lightning.detectors.parts.moments import ChannelMoments
from anomaly_lightning.detectors.parts.patch_memory import PatchMemory
from anomaly_lightning.detectors.parts.principal import PrincipalAxes
from anomaly_lightning.detectors.parts.projection import Projection
from anomaly_lightning.detectors.parts.view import ChannelView
from anomaly_lightning.detectors.parts.whitening import PositionWhitening

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
