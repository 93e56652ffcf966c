"""What the cache of features holds, and how it is kept small."""

import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from stored import FILE_BYTES, SHAPE, SPEC, assert_holds, file_of, files, fill, many, names, processes

from anomaly_lightning.errors import CacheError
from anomaly_lightning.features import housekeeping
from anomaly_lightning.features import store as module
from anomaly_lightning.features.housekeeping import cache_usage, clear, trim
from anomaly_lightning.features.store import DiskStore, LostError


def aged(root: Path, spec: dict[str, object], keys: list[str], start: float) -> Path:
    """Folder of a store whose n-th image was last used at start + n seconds since 1970."""
    store = fill(root, keys, spec=spec)
    for number, key in enumerate(keys):
        os.utime(file_of(store, key), (start + number, start + number))
    return store.folder


def total(root: Path) -> int:
    return sum(path.stat().st_size for path in root.rglob("*") if path.is_file())


OTHER = SPEC | {"backbone": "other"}


def test_usage_tells_what_is_there(tmp_path: Path) -> None:
    assert cache_usage(tmp_path / "nowhere") == []
    old = aged(tmp_path, SPEC, names(3), start=1000.0)
    new = aged(tmp_path, OTHER, names(5), start=2000.0)
    (tmp_path / "somebody's folder").mkdir()
    entries = cache_usage(tmp_path)
    assert [(entry.folder, entry.images, entry.last_used) for entry in entries] == [(new, 5, 2004.0), (old, 3, 1002.0)]
    assert entries[1].spec == SPEC
    assert (entries[1].shape, entries[1].dtype) == (SHAPE, "float16")
    assert entries[1].bytes == total(old) == 3 * FILE_BYTES + (old / "spec.json").stat().st_size


def test_trim_removes_what_was_used_longest_ago_and_serves_the_rest(tmp_path: Path) -> None:
    keys = random.Random(0).sample(names(40), 40)
    old, new = aged(tmp_path, SPEC, keys, start=1000.0), aged(tmp_path, OTHER, keys, start=2000.0)
    freed = trim(tmp_path, 70 * FILE_BYTES)
    assert (freed.images, freed.bytes) == (10, 10 * FILE_BYTES)
    assert {entry.folder: entry.images for entry in cache_usage(tmp_path)} == {old: 30, new: 40}
    store = DiskStore(tmp_path, SPEC, SHAPE)
    assert store.missing(keys) == keys[:10]
    assert_holds(store, keys[10:])
    store.append(keys[:10], many(keys[:10]))
    assert_holds(store, keys)


def test_trim_goes_on_to_the_next_folder_and_removes_empty_ones(tmp_path: Path) -> None:
    aged(tmp_path, SPEC, names(10), start=1000.0)
    new = aged(tmp_path, OTHER, names(10), start=2000.0)
    trim(tmp_path, 9 * FILE_BYTES)
    assert [(entry.folder, entry.images) for entry in cache_usage(tmp_path)] == [(new, 9)]
    assert list(tmp_path.iterdir()) == [new]
    assert trim(tmp_path, 9 * FILE_BYTES).images == 0


def test_use_makes_features_young(tmp_path: Path) -> None:
    keys = names(10)
    aged(tmp_path, SPEC, keys, start=1000.0)
    DiskStore(tmp_path, SPEC, SHAPE).missing(keys[:1])
    trim(tmp_path, 5 * FILE_BYTES)
    assert DiskStore(tmp_path, SPEC, SHAPE).missing(keys) == keys[1:6]


def test_a_file_used_an_hour_ago_is_not_touched_again(tmp_path: Path) -> None:
    store, key = fill(tmp_path, names(1)), names(1)[0]
    recently = time.time() - module.TOUCH_EVERY_S / 2
    os.utime(file_of(store, key), (recently, recently))
    store.missing([key])
    assert file_of(store, key).stat().st_mtime == pytest.approx(recently, abs=1)


def test_what_was_trimmed_while_it_is_used_is_lost_and_can_be_stored_again(tmp_path: Path) -> None:
    keys = names(4)
    store = fill(tmp_path, keys)
    trim(tmp_path, 0)
    assert files(tmp_path) == set()
    with pytest.raises(LostError) as told:
        store.batch(keys)
    assert told.value.keys == keys
    store.append(keys, many(keys))
    assert_holds(store, keys)


