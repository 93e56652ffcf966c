"""The feature store: round trips, two processes, kills, damage, full and read-only disks."""

import errno
import os
import pickle
import random
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stored import (
    FILE_BYTES,
    SHAPE,
    SPEC,
    WIDE,
    assert_holds,
    features_of,
    file_of,
    files,
    fill,
    flip,
    many,
    names,
    processes,
)

from anomaly_lightning.errors import CacheError
from anomaly_lightning.features.encoding import DTYPES
from anomaly_lightning.features.housekeeping import clear, trim
from anomaly_lightning.features.store import DiskStore, FeatureStore, LostError, MemoryStore


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
    got = store.batch(order)
    assert got.dtype is torch.float32
    assert got.shape == (5, *SHAPE)
    assert torch.equal(got, many(order).to(DTYPES[dtype]).float())
    bits = {"float16": 11, "bfloat16": 8, "float32": 24}[dtype]  # of the significand
    np.testing.assert_allclose(got, many(order), rtol=2.0**-bits, atol=2**-24 if dtype == "float16" else 0)


@pytest.mark.parametrize("grid", [(1, 1), (1, 4), (4, 1)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_grid_of_one_row_or_position_comes_back_too(tmp_path: Path, grid: tuple[int, int], dtype: str) -> None:
    given = torch.randn(3, 5, *grid).to(memory_format=torch.channels_last)  # as the backbone gives them
    store = DiskStore(tmp_path, SPEC, (5, *grid), dtype)
    store.append(names(3), given)
    assert torch.equal(store.batch(names(3)), given.to(DTYPES[dtype]).float())


def test_absent_keys_are_listed_once_in_order_and_can_not_be_read(make: Callable[[str], FeatureStore]) -> None:
    store, (a, b, c) = make("float16"), names(3)
    store.append([a], many([a]))
    assert store.missing([c, a, b, c]) == [c, b]
    with pytest.raises(LostError, match="2 image") as told:
        store.batch([b, a, c])
    assert told.value.keys == [b, c]


def test_what_is_there_is_left_alone(make: Callable[[str], FeatureStore]) -> None:
    store, (a, b, c) = make("float32"), names(3)
    store.append([a, b, a], torch.stack([features_of(a), features_of(b), features_of("x")]))
    store.append([b, c], torch.stack([features_of("y"), features_of(c)]))
    assert_holds(store, [a, b, c], "float32")


def test_nothing_is_a_batch_too(make: Callable[[str], FeatureStore]) -> None:
    store = make("float16")
    assert store.batch([]).shape == (0, *SHAPE)
    assert store.missing([]) == []
    store.append([], torch.empty(0, *SHAPE))


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_batches_and_what_was_appended_share_no_memory_with_the_store(
    make: Callable[[str], FeatureStore], dtype: str
) -> None:
    store, keys = make(dtype), names(2)
    given = many(keys)
    store.append(keys, given)
    given.zero_()
    store.batch(keys).zero_()
    assert_holds(store, keys, dtype)


def test_values_beyond_float16_are_refused_with_the_setting_to_change(make: Callable[[str], FeatureStore]) -> None:
    keys = names(2)
    features = many(keys)
    features[1, 2, 3, 4] = -70000.0
    store = make("float16")
    with pytest.raises(CacheError, match=r"70000 does not fit cache\.dtype=float16.*65504.*cache\.dtype=bfloat16"):
        store.append(keys, features)
    assert store.missing(keys) == keys
    store = make("bfloat16")
    store.append(keys, features)
    assert store.missing(keys) == []


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_features_that_are_not_finite_are_refused(make: Callable[[str], FeatureStore], value: float) -> None:
    features = many(["a"])
    features[0, 0, 0, 0] = value
    with pytest.raises(CacheError, match="not finite"):
        make("float32").append(["a"], features)


def test_wrong_shapes_and_dtypes_are_refused(make: Callable[[str], FeatureStore]) -> None:
    with pytest.raises(ValueError, match=r"expected features \(B, 5, 6, 9\), got \(1, 5, 9, 6\)"):
        make("float16").append(["a"], many(["a"]).transpose(2, 3))
    with pytest.raises(ValueError, match="shorter"):
        make("float16").append(["a", "b"], many(["a"]))
    with pytest.raises(CacheError, match=r"cache\.dtype.*float16, bfloat16, float32.*'int8'"):
        make("int8")


# What is kept apart, what is shared


def test_another_process_and_another_run_find_the_features(tmp_path: Path) -> None:
    fill(tmp_path, names(4))
    reordered = dict(reversed(SPEC.items()))
    store = DiskStore(tmp_path, reordered, SHAPE)
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
    assert [store.missing(["a"]) for store in variants] == [[], *4 * [["a"]]]
    assert len({store.folder for store in variants}) == len(variants)


def test_growth_by_others_is_picked_up(tmp_path: Path) -> None:
    mine, other, (a, b) = DiskStore(tmp_path, SPEC, SHAPE), DiskStore(tmp_path, SPEC, SHAPE), names(2)
    mine.append([a], many([a]))
    other.append([b, a], many([b, a]))
    assert_holds(mine, [b, a])


def fill_and_leave(root: Path, keys: Sequence[str], step: int) -> None:
    fill(root, keys, step)


def test_processes_that_write_the_same_images_at_once_end_with_each_key_once(tmp_path: Path) -> None:
    keys = names(60)
    shares = [(keys[:45], 3), (keys[15:][::-1], 4), (keys, 60)]
    workers = [processes.Process(target=fill_and_leave, args=(tmp_path, share, step)) for share, step in shares]
    run_all(workers)
    assert_holds(DiskStore(tmp_path, SPEC, SHAPE), keys)
    assert files(tmp_path) == {"spec.json", *keys}


def run_all(workers: Sequence[BaseProcess]) -> None:
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0] * len(workers)


# Kills


def append_at_random(root: Path, keys: list[str], seed: int) -> None:
    order, store = random.Random(seed), DiskStore(root, SPEC, WIDE)
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
        store = DiskStore(root, SPEC, WIDE)
        if there := sorted(set(keys) - set(store.missing(keys))):
            assert_holds(store, there)
    store.append(keys, many(keys, WIDE))
    assert_holds(store, keys)


def test_a_kill_at_any_moment_never_leaves_a_wrong_feature(tmp_path: Path) -> None:
    kill_rounds(tmp_path, 5)


@pytest.mark.slow
def test_many_kills_never_leave_a_wrong_feature(tmp_path: Path) -> None:
    kill_rounds(tmp_path, 60)


def die(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def append_and_die(root: Path) -> None:
    store = DiskStore(root, SPEC, SHAPE)
    Path.replace = die  # type: ignore[assignment,method-assign]
    store.append(names(4), many(names(4)))


def kill_within_append(root: Path) -> None:
    worker = processes.Process(target=append_and_die, args=(root,))
    worker.start()
    worker.join(60)
    assert worker.exitcode == -signal.SIGKILL


def test_a_kill_before_the_rename_loses_that_image_only(tmp_path: Path) -> None:
    keys = names(4)
    store = fill(tmp_path, keys[:2])
    kill_within_append(tmp_path)
    (left,) = tmp_path.rglob("*.tmp")
    assert store.missing(keys) == keys[2:]
    store.append(keys, many(keys))
    assert_holds(store, keys)
    trim(tmp_path, 10**9)
    assert left.exists(), "it may be somebody's who still writes"
    os.utime(left, (1000, 1000))
    trim(tmp_path, 10**9)
    assert not left.exists()
    assert_holds(store, keys)


# Damage


@pytest.mark.parametrize("offset", [0, 20, 75, 76, FILE_BYTES - 1], ids=["magic", "key", "checksum", "first", "last"])
def test_a_flipped_bit_is_never_served_and_is_mentioned_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, offset: int
) -> None:
    keys = names(5)
    file = file_of(fill(tmp_path, keys), keys[3])
    flip(file, offset)
    store = DiskStore(tmp_path, SPEC, SHAPE)
    with pytest.raises(LostError, match=r"1 image\(s\).*start again") as told:
        store.batch(keys)
    assert told.value.keys == [keys[3]]
    assert store.missing(keys) == [keys[3]]
    store.append(keys, many(keys))
    assert_holds(store, keys)
    assert caplog.text.count(str(file)) == 1


@pytest.mark.parametrize("size", [0, 50, FILE_BYTES - 1])
def test_a_file_cut_short_is_absent(tmp_path: Path, size: int) -> None:
    keys = names(5)
    store = fill(tmp_path, keys)
    store.batch(keys)  # checked once: a later cut must still be seen
    os.truncate(file_of(store, keys[2]), size)
    with pytest.raises(LostError):
        store.batch(keys)
    os.truncate(file_of(store, keys[1]), size)
    assert store.missing(keys) == [keys[1], keys[2]]
    store.append(keys, many(keys))
    assert_holds(store, keys)


def test_features_under_the_name_of_another_image_are_not_served(tmp_path: Path) -> None:
    a, b = names(2)
    store = fill(tmp_path, [a, b])
    shutil.copy(file_of(store, a), file_of(store, b))
    with pytest.raises(LostError):
        store.batch([b])


def test_a_folder_removed_underneath_is_made_again(tmp_path: Path) -> None:
    keys = names(3)
    store = fill(tmp_path, keys)
    shutil.rmtree(store.folder)
    assert store.missing(keys) == keys
    store.append(keys, many(keys))
    assert_holds(store, keys)


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
    keys, more = names(4), names(200, "more")
    store = fill(small_disk, keys)
    with pytest.raises(CacheError, match=r"no room.*stays usable.*action=trim.*cache\.dir.*cache\.mode=memory"):
        store.append(more, many(more))
    assert_holds(store, keys)
    absent = set(store.missing(more))
    assert_holds(store, [key for key in more if key not in absent])
    assert not list(small_disk.rglob("*.tmp"))


def append_with_a_limit(root: Path, limit: int, outcome: Any) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        DiskStore(root, SPEC, WIDE).append(names(3), many(names(3), WIDE))
    except CacheError as error:
        outcome.send(str(error))


def test_a_limit_on_file_size_is_an_error_with_a_way_out(tmp_path: Path) -> None:
    ours, theirs = processes.Pipe()
    run_all([processes.Process(target=append_with_a_limit, args=(tmp_path, 100_000, theirs))])
    assert ours.poll()
    assert "no room" in ours.recv()
    assert files(tmp_path) == {"spec.json"}


def test_a_read_only_folder_is_served_and_refuses_to_grow(small_disk: Path) -> None:
    keys = names(4)
    store = fill(small_disk, keys)
    os.utime(file_of(store, keys[0]), (1000, 1000))
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    store = DiskStore(small_disk, SPEC, SHAPE)
    assert_holds(store, keys)
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
    store = fill(tmp_path, names(1))

    def broken(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Path, "open", broken)
    with pytest.raises(CacheError, match="Input/output error"):
        store.batch(names(1))
