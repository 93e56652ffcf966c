"""The order of an epoch: every row once, and within windows where memory can't hold them all."""

import pytest
import torch
from toy import BARE, command, composed, flat

from anomaly_lightning.features.batches import KeptBatches
from anomaly_lightning.features.condensed import CondensedFile
from anomaly_lightning.features.order import BLOCK_BYTES, Windows, shuffled
from anomaly_lightning.training.session import TrainingSession


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_what_fits_is_shuffled_as_a_whole():
    wanted = torch.randperm(40, generator=generator())
    for windows in (None, Windows(rows=40, block=3)):
        order = shuffled(40, generator(), windows)
        assert torch.equal(order.places, wanted)
        assert order.ahead == ()


@pytest.mark.parametrize(("count", "rows", "block"), [(100, 20, 5), (103, 20, 20), (103, 1, 1), (103, 21, 5)])
def test_every_row_comes_once_from_few_blocks_at_a_time(count, rows, block):
    order = shuffled(count, generator(), Windows(rows, block))
    assert sorted(order.places.tolist()) == list(range(count))
    size = rows // block * block
    if count % block == 0:  # else windows after that of the shorter block begin earlier
        blocks = [set((part // block).tolist()) for part in order.places.split(size)]
        assert {len(some) for some in blocks} == {rows // block}
    assert not torch.equal(order.places, shuffled(count, generator(1), Windows(rows, block)).places)
    assert torch.equal(order.places, shuffled(count, generator(), Windows(rows, block)).places)


def test_neighbours_of_a_window_are_apart():
    order = shuffled(10_000, generator(), Windows(rows=2000, block=50)).places
    assert ((order[1:] - order[:-1]).abs() == 1).float().mean() < 0.01, "of blocks in one piece nearly all would be"
    means = order.float().reshape(5, 2000).mean(1)
    assert means.min() > 3500, "each window has blocks from everywhere"
    assert means.max() < 6500


def test_blocks_are_read_ahead_once_and_at_most_a_window_before_they_are_needed():
    windows, served = Windows(rows=20, block=5), []
    order = shuffled(103, generator(), windows)
    for position, start, stop in order.ahead:
        served += list(range(start, stop))
        first = min((order.places == row).nonzero().item() for row in range(start, stop))
        assert position <= first <= position + 2 * windows.rows
    assert sorted(served) == list(range(103))
    assert [position for position, *_ in order.ahead] == sorted(position for position, *_ in order.ahead)


def test_batches_tell_the_source_what_comes_and_then_ask_for_it():
    told = []

    class Source:
        def batch(self, keys):
            assert set(keys) <= set(told)
            return torch.tensor(keys).float()[:, None]

        def expect(self, start, stop):
            told.extend(range(start, stop))

    batches = KeptBatches(
        "condensed", Source(), range(50), torch.zeros(50, dtype=torch.bool), 4, lambda: 0, windows=Windows(10, 2)
    )
    rows = torch.cat([batch["condensed"][:, 0] for batch in batches])
    assert sorted(rows.tolist()) == list(range(50))
    assert len(told) == 50


def test_a_window_has_the_rows_that_fit_into_it():
    assert Windows.of(4e9, 48_000) == Windows(83333, BLOCK_BYTES // 48_000)
    assert Windows.of(1e6, 1000) == Windows(1000, 62)
    assert Windows.of(10, 1000) == Windows(1, 1)
    assert Windows.of(4e9, 0).rows > 0, "before there is a row"


def test_a_file_takes_hints_whatever_the_system_makes_of_them(tmp_path):
    kept = CondensedFile(tmp_path)
    kept.append(torch.ones(9, 5))
    kept.expect(2, 7)
    assert torch.equal(kept.batch([3]), torch.ones(1, 5))


def test_the_option_reaches_the_epochs_and_every_row_is_still_trained_on(widget, tmp_path, monkeypatch):
    seen, batch = [], CondensedFile.batch
    monkeypatch.setattr(CondensedFile, "batch", lambda self, keys: seen.append(list(keys)) or batch(self, keys))
    config = composed(*widget, *BARE, "data.shuffle_gb=1e-9", "data.batch_size=4", "test=false", f"run_dir={tmp_path}")
    session = TrainingSession(config)
    session.data.trainer = session.trainer
    session.data.setup("fit")
    session.data.serve("train", [torch.arange(12.0)[:, None]])
    loader = session.data.train_dataloader()
    assert loader.dataset.windows == Windows(1, 1)
    assert sorted(torch.cat([part["condensed"][:, 0] for part in loader]).tolist()) == list(range(12))
    assert len(seen) == 3


def test_no_room_to_shuffle_in_is_told(widget, tmp_path):
    ran = command("train", *widget, *BARE, "data.shuffle_gb=0", cwd=tmp_path)
    assert ran.code == 1
    assert "data.shuffle_gb=0: expected a number of gigabytes above 0" in flat(ran.out)
