"""Rows in a file without a name."""

import errno
import os

import numpy as np
import pytest
import torch

from anomaly_lightning.features.condensed import CondensedFile


def test_rows_come_back_as_they_were_in_any_order(tmp_path):
    kept, rows = CondensedFile(tmp_path / "made"), torch.randn(11, 3, 4, 5)
    for part in (rows[:4], rows[4:4], rows[4:].permute(0, 1, 3, 2).contiguous().permute(0, 1, 3, 2)):
        kept.append(part)
    for order in ([10, 0, 4, 4], [], [3]):
        assert torch.equal(kept.batch(np.array(order, dtype=np.int64)), rows[order])


def test_half_precision_is_kept_as_float32(tmp_path):
    kept, rows = CondensedFile(tmp_path), torch.randn(2, 3).half()
    kept.append(rows)
    assert torch.equal(kept.batch(np.array([1, 0])), rows[[1, 0]].float())


def test_nothing_is_left_in_the_folder(tmp_path):
    kept = CondensedFile(tmp_path)
    kept.append(torch.ones(3, 2))
    if os.name != "nt":
        assert list(tmp_path.iterdir()) == [], "not even while it is used, so that a kill leaves nothing"
    kept.close()
    kept.close()
    assert list(tmp_path.iterdir()) == []


def test_rows_that_are_not_there_and_rows_of_another_shape_are_refused(tmp_path):
    kept = CondensedFile(tmp_path)
    with pytest.raises(ValueError, match="never appended"):
        kept.batch(np.array([0]))
    kept.append(torch.ones(3, 2))
    with pytest.raises(ValueError, match="never appended"):
        kept.batch(np.array([0, 3]))
    with pytest.raises(ValueError, match="shape"):
        kept.append(torch.ones(1, 4))


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full, a disk that is always full")  # noqa: PTH110
def test_a_full_disk_is_told_once(tmp_path, monkeypatch):
    full = open("/dev/full", "wb")  # noqa: PTH123, SIM115
    monkeypatch.setattr("tempfile.TemporaryFile", lambda **_: full)
    kept = CondensedFile(tmp_path)
    with pytest.raises(OSError, match="space") as told:
        kept.append(torch.ones(3, 2))
    assert told.value.errno == errno.ENOSPC
    kept.close()  # which would write what waits
    assert full.closed
