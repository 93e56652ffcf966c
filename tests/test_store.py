"""The feature store: round trips, two processes, kills, damage, full and read-only disks, trimming."""

import errno
import hashlib
import multiprocessing
import os
import pickle
import random
import resource
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from anomaly_lightning.errors import CacheError
from anomaly_lightning.features.store import DTYPES, DiskStore, FeatureStore, MemoryStore, cache_usage, clear, trim
from anomaly_lightning.features.store.index import Index
from anomaly_lightning.features.store.rowfile import RowFile

SHAPE = (5, 6, 9)
WIDE = (64, 24, 40)  # 120 KiB a row: long enough writes for a kill to fall into them
SPEC = {"backbone": "tiny", "weights": "0" * 64, "layers": ["layer2", "layer3"], "grid": [6, 9]}
ROW_BYTES = 5 * 6 * 9 * 2

processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["torch", "anomaly_lightning.features.store"])


def features_of(key: str, shape: tuple[int, int, int] = SHAPE) -> Tensor:
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:7], "big")
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


def many(keys: Sequence[str], shape: tuple[int, int, int] = SHAPE) -> Tensor:
    return torch.stack([features_of(key, shape) for key in keys])


def names(count: int, prefix: str = "image") -> list[str]:
    return [f"{prefix}{number}" for number in range(count)]


def assert_holds(store: FeatureStore, keys: Sequence[str], dtype: str = "float16") -> None:
    rows = store.rows(keys)
    assert (rows >= 0).all()
    assert torch.equal(store.batch(rows), many(keys, store.shape).to(DTYPES[dtype]).float())


def flip(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 0x10]))


def flip_unseen(path: Path, offset: int) -> None:
    """As the disk itself would: the file's times stay."""
    status = path.stat()
    flip(path, offset)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.fixture(params=["disk", "memory"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], FeatureStore]:
    if request.param == "memory":
        return lambda dtype: MemoryStore(SHAPE, dtype)
    return lambda dtype: DiskStore(tmp_path, SPEC, SHAPE, dtype)


# The interface


@pytest.mark.parametrize("dtype", DTYPES)
def test_features_come_back_rounded_to_the_dtype_and_no_more(make: Callable[[str], FeatureStore], dtype: str) -> None:
    store, keys = make(dtype), names(11)
    store.append(keys[:7], many(keys[:7]))
    store.append(keys[7:], many(keys[7:]))
    order = [keys[i] for i in (10, 3, 3, 0, 7)]
    got = store.batch(store.rows(order))
    assert got.dtype is torch.float32
    assert got.shape == (5, *SHAPE)
    assert torch.equal(got, many(order).to(DTYPES[dtype]).float())
    bits = {"float16": 11, "bfloat16": 8, "float32": 24}[dtype]  # of the significand
    np.testing.assert_allclose(got, many(order), rtol=2.0**-bits, atol=2**-24 if dtype == "float16" else 0)


def test_rows_of_absent_keys_are_minus_one_and_can_not_be_read(make: Callable[[str], FeatureStore]) -> None:
    store = make("float16")
    store.append(["a"], many(["a"]))
    rows = store.rows(["b", "a", "c"])
    assert rows.dtype == np.int64
    assert rows.tolist() == [-1, 0, -1]
    with pytest.raises(ValueError, match="2 of 3 rows are -1"):
        store.batch(rows)


def test_duplicates_are_ignored_and_the_first_stays(make: Callable[[str], FeatureStore]) -> None:
    store = make("float32")
    store.append(["a", "b", "a"], torch.stack([features_of("a"), features_of("b"), features_of("x")]))
    store.append(["b", "c"], torch.stack([features_of("y"), features_of("c")]))
    assert len(store) == 3
    assert_holds(store, ["a", "b", "c"], "float32")


def test_rows_may_be_a_tensor_or_nothing_at_all(make: Callable[[str], FeatureStore]) -> None:
    store = make("float16")
    store.append(names(3), many(names(3)))
    assert torch.equal(store.batch(torch.tensor([2, 0])), store.batch(np.array([2, 0])))
    assert store.batch(np.empty(0, dtype=np.int64)).shape == (0, *SHAPE)
    assert store.rows([]).shape == (0,)


