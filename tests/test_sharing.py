"""How the processes of a data-parallel run share out their batches: each serves its part, together they serve all."""

import socket
from collections import Counter
from itertools import chain

import pytest
import torch

LABELS = torch.arange(50) % 7 == 0


class Rows:
    """Keeps ten times the row under each row."""

    def batch(self, rows):
        return torch.tensor(rows).float()[:, None] * 10


def batches(count, batch_size, epoch=None, **options):
    """What a process serves of `count` images that lie in the rows from 100 on: a list of batches."""
    from anomaly_lightning.features.batches import KeptBatches

    rows = range(100, 100 + count)
    epochs = None if epoch is None else (lambda: epoch)
    kept = KeptBatches("features", Rows(), rows, LABELS[:count], batch_size, epochs, **options)
    served = list(kept)
    assert len(served) == len(kept)
    return served


def steps(served):
    """Indices of the images, batch by batch."""
    return [batch["index"].tolist() for batch in served]


@pytest.fixture
def of_each(monkeypatch):
    """Call `batches` as each of several processes would."""

    def call(processes, *arguments, **options):
        served = []
        for rank in range(processes):
            with monkeypatch.context() as patch:
                patch.setattr(torch.distributed, "is_initialized", lambda: True)
                patch.setattr(torch.distributed, "get_world_size", lambda group=None: processes)
                patch.setattr(torch.distributed, "get_rank", lambda group=None, rank=rank: rank)
                served.append(batches(*arguments, **options))
        return served

    return call


@pytest.mark.parametrize("epoch", [None, 0, 3])
@pytest.mark.parametrize("processes", [2, 3])
@pytest.mark.parametrize("count", [1, 2, 12, 20, 21, 25])
@pytest.mark.parametrize("batch_size", [6, 8])
def test_each_process_serves_its_own_part(of_each, processes, count, batch_size, epoch):
    parts = [list(chain(*steps(served))) for served in of_each(processes, count, batch_size, epoch)]
    assert {len(part) for part in parts} == {-(-count // processes)}, "all processes serve as many images"
    times = Counter(chain(*parts))
    assert set(times) == set(range(count)), "together they serve all"
    padding = len(parts) * len(parts[0]) - count
    assert padding < processes
    if count >= processes:
        assert sorted(times.values()) == [1] * (count - padding) + [2] * padding, "none twice, but for the padding"


@pytest.mark.parametrize("epoch", [None, 0, 3])
@pytest.mark.parametrize("processes", [2, 3])
@pytest.mark.parametrize("count", [12, 20, 21, 25])
def test_every_step_of_all_processes_is_the_step_of_one(of_each, processes, count, epoch):
    """With a batch size that the processes divide; images that fill up the last step are the first of the order."""
    alone = steps(batches(count, 6, epoch))
    order = list(chain(*alone))
    together = [list(chain(*step)) for step in zip(*map(steps, of_each(processes, count, 6, epoch)), strict=True)]
    padding = order[: -count % processes]
    assert [Counter(step) for step in together] == [Counter(step) for step in [*alone[:-1], alone[-1] + padding]]


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_all_processes_shuffle_an_epoch_alike_by_seed_and_epoch(of_each, processes):
    count = 24

    def order(epoch, seed):
        parts = [list(chain(*steps(served))) for served in of_each(processes, count, 6, epoch, seed=seed)]
        return list(chain(*zip(*parts, strict=True)))

    for epoch, seed in ((0, 0), (1, 0), (0, 1), (7, 5)):
        generator = torch.Generator().manual_seed(1_000_003 * seed + epoch)
        assert order(epoch, seed) == torch.randperm(count, generator=generator).tolist()
    assert order(None, 0) == list(range(count))


def test_a_batch_holds_what_is_kept_of_its_images_and_their_labels(of_each):
    for served in of_each(2, 21, 6, 1):
        for batch in served:
            assert batch["features"][:, 0].tolist() == [10 * (100 + index) for index in batch["index"].tolist()]
            assert torch.equal(batch["label"], LABELS[batch["index"]])


def test_a_set_that_is_not_shared_is_served_whole_to_everybody(of_each):
    for served in of_each(3, 20, 6, shared=False):
        assert steps(served) == steps(batches(20, 6))


def serve(rank, processes, port, queue):
    """One of several real processes: put what all of them serve, gathered by gloo."""
    torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=processes)
    parts = [None] * processes
    torch.distributed.all_gather_object(parts, steps(batches(21, 6, 2)))
    if rank == 0:
        queue.put(parts)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_real_processes_share_as_simulated_ones_do(of_each):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    queue = torch.multiprocessing.get_context("spawn").SimpleQueue()
    torch.multiprocessing.spawn(serve, (2, port, queue), nprocs=2)
    assert queue.get() == [steps(served) for served in of_each(2, 21, 6, 2)]
