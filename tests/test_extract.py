"""Filling a store: only what is missing is computed, once; a bad image stops nobody; memory stays bounded."""

import multiprocessing
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from anomaly_lightning.errors import CacheError
from anomaly_lightning.features.extract import Filled, fill
from anomaly_lightning.features.store import DiskStore, FeatureStore, MemoryStore

HEIGHT, WIDTH = 8, 12
SHAPE = (3, 4, 6)

processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["torch", "anomaly_lightning.features.store"])


class Bench:
    """Images filled with a number each, and a backbone that counts."""

    def __init__(self, values: Sequence[float], broken: Sequence[int] = ()) -> None:
        self.values = values
        self.broken = broken
        self.loaded: list[int] = []
        self.batches: list[int] = []
        self.lock = threading.Lock()

    def load(self, position: int) -> Tensor:
        with self.lock:
            self.loaded.append(position)
        if position in self.broken:
            raise OSError(f"image {position} is cut short")
        return torch.full((3, HEIGHT, WIDTH), self.values[position])

    def compute(self, images: Tensor) -> Tensor:
        assert torch.is_inference_mode_enabled()
        assert images.shape[1:] == (3, HEIGHT, WIDTH)
        self.batches.append(len(images))
        return torch.nn.functional.avg_pool2d(images, 2) * 2

    def fill(self, store: FeatureStore, keys: Sequence[str], batch_size: int = 4, workers: int = 3) -> Filled:
        return fill(store, keys, self.load, self.compute, batch_size=batch_size, workers=workers)


def keys_of(values: Sequence[float]) -> list[str]:
    return [f"{value:06.1f}" for value in values]


def assert_filled(store: FeatureStore, values: Sequence[float]) -> None:
    got = store.batch(keys_of(values))
    assert torch.equal(got, torch.stack([torch.full(SHAPE, 2 * value) for value in values]))