def test_a_batch_is_the_callers_own(make: Callable[[str], FeatureStore]) -> None:
    store = make("float32")
    store.append(["a", "b"], many(["a", "b"]))
    first = store.batch(np.array([0]))
    kept = first.clone()
    store.batch(np.array([1]))
    assert torch.equal(first, kept)
    first.zero_()
    assert torch.equal(store.batch(np.array([0])), kept)


def test_values_beyond_float16_are_refused_with_the_setting_to_change(make: Callable[[str], FeatureStore]) -> None:
    features = many(["a", "b"])
    features[1, 2, 3, 4] = -70000.0
    store = make("float16")
    with pytest.raises(CacheError, match=r"70000 does not fit cache\.dtype=float16.*65504.*cache\.dtype=bfloat16"):
        store.append(["a", "b"], features)
    assert len(store) == 0
    store = make("bfloat16")
    store.append(["a", "b"], features)
    assert len(store) == 2


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_features_that_are_not_finite_are_refused(make: Callable[[str], FeatureStore], value: float) -> None:
    features = many(["a"])
    features[0, 0, 0, 0] = value
    with pytest.raises(CacheError, match="not finite"):
        make("float32").append(["a"], features)


def test_wrong_shapes_and_dtypes_are_refused(make: Callable[[str], FeatureStore]) -> None:
    with pytest.raises(ValueError, match=r"expected features \(B, 5, 6, 9\), got \(1, 5, 9, 6\)"):
        make("float16").append(["a"], many(["a"]).transpose(2, 3))
    with pytest.raises(ValueError, match="2 keys for 1 images"):
        make("float16").append(["a", "b"], many(["a"]))
    with pytest.raises(CacheError, match=r"cache\.dtype.*float16, bfloat16, float32.*'int8'"):
        make("int8")


# What is kept apart, what is shared


def test_another_process_and_another_run_find_the_features(tmp_path: Path) -> None:
    with DiskStore(tmp_path, SPEC, SHAPE) as store:
        store.append(names(4), many(names(4)))
    reordered = dict(reversed(SPEC.items()))
    with DiskStore(tmp_path, reordered, SHAPE) as store:
        assert_holds(store, names(4))
        assert_holds(pickle.loads(pickle.dumps(store)), names(4))


def test_whatever_determines_features_keeps_them_apart(tmp_path: Path) -> None:
    variants = [
        DiskStore(tmp_path, SPEC, SHAPE),
        DiskStore(tmp_path, SPEC | {"weights": "1" * 64}, SHAPE),
        DiskStore(tmp_path, SPEC | {"layers": ["layer3", "layer2"]}, SHAPE),
        DiskStore(tmp_path, SPEC, (5, 9, 6)),
        DiskStore(tmp_path, SPEC, SHAPE, "bfloat16"),
    ]
    variants[0].append(["a"], many(["a"]))
    assert [len(store) for store in variants] == [1, 0, 0, 0, 0]
    assert len({store.folder for store in variants}) == len(variants)


def test_growth_by_others_is_picked_up(tmp_path: Path) -> None:
    mine, other = DiskStore(tmp_path, SPEC, SHAPE), DiskStore(tmp_path, SPEC, SHAPE)
    mine.append(["a"], many(["a"]))
    other.append(["b", "a"], many(["b", "a"]))
    assert len(mine) == 2
    assert_holds(mine, ["b", "a"])


def append_in_turns(root: Path, keys: list[str], step: int) -> None:
    with DiskStore(root, SPEC, SHAPE) as store:
        for start in range(0, len(keys), step):
            store.append(keys[start : start + step], many(keys[start : start + step]))


def test_two_processes_at_once_end_with_each_key_once(tmp_path: Path) -> None:
    keys = names(60)
    shares = [(keys[:45], 3), (keys[15:][::-1], 4)]
    workers = [processes.Process(target=append_in_turns, args=(tmp_path, share, step)) for share, step in shares]
    run_all(workers)
    with DiskStore(tmp_path, SPEC, SHAPE) as store:
        assert len(store) == 60
        assert sorted(store.rows(keys).tolist()) == list(range(60))
        assert_holds(store, keys)
        assert (store.folder / "rows.bin").stat().st_size == 60 * ROW_BYTES


