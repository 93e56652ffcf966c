"""What an evaluation computes, row by row into a file, and together from several processes."""

import io
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from anomaly_lightning.reports import run_files
from anomaly_lightning.training import scored
from anomaly_lightning.training.scored import Scored

MAPS = torch.randn(7, 3, 4, generator=torch.Generator().manual_seed(0))
SCORES = torch.arange(7.0) / 3


def filled(folder, *batches):
    found = Scored(folder)
    for places in batches:
        found.add(torch.tensor(places), SCORES[places], MAPS[places])
    return found


def test_rows_come_in_the_order_of_the_set_whatever_the_batches(tmp_path):
    scores, maps = filled(tmp_path, [3, 0], [6, 1, 2], [5, 4]).ordered()
    assert torch.equal(scores, SCORES)
    assert maps.shape == MAPS.shape
    assert len(maps) == 7
    assert torch.equal(maps[2:5], MAPS[2:5])
    assert [len(part) for part in maps.split(3)] == [3, 3, 1]
    assert torch.equal(torch.cat(list(maps.split(3))), MAPS)
    assert not list(tmp_path.iterdir()), "the file has no name"


def test_of_an_image_that_came_twice_the_last_row_counts(tmp_path):
    found = filled(tmp_path, [1, 0])
    found.add(torch.tensor([1]), torch.tensor([9.0]), MAPS[5:6])
    scores, maps = found.ordered()
    assert scores.tolist() == [0, 9]
    assert torch.equal(maps[1:2], MAPS[5:6])


def test_nothing_scored_is_nothing(tmp_path):
    scores, maps = Scored(tmp_path).ordered()
    assert (len(scores), len(maps), list(maps.split(2))) == (0, 0, [])


def test_maps_are_read_from_several_threads_at_once(tmp_path):
    _, maps = filled(tmp_path, list(range(7))).ordered()
    wrong = []

    def read(index):
        for _ in range(200):
            if not torch.equal(maps[index : index + 1], MAPS[index : index + 1]):
                wrong.append(index)

    threads = [threading.Thread(target=read, args=(index,)) for index in range(7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize("at_once", [1, 2, 256])
def test_processes_have_all_rows_in_the_same_order(tmp_path, monkeypatch, at_once):
    """Two threads stand for two processes: each hands in its part, and both get both."""
    monkeypatch.setattr(scored, "AT_ONCE", at_once)
    here, barrier, slots = threading.local(), threading.Barrier(2, timeout=30), [None, None]

    def all_gather_object(parts, own):
        slots[here.rank] = own
        barrier.wait()
        parts[:] = slots
        barrier.wait()

    several = {"is_initialized": lambda: True, "get_world_size": lambda: 2, "all_gather_object": all_gather_object}
    for name, stand_in in several.items():
        monkeypatch.setattr(torch.distributed, name, stand_in)
    shares, found = ([[0, 2], [4]], [[1, 3], [5, 6, 2]]), {}

    def process(rank):
        here.rank = rank
        found[rank] = filled(tmp_path, *shares[rank]).gathered()

    threads = [threading.Thread(target=process, args=(rank,)) for rank in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for rank in (0, 1):
        scores, maps = found[rank].ordered()
        assert torch.equal(scores, SCORES)
        assert torch.equal(maps[0:7], MAPS)
    assert torch.equal(*(torch.cat(found[rank]._places) for rank in (0, 1)))


def test_error_maps_are_written_as_numpy_would(tmp_path, monkeypatch):
    monkeypatch.setattr(run_files, "MAPS_AT_ONCE", 2)
    _, kept = filled(tmp_path, list(range(7))).ordered()
    wanted = io.BytesIO()
    np.save(wanted, MAPS.numpy())
    for maps in (kept, MAPS, MAPS.double()):
        run_files.write_error_maps(tmp_path / "maps.npy", SimpleNamespace(error_maps=maps))
        assert (tmp_path / "maps.npy").read_bytes() == wanted.getvalue()