def trim_at_random(root: Path, until: float) -> None:
    while time.monotonic() < until:
        trim(root, 20 * FILE_BYTES)


def test_trimming_beside_a_writer_harms_neither(tmp_path: Path) -> None:
    keys = names(60)
    until = time.monotonic() + 1.5
    trimmers = [processes.Process(target=trim_at_random, args=(tmp_path, until)) for _ in range(2)]
    for trimmer in trimmers:
        trimmer.start()
    store = DiskStore(tmp_path, SPEC, SHAPE)
    while time.monotonic() < until:
        lacking = store.missing(keys)  # asked once: the trimmers go on meanwhile
        store.append(lacking, many(lacking) if lacking else torch.empty(0, *SHAPE))
    for trimmer in trimmers:
        trimmer.join(60)
        assert trimmer.exitcode == 0
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_folder_whose_spec_is_unreadable_can_be_cleared_and_is_fixed_by_its_next_use(tmp_path: Path) -> None:
    folder = aged(tmp_path, SPEC, names(3), start=1000.0)
    (folder / "spec.json").write_text("{")
    assert [(entry.images, entry.spec) for entry in cache_usage(tmp_path)] == [(3, {})]
    fill(tmp_path, names(1, "new"))
    assert [(entry.images, entry.spec) for entry in cache_usage(tmp_path)] == [(4, SPEC)]
    (folder / "spec.json").unlink()
    assert clear(tmp_path, [folder.name]).images == 4
    assert not folder.exists()


def test_clear_takes_the_named_folders_only_and_nothing_foreign(tmp_path: Path) -> None:
    one, two = aged(tmp_path, SPEC, names(3), start=1000.0), aged(tmp_path, OTHER, names(2), start=1000.0)
    (two / "notes.txt").write_text("mine")
    (tmp_path / "images").mkdir()
    with pytest.raises(CacheError, match=f"No folder nothing.*{one.name}"):
        clear(tmp_path, ["nothing"])
    assert clear(tmp_path, [one.name]).images == 3
    assert not one.exists()
    assert clear(tmp_path).images == 2
    assert (two / "notes.txt").read_text() == "mine"
    assert (tmp_path / "images").is_dir()


@pytest.mark.parametrize("remove", [clear, lambda root: trim(root, 10**9)], ids=["clear", "trim"])
def test_the_layout_of_earlier_versions_is_counted_and_removed(tmp_path: Path, remove: Callable[[Path], Any]) -> None:
    folder = tmp_path / ("ab" * 10)
    folder.mkdir()
    for name in ("rows.bin", "index.sqlite", "spec.json"):
        (folder / name).write_bytes(bytes(1000))
    (tmp_path / ".locks").mkdir()
    (tmp_path / ".locks" / "a.lock").touch()
    assert [(entry.images, entry.bytes) for entry in cache_usage(tmp_path)] == [(0, 3000)]
    assert remove(tmp_path).bytes >= 2000
    assert not folder.exists()
    assert (tmp_path / ".locks").exists() == (remove is not clear)


def test_as_long_as_all_is_within_the_limit_no_file_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    aged(tmp_path, SPEC, names(8), start=1000.0)
    looked, stat = list[str](), os.stat
    monkeypatch.setattr(housekeeping.os, "stat", lambda path, **more: looked.append(str(path)) or stat(path, **more))
    assert trim(tmp_path, 8 * FILE_BYTES).images == 0
    assert not [path for path in looked if path.rpartition(os.sep)[2] in names(8)]
    assert trim(tmp_path, 8 * FILE_BYTES - 1).images == 1
    assert {path.rpartition(os.sep)[2] for path in looked} >= set(names(8))


def test_without_a_spec_the_files_tell_their_size(tmp_path: Path) -> None:
    folder = aged(tmp_path, SPEC, names(3), start=1000.0)
    (folder / "spec.json").write_text("{")
    assert trim(tmp_path, 3 * FILE_BYTES).images == 0
    assert trim(tmp_path, 3 * FILE_BYTES - 1).images == 1