def run_all(workers: Sequence[BaseProcess]) -> None:
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0] * len(workers)


# Kills


def append_at_random(root: Path, keys: list[str], seed: int) -> None:
    order = random.Random(seed)
    with DiskStore(root, SPEC, WIDE) as store:
        while True:
            chosen = order.sample(keys, 3)
            store.append(chosen, many(chosen, WIDE))


def kill_rounds(root: Path, rounds: int) -> None:
    keys, order = names(400), random.Random(rounds)
    for number in range(rounds):
        writers = [processes.Process(target=append_at_random, args=(root, keys, 2 * number + i)) for i in range(2)]
        for writer in writers:
            writer.start()
        time.sleep(order.uniform(0.02, 0.35))
        for writer in writers:
            assert writer.is_alive()
            writer.kill()
            writer.join()
        with DiskStore(root, SPEC, WIDE) as store:
            there = [key for key, row in zip(keys, store.rows(keys), strict=True) if row >= 0]
            assert len(there) == len(store)
            if there:
                assert_holds(store, there)
    with DiskStore(root, SPEC, WIDE) as store:
        store.append(keys, many(keys, WIDE))
        assert len(store) == len(keys)
        assert_holds(store, keys)


def test_a_kill_at_any_moment_never_leaves_a_wrong_feature(tmp_path: Path) -> None:
    kill_rounds(tmp_path, 5)


@pytest.mark.slow
def test_many_kills_never_leave_a_wrong_feature(tmp_path: Path) -> None:
    kill_rounds(tmp_path, 60)


