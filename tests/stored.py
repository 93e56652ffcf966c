"""Feature stores with known content, for tests."""

import hashlib
import multiprocessing
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from anomaly_lightning.features.encoding import DTYPES
from anomaly_lightning.features.store import DiskStore, FeatureStore

SHAPE = (5, 6, 9)
WIDE = (64, 24, 40)  # 120 KiB a file: long enough writes for a kill to fall into them
SPEC = {"backbone": "tiny", "weights": "0" * 64, "layers": ["layer2", "layer3"], "grid": [6, 9]}
FILE_BYTES = 76 + 5 * 6 * 9 * 2  # header and payload

processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["torch", "anomaly_lightning.features.store"])


def features_of(key: str, shape: tuple[int, int, int] = SHAPE) -> Tensor:
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:7], "big")
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


def many(keys: Sequence[str], shape: tuple[int, int, int] = SHAPE) -> Tensor:
    return torch.stack([features_of(key, shape) for key in keys])


def names(count: int, prefix: str = "image") -> list[str]:
    return [hashlib.sha256(f"{prefix}{number}".encode()).hexdigest() for number in range(count)]


def assert_holds(store: FeatureStore, keys: Sequence[str], dtype: str = "float16") -> None:
    assert store.missing(keys) == []
    assert torch.equal(store.batch(keys), many(keys, store.shape).to(DTYPES[dtype]).float())


def file_of(store: DiskStore, key: str) -> Path:
    return store.folder / key[:2] / key


def files(root: Path) -> set[str]:
    return {path.name for path in root.rglob("*") if path.is_file()}


def flip(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 0x10]))


def fill(root: Path, keys: Sequence[str], step: int = 100, spec: dict[str, object] = SPEC) -> DiskStore:
    store = DiskStore(root, spec, SHAPE)
    for start in range(0, len(keys), step):
        store.append(keys[start : start + step], many(keys[start : start + step]))
    return store
