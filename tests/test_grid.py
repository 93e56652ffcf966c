"""Operations along the grid against torch's own."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from anomaly_lightning.detectors.parts.grid import Chessboard, averages
from anomaly_lightning.detectors.parts.moments import ChannelMoments
from anomaly_lightning.detectors.parts.view import ChannelView

SIZES = [(12, 24), (13, 9), (12, 9), (1, 1), (1, 7)]


def maps_of(size: tuple[int, int], seed: int = 0) -> torch.Tensor:
    return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("side", [1, 2, 3, 4])
@pytest.mark.parametrize("size", SIZES)
def test_averages_are_those_of_torch(side, size, layout):
    maps = maps_of(size).contiguous(memory_format=layout)
    torch.testing.assert_close(averages(maps, side), F.avg_pool2d(maps_of(size), side, ceil_mode=True))


@pytest.mark.parametrize("size", SIZES)
def test_white_squares_and_the_map_that_is_made_of_them(size):
    maps = maps_of(size)
    board = Chessboard(size)
    found = board.take(maps)
    white = [(row, column) for row in range(size[0]) for column in range(size[1]) if (row + column) % 2 == 0]
    expected = torch.stack([maps[:, :, row, column] for row, column in white], dim=1)
    assert torch.equal(found, expected)
    whole = board.fill(found[..., 0])
    for row, column in np.ndindex(size):
        beside = ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1))
        known = [(row, column)] if (row, column) in white else [place for place in beside if place in white]
        mean = torch.stack([maps[:, 0, r, c] for r, c in known]).mean(0)
        torch.testing.assert_close(whole[:, row, column], mean)


def test_a_view_is_the_rows_times_the_standardised_features():
    data, rows = maps_of((6, 8)) * 3 + 5, torch.randn(4, 3, generator=torch.Generator().manual_seed(1))
    moments, view = ChannelMoments(3), ChannelView()
    assert not view.ready
    moments.observe(data)
    moments.finish()
    view.set(rows, moments)
    assert view.ready
    torch.testing.assert_close(view(data), torch.einsum("kc,bchw->bkhw", rows, moments(data)), atol=1e-5, rtol=1e-5)
    assert not view.state_dict()
    view.clear()
    assert not view.ready