def die(*_: object, **__: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def write_half_and_die(rows: RowFile, first: int, data: memoryview) -> None:
    with rows.path.open("r+b") as file:
        file.seek(first * rows.row_bytes)
        file.write(data[: len(data) // 2])
    die()


def append_and_die(root: Path, owner: type, method: str, replacement: Callable[..., None]) -> None:
    with DiskStore(root, SPEC, SHAPE) as store:
        setattr(owner, method, replacement)
        store.append(["c", "d"], many(["c", "d"]))


@pytest.mark.parametrize(
    ("owner", "method", "replacement"),
    [(RowFile, "write", write_half_and_die), (Index, "add", die), (Index, "_set", die)],
    ids=["half of the bytes", "bytes without entry", "inside the index's transaction"],
)
def test_a_kill_within_append_loses_that_append_only(
    tmp_path: Path, owner: type, method: str, replacement: Callable[..., None]
) -> None:
    append_in_turns(tmp_path, ["a", "b"], 2)
    kill_in(append_and_die, tmp_path, owner, method, replacement)
    with DiskStore(tmp_path, SPEC, SHAPE) as store:
        assert store.rows(["a", "b", "c", "d"]).tolist() == [0, 1, -1, -1]
        assert (store.folder / "rows.bin").stat().st_size == 2 * ROW_BYTES
        store.append(["d", "c"], many(["d", "c"]))
        assert_holds(store, ["a", "b", "c", "d"])


def kill_in(target: Callable[..., None], *arguments: Any) -> None:
    worker = processes.Process(target=target, args=arguments)
    worker.start()
    worker.join(60)
    assert worker.exitcode == -signal.SIGKILL


def trim_and_die(root: Path, owner: type, method: str) -> None:
    setattr(owner, method, die)
    trim(root, total(root) - 10 * ROW_BYTES)


@pytest.mark.parametrize(("owner", "method"), [(RowFile, "move"), (Index, "renumber"), (RowFile, "truncate")])
def test_a_kill_within_trim_keeps_what_was_to_stay(tmp_path: Path, owner: type, method: str) -> None:
    aged_store(tmp_path, SPEC, names(40), start=1000.0)
    kill_in(trim_and_die, tmp_path, owner, method)
    with DiskStore(tmp_path, SPEC, SHAPE) as store:
        there = [key for key, row in zip(names(40), store.rows(names(40)), strict=True) if row >= 0]
        assert there == names(40)[10:]
        assert_holds(store, there)
        store.append(names(40), many(names(40)))
        assert_holds(store, names(40))


# Damage


def test_a_damaged_row_is_absent_in_the_next_run_and_is_computed_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    append_in_turns(tmp_path, names(5), 5)
    folder = cache_usage(tmp_path)[0].folder
    flip(folder / "rows.bin", 3 * ROW_BYTES + 17)
    with DiskStore(tmp_path, SPEC, SHAPE) as store:
        assert store.rows(names(5)).tolist() == [0, 1, 2, -1, 4]
        assert "1 damaged row" in caplog.text
        store.append(["image3"], many(["image3"]))
        assert store.rows(names(5)).tolist() == [0, 1, 2, 5, 4]  # a row's number is never given to another key
        assert_holds(store, names(5))


def test_a_row_that_the_disk_spoiled_is_never_served(tmp_path: Path) -> None:
    append_in_turns(tmp_path, names(5), 5)
    folder = cache_usage(tmp_path)[0].folder
    flip_unseen(folder / "rows.bin", 2 * ROW_BYTES)
    with DiskStore(tmp_path, SPEC, SHAPE) as store:
        rows = store.rows(names(5))
        with pytest.raises(CacheError, match=r"1 image\(s\) in .*rows\.bin are damaged.*start the same command again"):
            store.batch(rows)
        assert store.rows(names(5)).tolist() == [0, 1, -1, 3, 4]


def test_a_row_file_cut_short_loses_only_what_was_cut(tmp_path: Path) -> None:
    append_in_turns(tmp_path, names(5), 5)
    with DiskStore(tmp_path, SPEC, SHAPE) as store:
        rows = store.rows(names(5))
        store.batch(rows)  # checked once: a later cut must still be seen
        os.truncate(store.folder / "rows.bin", 3 * ROW_BYTES - 1)
        store.batch(np.array([0, 0, 0, 0, 0]))
        with pytest.raises(CacheError, match=r"3 image\(s\)"):
            store.batch(rows)
        assert store.rows(names(5)).tolist() == [0, 1, -1, -1, -1]


def test_a_damaged_index_starts_the_folder_afresh(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    append_in_turns(tmp_path, names(5), 5)
    folder = cache_usage(tmp_path)[0].folder
    (folder / "index.sqlite").write_bytes(b"not a database" * 100)
    assert cache_usage(tmp_path)[0].images == 0
    with DiskStore(tmp_path, SPEC, SHAPE) as store:
        assert "index of the feature cache" in caplog.text
        assert (store.rows(names(5)) == -1).all()
        store.append(names(5), many(names(5)))
        assert_holds(store, names(5))


def test_a_folder_removed_underneath_is_an_error_that_says_so(tmp_path: Path) -> None:
    store = DiskStore(tmp_path, SPEC, SHAPE)
    store.append(["a"], many(["a"]))
    shutil.rmtree(store.folder)
    with pytest.raises(CacheError, match="removed or rebuilt meanwhile"):
        store.append(["b"], many(["b"]))
    with pytest.raises(CacheError, match="removed or rebuilt meanwhile"):
        store.rows(["a"])


# Disks that won't


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with room for 64 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting a file system needs to be root on Linux")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_is_an_error_with_a_way_out_and_keeps_what_was_there(small_disk: Path) -> None:
    with DiskStore(small_disk, SPEC, SHAPE) as store:
        store.append(names(4), many(names(4)))
        more = names(200, "more")
        with pytest.raises(CacheError, match=r"no room.*stays usable.*action=trim.*cache\.dir.*cache\.mode=memory"):
            store.append(more, many(more))
        assert len(store) == 4
        assert_holds(store, names(4))
        store.append(more[:2], many(more[:2]))  # the failed append gave its space back
        assert_holds(store, [*names(4), *more[:2]])


def append_with_a_limit(root: Path, limit: int, outcome: Any) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    with DiskStore(root, SPEC, SHAPE) as store:
        try:
            store.append(names(300), many(names(300)))
        except CacheError as error:
            outcome.send((str(error), len(store)))


def test_a_limit_on_file_size_is_an_error_with_a_way_out(tmp_path: Path) -> None:
    append_in_turns(tmp_path, names(4), 4)
    ours, theirs = processes.Pipe()
    run_all([processes.Process(target=append_with_a_limit, args=(tmp_path, 100_000, theirs))])
    assert ours.poll()
    message, images = ours.recv()
    assert "no room" in message
    assert images == 4
    with DiskStore(tmp_path, SPEC, SHAPE) as store:
        assert_holds(store, names(4))


def test_a_read_only_folder_is_served_and_refuses_to_grow(small_disk: Path) -> None:
    append_in_turns(small_disk, names(4), 4)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with DiskStore(small_disk, SPEC, SHAPE) as store:
        assert_holds(store, names(4))
        with pytest.raises(CacheError, match=r"can't be written to.*cache\.dir.*cache\.mode=memory or cache\.mode=off"):
            store.append(["a"], many(["a"]))
    with pytest.raises(CacheError, match=r"can't be written to.*cache\.dir"):
        DiskStore(small_disk, SPEC, (5, 9, 6))
    with pytest.raises(CacheError, match="can't be written to"):
        clear(small_disk)


def test_a_cache_dir_that_is_a_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CacheError, match=r"file.*Check cache\.dir"):
        DiskStore(tmp_path / "file", SPEC, SHAPE)


def test_an_error_of_the_disk_while_reading_is_no_crash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    append_in_turns(tmp_path, ["a"], 1)

    def broken(*_: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    with DiskStore(tmp_path, SPEC, SHAPE) as store:
        monkeypatch.setattr(RowFile, "_read_once", broken)
        with pytest.raises(CacheError, match="Input/output error"):
            store.batch(np.array([0]))


def test_platforms_without_positioned_reads_read_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    append_in_turns(tmp_path, names(4), 4)
    monkeypatch.delattr(os, "preadv")
    with DiskStore(tmp_path, SPEC, SHAPE) as store:
        assert_holds(store, ["image2", "image0", "image3"])


# Housekeeping


def aged_store(root: Path, spec: dict[str, object], keys: list[str], start: float) -> Path:
    """A closed store whose n-th image was last used at start + n seconds since 1970."""
    with DiskStore(root, spec, SHAPE) as store:
        store.append(keys, many(keys))
        folder = store.folder
    with sqlite3.connect(folder / "index.sqlite") as connection:
        connection.executemany("UPDATE entry SET used = ? WHERE key = ?", [(start + i, k) for i, k in enumerate(keys)])
    connection.close()
    return folder


def total(root: Path) -> int:
    return sum(entry.bytes for entry in cache_usage(root))


def test_usage_tells_what_is_there(tmp_path: Path) -> None:
    assert cache_usage(tmp_path / "nowhere") == []
    old = aged_store(tmp_path, SPEC, names(3), start=1000.0)
    new = aged_store(tmp_path, SPEC | {"backbone": "other"}, names(5), start=2000.0)
    (tmp_path / "somebody's folder").mkdir()
    entries = cache_usage(tmp_path)
    assert [(entry.folder, entry.images, entry.last_used) for entry in entries] == [
        (new, 5, 2004.0),
        (old, 3, 1002.0),
    ]
    assert entries[1].spec == SPEC
    assert (entries[1].shape, entries[1].dtype) == (SHAPE, "float16")
    assert entries[1].bytes == sum(path.stat().st_size for path in old.iterdir())


def test_trim_removes_what_was_used_longest_ago_and_serves_the_rest(tmp_path: Path) -> None:
    keys = random.Random(0).sample(names(40), 40)
    old = aged_store(tmp_path, SPEC, keys, start=1000.0)
    new = aged_store(tmp_path, SPEC | {"backbone": "other"}, keys, start=2000.0)
    before = total(tmp_path)
    freed = trim(tmp_path, before - 10 * ROW_BYTES)
    assert (freed.images, freed.in_use) == (10, ())
    assert total(tmp_path) == before - freed.bytes <= before - 10 * ROW_BYTES
    assert {entry.folder: entry.images for entry in cache_usage(tmp_path)} == {old: 30, new: 40}
    with DiskStore(tmp_path, SPEC, SHAPE) as store:
        assert (store.rows(keys[:10]) == -1).all()
        assert sorted(store.rows(keys[10:]).tolist()) == list(range(30))
        assert_holds(store, keys[10:])
        store.append(keys[:10], many(keys[:10]))
        assert_holds(store, keys)


def test_trim_goes_on_to_the_next_folder_and_removes_empty_ones(tmp_path: Path) -> None:
    aged_store(tmp_path, SPEC, names(10), start=1000.0)
    new = aged_store(tmp_path, SPEC | {"backbone": "other"}, names(10), start=2000.0)
    limit = cache_usage(tmp_path)[0].bytes - ROW_BYTES
    trim(tmp_path, limit)
    assert total(tmp_path) <= limit
    assert [entry.folder for entry in cache_usage(tmp_path)] == [new]
    assert trim(tmp_path, limit).images == 0


def test_use_makes_features_young(tmp_path: Path) -> None:
    aged_store(tmp_path, SPEC, names(10), start=1000.0)
    with DiskStore(tmp_path, SPEC, SHAPE) as store:
        store.rows(["image0"])
    trim(tmp_path, total(tmp_path) - 5 * ROW_BYTES)
    with DiskStore(tmp_path, SPEC, SHAPE) as store:
        assert (store.rows(names(10)) >= 0).tolist() == [True] + 5 * [False] + 4 * [True]


def hold_open(root: Path, ready: Any, leave: Any) -> None:
    with DiskStore(root, SPEC, SHAPE) as store:
        store.append(names(3), many(names(3)))
        ready.set()
        leave.wait(60)
        assert_holds(store, names(3))


def test_what_a_process_has_open_is_neither_trimmed_nor_cleared(tmp_path: Path) -> None:
    other = aged_store(tmp_path, SPEC | {"backbone": "other"}, names(3), start=2000.0)
    ready, leave = processes.Event(), processes.Event()
    holder = processes.Process(target=hold_open, args=(tmp_path, ready, leave))
    holder.start()
    assert ready.wait(60)
    freed = trim(tmp_path, 0)
    (entry,) = cache_usage(tmp_path)
    assert freed.in_use == (entry.folder,)
    assert entry.folder != other
    assert clear(tmp_path).in_use == (entry.folder,)
    leave.set()
    holder.join(60)
    assert holder.exitcode == 0
    assert clear(tmp_path).images == 3
    assert cache_usage(tmp_path) == []


def test_the_mark_of_a_killed_process_does_not_keep_its_folder(tmp_path: Path) -> None:
    append_in_turns(tmp_path, ["a", "b"], 2)
    kill_in(append_and_die, tmp_path, Index, "add", die)
    assert trim(tmp_path, 0).images == 2
    assert cache_usage(tmp_path) == []


def test_a_folder_whose_spec_is_unreadable_can_be_cleared_and_is_mended_by_its_next_use(tmp_path: Path) -> None:
    folder = aged_store(tmp_path, SPEC, names(3), start=1000.0)
    (folder / "spec.json").write_text("{")
    assert [(entry.images, entry.spec) for entry in cache_usage(tmp_path)] == [(3, {})]
    with pytest.raises(CacheError, match=rf"spec\.json can't be read.*folders=\[{folder.name}\]"):
        trim(tmp_path, 0)
    append_in_turns(tmp_path, ["new"], 1)
    assert [(entry.images, entry.spec) for entry in cache_usage(tmp_path)] == [(4, SPEC)]
    (folder / "spec.json").unlink()
    assert clear(tmp_path, [folder.name]).images == 4
    assert not folder.exists()


def test_clear_takes_the_named_folders_only_and_nothing_foreign(tmp_path: Path) -> None:
    one = aged_store(tmp_path, SPEC, names(3), start=1000.0)
    two = aged_store(tmp_path, SPEC | {"backbone": "other"}, names(2), start=1000.0)
    (two / "notes.txt").write_text("mine")
    (tmp_path / "images").mkdir()
    with pytest.raises(CacheError, match=f"No folder nothing.*{one.name}"):
        clear(tmp_path, ["nothing"])
    assert clear(tmp_path, [one.name]).images == 3
    assert not one.exists()
    assert clear(tmp_path).images == 2
    assert (two / "notes.txt").read_text() == "mine"
    assert (tmp_path / "images").is_dir()
