"""Where features live between the backbone and the detectors: on disk or in memory, keyed by an image's content.

Knows torch, numpy, sqlite3 and filelock; nothing of images, backbones, Lightning or Hydra.
"""

from anomaly_lightning.features.store.base import DTYPES, FeatureStore
from anomaly_lightning.features.store.disk import DiskStore
from anomaly_lightning.features.store.housekeeping import CacheEntry, Freed, cache_usage, clear, limit_bytes, trim
from anomaly_lightning.features.store.memory import MemoryStore

__all__ = [
    "DTYPES",
    "CacheEntry",
    "DiskStore",
    "FeatureStore",
    "Freed",
    "MemoryStore",
    "cache_usage",
    "clear",
    "limit_bytes",
    "trim",
]
