"""python -m anomaly_lightning.cache: what it shows, what it removes, how it refuses."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from anomaly_lightning.errors import CacheError
from anomaly_lightning.features.housekeeping import cache_usage, limit_bytes
from anomaly_lightning.features.store import DiskStore
from anomaly_lightning.places import FEATURES

SHAPE = (8, 20, 30)
PROJECT = Path(__file__).resolve().parents[1]


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    for backbone in ("resnet50", "tiny"):
        store = DiskStore(tmp_path / "cache" / FEATURES, {"backbone": backbone}, SHAPE)
        store.append([f"{i:02}key" for i in range(5)], torch.ones(5, *SHAPE))
    return tmp_path / "cache"


def run(cache: Path, *options: str) -> subprocess.CompletedProcess[str]:
    folder = cache.parent / "elsewhere"
    folder.mkdir(exist_ok=True)
    environment = os.environ | {"ANOMALY_CACHE": str(cache), "PYTHONPATH": str(PROJECT), "COLUMNS": "160"}
    command = [sys.executable, "-m", "anomaly_lightning.cache", *options]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert list(folder.iterdir()) == []  # looking leaves nothing behind
    return done


def test_show_lists_every_folder_and_the_total(cache: Path) -> None:
    done = run(cache)
    assert done.returncode == 0
    for entry in cache_usage(cache / FEATURES):
        (line,) = [line for line in done.stdout.splitlines() if entry.folder.name in line]
        assert str(entry.spec["backbone"]) in line
        assert "8x20x30  float16       5" in line
    assert "of 20 GB (cache.max_gb)" in done.stdout


def test_clear_removes_the_folder_it_was_given(cache: Path) -> None:
    gone, stays = cache_usage(cache / FEATURES)
    done = run(cache, "action=clear", f"folders=[{gone.folder.name}]")
    assert done.returncode == 0
    assert "the features of 5 images" in done.stdout
    assert [entry.folder for entry in cache_usage(cache / FEATURES)] == [stays.folder]


def test_trim_brings_the_cache_below_its_limit(cache: Path) -> None:
    assert run(cache, "action=trim", "cache.max_gb=0.00007").returncode == 0
    assert 0 < sum(entry.bytes for entry in cache_usage(cache / FEATURES)) <= 70_000


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["action=delete"], "show, clear, trim; got 'delete'"),
        (["action=clear", "folders=[nothing]"], "No folder nothing in the cache"),
        (["action=trim", "folders=[a]"], "goes with action=clear only"),
        (["cache.max=1"], "cache.max"),
    ],
)
def test_a_mistake_is_told_in_a_paragraph_and_removes_nothing(cache: Path, options: list[str], told: str) -> None:
    done = run(cache, *options)
    assert done.returncode == 1
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert len(cache_usage(cache / FEATURES)) == 2


def test_limits_that_are_no_size_are_refused() -> None:
    assert limit_bytes(0.5) == 500_000_000
    for limit in (-1, float("nan"), float("inf"), "much", None, True):
        with pytest.raises(CacheError, match=r"cache\.max_gb"):
            limit_bytes(limit)  # type: ignore[arg-type]