@pytest.fixture(params=["disk", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> FeatureStore:
    return MemoryStore(SHAPE, "float32") if request.param == "memory" else DiskStore(tmp_path, {}, SHAPE, "float32")


def test_each_image_gets_its_own_features_and_a_second_fill_computes_nothing(store: FeatureStore) -> None:
    values = [float(i) for i in range(11)]
    bench = Bench(values)
    assert bench.fill(store, keys_of(values)) == (11, {})
    assert bench.batches == [4, 4, 3]
    assert_filled(store, values)
    again = Bench(values)
    assert again.fill(store, keys_of(values)) == (0, {})
    assert (again.loaded, again.batches) == ([], [])


def test_a_changed_image_recomputes_itself_only_and_a_new_one_adds_itself_only(store: FeatureStore) -> None:
    values = [float(i) for i in range(6)]
    Bench(values).fill(store, keys_of(values))
    values[2] = 20.0
    changed = Bench(values)
    assert changed.fill(store, keys_of(values)).computed == 1
    assert changed.loaded == [2]
    values.insert(0, 30.0)
    added = Bench(values)
    assert added.fill(store, keys_of(values)).computed == 1
    assert added.loaded == [0]
    assert_filled(store, values)


def test_the_same_content_is_computed_once(store: FeatureStore) -> None:
    values = [1.0, 2.0, 1.0, 1.0, 3.0, 2.0]
    bench = Bench(values)
    assert bench.fill(store, keys_of(values), batch_size=2).computed == 3
    assert sorted(bench.loaded) == [0, 1, 4]
    assert_filled(store, values)


def test_a_image_that_can_not_be_loaded_does_not_stop_the_others(store: FeatureStore) -> None:
    values = [0.0, 1.0, 2.0, 3.0, 1.0, 5.0]
    bench = Bench(values, broken=[1, 5])
    filled = bench.fill(store, keys_of(values), batch_size=2)
    assert filled.computed == 3
    assert {at: str(error) for at, error in filled.failures.items()} == {
        1: "image 1 is cut short",
        4: "image 1 is cut short",  # the same content as 1
        5: "image 5 is cut short",
    }
    assert store.missing(keys_of(values)) == keys_of([1.0, 5.0])
    assert_filled(store, [0.0, 2.0, 3.0])


def test_nothing_loadable_is_no_forward(store: FeatureStore) -> None:
    bench = Bench([0.0, 1.0], broken=[0, 1])
    assert bench.fill(store, ["a", "b"]).computed == 0
    assert bench.batches == []


def test_progress_counts_to_the_end(store: FeatureStore) -> None:
    bench, seen = Bench([0.0, 1.0, 2.0, 3.0, 4.0], broken=[1]), []
    keys = keys_of(bench.values)

    def note(done: int, total: int) -> None:
        seen.append((done, total))

    fill(store, keys, bench.load, bench.compute, batch_size=2, workers=2, on_progress=note)
    assert seen == [(0, 5), (2, 5), (4, 5), (5, 5)]


def test_loading_runs_ahead_beside_the_computing_but_not_without_bound() -> None:
    values, store = [float(i) for i in range(60)], MemoryStore(SHAPE)
    bench, ahead = Bench(values), []
    overlapped = threading.Event()

    def load(position: int) -> Tensor:
        if position >= 5:  # belongs to a batch after the first
            overlapped.set()
        return bench.load(position)

    def compute(images: Tensor) -> Tensor:
        assert overlapped.wait(10), "nothing was loaded while the first batch was computed"
        time.sleep(0.01)
        ahead.append(len(bench.loaded) - sum(bench.batches))
        return bench.compute(images)

    fill(store, keys_of(values), load, compute, batch_size=5, workers=8)
    assert max(ahead) <= 5 + 2 * 5  # the batch at hand and two more
    assert_filled(store, values)


def test_several_threads_load_at_once() -> None:
    together = threading.Barrier(4)
    bench = Bench([float(i) for i in range(8)])

    def load(position: int) -> Tensor:
        together.wait(10)  # breaks unless four loads run at the same time
        return bench.load(position)

    filled = fill(MemoryStore(SHAPE), keys_of(bench.values), load, bench.compute, batch_size=4, workers=4)
    assert filled == (8, {})


def test_an_error_of_the_backbone_ends_the_fill_and_keeps_what_was_stored(store: FeatureStore) -> None:
    values = [float(i) for i in range(40)]
    bench = Bench(values)

    def compute(images: Tensor) -> Tensor:
        if len(bench.batches) == 2:
            raise RuntimeError("out of memory")
        return bench.compute(images)

    with pytest.raises(RuntimeError, match="out of memory"):
        fill(store, keys_of(values), bench.load, compute, batch_size=4, workers=2)
    assert_filled(store, values[:8])
    assert store.missing(keys_of(values)) == keys_of(values[8:])
    assert bench.fill(store, keys_of(values)).computed == 32


def fill_at_once(root: Path, start: Any) -> None:
    values = [float(i) for i in range(30)]
    bench = Bench(values)

    def compute(images: Tensor) -> Tensor:
        time.sleep(0.02)
        return bench.compute(images)

    store = DiskStore(root, {}, SHAPE, "float32")
    start.wait(30)
    fill(store, keys_of(values), bench.load, compute, batch_size=4, workers=2)
    assert_filled(store, values)


def test_processes_that_want_the_same_images_at_once_both_get_them(tmp_path: Path) -> None:
    start = processes.Barrier(2)
    workers = [processes.Process(target=fill_at_once, args=(tmp_path, start)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0


def test_an_error_of_the_store_ends_the_fill() -> None:
    values = [1.0, 2.0, 40000.0, 3.0, 4.0]  # doubled by the backbone: too large for float16
    store = MemoryStore(SHAPE, "float16")
    with pytest.raises(CacheError, match=r"cache\.dtype=float16"):
        Bench(values).fill(store, keys_of(values), batch_size=1)
    assert_filled(store, [1.0, 2.0])
