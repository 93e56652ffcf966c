"""Operations along the grid against torch's own."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from anomaly_lightning.statistics import ChannelMoments, ChannelView
from anomaly_lightning.statistics.grid import averages, between, enlarged, inside, surroundings

SIZES = [(12, 24), (13, 9), (12, 9), (1, 1), (1, 7)]


def maps_of(size: tuple[int, int], seed: int = 0) -> torch.Tensor:
    return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("side", [1, 2, 3, 4])
@pytest.mark.parametrize("size", SIZES)
def test_averages_are_those_of_torch(side, size):
    torch.testing.assert_close(averages(maps_of(size), side), F.avg_pool2d(maps_of(size), side, ceil_mode=True))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("wanted", [(24, 48), (25, 17), (13, 9), (5, 40)])
@pytest.mark.parametrize("size", SIZES)
def test_enlarging_is_the_bilinear_interpolation_of_torch(size, wanted, layout):
    maps = maps_of(size).contiguous(memory_format=layout)
    expected = F.interpolate(maps, size=wanted, mode="bilinear", align_corners=False)
    torch.testing.assert_close(enlarged(maps, wanted), expected)


@pytest.mark.parametrize("size", SIZES)
def test_surroundings_are_averages_with_zeros_beyond_the_rim(size):
    torch.testing.assert_close(surroundings(maps_of(size)), F.avg_pool2d(maps_of(size), 3, 1, 1))
    torch.testing.assert_close(inside(maps_of(size)), F.avg_pool2d(torch.ones(1, 1, *size), 3, 1, 1)[0, 0])


@pytest.mark.parametrize("every", [1, 2, 3])
@pytest.mark.parametrize("size", SIZES)
def test_some_surroundings_are_those_of_all_positions(size, every):
    maps = maps_of(size)
    torch.testing.assert_close(surroundings(maps, every), surroundings(maps)[..., ::every, ::every])


@pytest.mark.parametrize("every", [1, 2, 3])
@pytest.mark.parametrize("size", SIZES)
def test_values_between_positions_are_numpys_interpolation(size, every):
    maps = maps_of(size)[:, 0, ::every, ::every]
    expected = maps.double().numpy()
    for axis, side in ((1, size[0]), (2, size[1])):
        known = np.arange(0, side, every)
        expected = np.apply_along_axis(lambda v, k=known, s=side: np.interp(np.arange(s), k, v), axis, expected)
    np.testing.assert_allclose(between(maps, size, every), expected, atol=1e-6)


def test_what_was_kept_for_one_dtype_is_not_given_for_another():
    maps = maps_of((6, 8))
    assert enlarged(maps, (12, 16)).dtype == torch.float32
    assert enlarged(maps.double(), (12, 16)).dtype == torch.float64
    torch.testing.assert_close(surroundings(maps.double()).float(), surroundings(maps))


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
