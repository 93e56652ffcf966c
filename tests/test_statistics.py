"""The streaming statistics against plain numpy on all data at once."""

import numpy as np
import pytest
import torch

from anomaly_lightning.statistics import ChannelMoments, PatchMemory, PositionWhitening, Projection

SHAPE = (5, 3, 4)  # C, h, w


def features(count: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(SHAPE[0], SHAPE[0], generator=generator)
    return torch.einsum("cd,bdhw->bchw", mixing, torch.randn(count, *SHAPE, generator=generator)) + 2.0


def test_moments_stream_to_what_numpy_says_of_all():
    data = features(30)
    moments = ChannelMoments(SHAPE[0])
    for batch in data.split(7):
        moments.observe(batch)
    moments.finish()
    values = data.double().numpy().transpose(1, 0, 2, 3).reshape(SHAPE[0], -1)
    np.testing.assert_allclose(moments.mean.flatten(), values.mean(1), rtol=1e-5)
    np.testing.assert_allclose(moments.std.flatten(), values.std(1), rtol=1e-5)
    standardised = moments(data)
    assert standardised.mean((0, 2, 3)).abs().max() < 1e-5


def test_moments_do_not_blow_up_a_channel_that_never_varies():
    data = features(10)
    data[:, 0] = 3.0
    moments = ChannelMoments(SHAPE[0])
    moments.observe(data)
    moments.finish()
    assert torch.isfinite(moments(data)).all()
    assert moments(data)[:, 0].abs().max() < 1e-3


def test_moments_start_anew_after_finish():
    moments = ChannelMoments(SHAPE[0])
    for seed in (1, 2):
        moments.observe(features(10, seed))
        moments.finish()
    alone = ChannelMoments(SHAPE[0])
    alone.observe(features(10, 2))
    alone.finish()
    assert torch.equal(moments.mean, alone.mean)


def test_projection_is_orthonormal_and_passes_few_channels():
    projection = Projection(20, 6, seed=3)
    basis = projection.basis[:, :, 0, 0]
    torch.testing.assert_close(basis @ basis.T, torch.eye(6), atol=1e-5, rtol=0)
    few = torch.randn(2, 5, 3, 4)
    assert Projection(5, 6)(few) is few


def whitened(residuals: torch.Tensor, prior: float, held: torch.Tensor | None = None) -> PositionWhitening:
    whitening = PositionWhitening(SHAPE[0], SHAPE[1:], prior)
    for batch in residuals.split(8):
        whitening.observe(batch)
    if held is not None:
        whitening.observe_held_out(held)
    whitening.finish()
    return whitening


def by_hand(residuals: np.ndarray, prior: float, gamma: float, picture: np.ndarray) -> np.ndarray:
    """The docstring's formula, position by position, with np.linalg.solve."""
    count, channels = residuals.shape[:2]
    vectors = residuals.transpose(2, 3, 0, 1).reshape(-1, count, channels)
    products = np.einsum("pbc,pbd->pcd", vectors, vectors)
    common = products.mean(0) / count
    common += 1e-3 * np.trace(common) / channels * np.eye(channels)
    scale = np.array([np.trace(np.linalg.solve(common, p)) for p in products]) / (count * channels)
    scale = ((count * scale + 4 * scale.mean()) / (count + 4)) ** gamma
    lengths = []
    for p, r in enumerate(picture.reshape(channels, -1).T):
        covariance = (products[p] + prior * scale[p] * common) / (count + prior)
        lengths.append(np.sqrt(r @ np.linalg.solve(covariance, r) / channels))
    return np.array(lengths).reshape(residuals.shape[2:])


@pytest.mark.parametrize("prior", [1.0, 64.0])
def test_whitening_is_the_mahalanobis_length_with_the_shrunk_covariance(prior):
    residuals, picture = features(40), features(1, seed=9)
    found = whitened(residuals, prior)(picture)[0]
    expected = by_hand(residuals.double().numpy(), prior, 0.0, picture[0].double().numpy())
    np.testing.assert_allclose(found, expected, rtol=5e-3)  # the factors are rounded to half precision


def test_a_position_keeps_its_scale_where_held_out_normals_are_as_small():
    residuals = features(40)
    residuals[..., 0] *= 10
    found = whitened(residuals, 64.0, held=residuals)(residuals[:1])[0]
    expected = by_hand(residuals.double().numpy(), 64.0, 1.0, residuals[0].double().numpy())
    np.testing.assert_allclose(found, expected, rtol=5e-3)


def test_scales_of_positions_are_not_trusted_where_held_out_normals_are_larger():
    residuals = features(40)
    residuals[..., 0] *= 10
    doubted = whitened(residuals, 64.0, held=10 * residuals)(residuals[:1])[0]
    ignored = whitened(residuals, 64.0)(residuals[:1])[0]
    np.testing.assert_allclose(doubted, ignored, rtol=1e-2)


def test_whitening_loads_into_a_fresh_one_and_says_the_same():
    whitening = whitened(features(20), 8.0)
    fresh = PositionWhitening(SHAPE[0], SHAPE[1:], 8.0)
    assert not fresh.fitted
    state = whitening.state_dict()
    assert state["factors"].dtype == torch.float16
    fresh.load_state_dict(state)
    assert torch.equal(fresh(features(3)), whitening(features(3)))


def test_memory_is_the_distance_to_the_nearest_vector():
    data, pictures = features(2), features(3, seed=5)
    memory = PatchMemory(SHAPE[0], size=100)
    memory.observe(data)
    memory.finish()
    bank = data.permute(0, 2, 3, 1).reshape(-1, SHAPE[0])
    vectors = pictures.permute(0, 2, 3, 1).reshape(-1, SHAPE[0])
    brute = torch.cdist(vectors.double(), bank.double()).amin(1) / SHAPE[0] ** 0.5
    torch.testing.assert_close(memory(pictures).flatten().double(), brute, atol=1e-4, rtol=1e-4)
    assert int(memory.count) == len(bank)


def test_memory_samples_evenly_whatever_the_batches():
    """Each of 600 vectors is kept by 1 in 6 of the memories; the first batch is not preferred."""
    data = torch.arange(600.0).view(50, 1, 3, 4)
    kept = np.zeros(600)
    for seed in range(200):
        memory = PatchMemory(1, size=100, seed=seed)
        for batch in data.split(3):
            memory.observe(batch)
        memory.finish()
        kept[memory.bank.flatten().long().numpy()] += 1
    assert kept.sum() == 200 * 100
    assert kept[:300].sum() == pytest.approx(100 * 100, rel=0.05)
    assert kept.max() < 200 / 6 + 6 * np.sqrt(200 / 6 * 5 / 6)


def test_unfilled_rows_of_the_memory_are_never_nearest():
    memory = PatchMemory(SHAPE[0], size=1000)
    memory.observe(features(1) + 100)
    memory.finish()
    assert memory(torch.zeros(1, *SHAPE)).min() > 50
