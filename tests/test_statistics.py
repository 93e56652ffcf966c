"""The streaming statistics against plain numpy on all data at once."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from sklearn.decomposition import PCA

from anomaly_lightning.detectors.parts.coreset import PatchSample, greedy_k_center
from anomaly_lightning.detectors.parts.grid import surroundings
from anomaly_lightning.detectors.parts.moments import ChannelMoments
from anomaly_lightning.detectors.parts.patch_memory import PatchMemory
from anomaly_lightning.detectors.parts.principal import PrincipalAxes
from anomaly_lightning.detectors.parts.projection import Projection
from anomaly_lightning.detectors.parts.whitening import PositionWhitening

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


def test_a_channel_that_hardly_varies_is_divided_by_a_twentieth_of_the_mean_deviation():
    """Columns of +s and -s around 3 have the standard deviation s."""
    deviations = torch.tensor([2.0, 1.0, 0.8, 0.2, 0.001, 0.0])  # a twentieth of their mean: 0.0333...
    signs = torch.tensor([1.0, -1.0]).expand(4, 6, 3, 2)
    data = 3 + deviations[:, None, None] * signs
    moments = ChannelMoments(6)
    moments.observe(data)
    moments.finish()
    divisors = [2.0, 1.0, 0.8, 0.2, 4.001 / 6 / 20, 4.001 / 6 / 20]
    np.testing.assert_allclose(moments.std.flatten(), divisors, rtol=1e-4)
    expected = (deviations / torch.tensor(divisors))[:, None, None] * signs
    np.testing.assert_allclose(moments(data), expected, rtol=1e-3, atol=1e-4)


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


@pytest.mark.parametrize("level", [0.0, 0.1, 3.7, -3e4])
def test_features_that_do_not_vary_are_centred_and_nothing_more(level):
    moments = ChannelMoments(4)
    moments.observe(torch.full((5, 4, 3, 3), level))
    moments.finish()
    seen = torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(0)) + level
    assert torch.allclose(moments(seen), seen - level, atol=1e-2 if abs(level) > 1e3 else 1e-5)


def axes_of(data: torch.Tensor, count: int) -> tuple[PrincipalAxes, ChannelMoments]:
    axes, moments = PrincipalAxes(SHAPE[0], count), ChannelMoments(SHAPE[0])
    for batch in data.split(7):
        axes.observe(batch)
        moments.observe(batch)
    moments.finish()
    axes.finish(moments.std.flatten())
    return axes, moments


def test_principal_axes_are_those_of_sklearn():
    axes, moments = axes_of(features(30) + 100, 3)  # far from zero, where a single pass could cancel
    vectors = moments(features(30) + 100).permute(0, 2, 3, 1).reshape(-1, SHAPE[0]).double().numpy()
    expected = PCA(3).fit(vectors).components_
    np.testing.assert_allclose(np.abs((axes.axes.double().numpy() * expected).sum(1)), 1, atol=1e-4)


def test_coordinates_and_back_are_the_projection_on_the_axes():
    axes, moments = axes_of(features(30), 4)
    image = moments(features(2, seed=3))
    projector = axes.axes[:2].T @ axes.axes[:2]
    expected = torch.einsum("cd,bdhw->bchw", projector, image)
    torch.testing.assert_close(axes.back(axes(image, 2)), expected, atol=1e-5, rtol=1e-5)
    whole, _ = axes_of(features(30), 99)
    torch.testing.assert_close(whole.back(whole(image, 99)), image, atol=1e-5, rtol=1e-5)


def test_principal_axes_start_anew_after_finish():
    axes, moments = axes_of(features(30), 3)
    axes.observe(features(10, seed=2))
    axes.finish(moments.std.flatten())
    alone = PrincipalAxes(SHAPE[0], 3)
    alone.observe(features(10, seed=2))
    alone.finish(moments.std.flatten())
    assert torch.equal(axes.axes, alone.axes)


def whitened(
    residuals: torch.Tensor, prior: float, held: torch.Tensor | None = None, rank: int = SHAPE[0]
) -> PositionWhitening:
    whitening = PositionWhitening(prior, 99, rank)
    whitening.build(SHAPE[0], SHAPE[1:], 0)
    for batch in residuals.split(8):
        whitening.observe(batch)
    if held is not None:
        whitening.observe_held_out(held)
    whitening.finish()
    return whitening


def by_hand(residuals: np.ndarray, prior: float, gamma: float, image: np.ndarray, rank: int = SHAPE[0]) -> np.ndarray:
    """The docstring's formula, position by position, by eigenvectors and np.linalg.solve of whole covariances."""
    count, channels = residuals.shape[:2]
    vectors = residuals.transpose(2, 3, 0, 1).reshape(-1, count, channels)
    products = np.einsum("pbc,pbd->pcd", vectors, vectors)
    common = products.mean(0) / count
    common += 1e-3 * np.trace(common) / channels * np.eye(channels)
    scale = np.array([np.trace(np.linalg.solve(common, p)) for p in products]) / (count * channels)
    scale = ((count * scale + 4 * scale.mean()) / (count + 4)) ** gamma
    root = np.linalg.cholesky(common)
    inverse = np.linalg.inv(root)
    lengths = []
    for p, r in enumerate(image.reshape(channels, -1).T):
        values, axes = np.linalg.eigh(inverse @ products[p] @ inverse.T)
        values[: channels - rank] = values[: channels - rank].mean() if rank < channels else 0
        own = root @ (axes * values) @ axes.T @ root.T
        covariance = (own + prior * scale[p] * common) / (count + prior)
        lengths.append(np.sqrt(r @ np.linalg.solve(covariance, r) / channels))
    return np.array(lengths).reshape(residuals.shape[2:])


@pytest.mark.parametrize("rank", [1, 3, SHAPE[0]])
@pytest.mark.parametrize("prior", [1.0, 64.0])
def test_whitening_is_the_mahalanobis_length_with_the_shrunk_covariance(prior, rank):
    residuals, images = features(40), features(2, seed=9)
    found = whitened(residuals, prior, rank=rank)(images)
    for one, image in zip(found, images, strict=True):
        expected = by_hand(residuals.double().numpy(), prior, 0.0, image.double().numpy(), rank)
        np.testing.assert_allclose(one, expected, rtol=1e-3)


def test_with_all_directions_the_covariance_of_a_position_is_whole():
    """At full rank the formula is (S_p + prior * G) / (n + prior), with no eigenvector in it."""
    residuals, image = features(40).double().numpy(), features(1, seed=9)[0].double().numpy()
    vectors = residuals.transpose(2, 3, 0, 1).reshape(-1, 40, SHAPE[0])
    products = np.einsum("pbc,pbd->pcd", vectors, vectors)
    common = products.mean(0) / 40
    common += 1e-3 * np.trace(common) / SHAPE[0] * np.eye(SHAPE[0])
    rows = image.reshape(SHAPE[0], -1).T
    squares = [r @ np.linalg.solve((p + 8 * common) / 48, r) for r, p in zip(rows, products, strict=True)]
    found = whitened(features(40), 8.0)(features(1, seed=9)).flatten()
    np.testing.assert_allclose(found, np.sqrt(np.array(squares) / SHAPE[0]), rtol=1e-3)


def test_a_position_keeps_its_scale_where_held_out_normals_are_as_small():
    residuals = features(40)
    residuals[..., 0] *= 10
    found = whitened(residuals, 64.0, held=residuals)(residuals[:1])[0]
    expected = by_hand(residuals.double().numpy(), 64.0, 1.0, residuals[0].double().numpy())
    np.testing.assert_allclose(found, expected, rtol=1e-3)


def test_scales_of_positions_are_not_trusted_where_held_out_normals_are_larger():
    residuals = features(40)
    residuals[..., 0] *= 10
    doubted = whitened(residuals, 64.0, held=10 * residuals)(residuals[:1])[0]
    ignored = whitened(residuals, 64.0)(residuals[:1])[0]
    np.testing.assert_allclose(doubted, ignored, rtol=1e-2)


def test_whitening_loads_into_a_fresh_one_and_says_the_same():
    whitening = whitened(features(20), 8.0, rank=2)
    fresh = PositionWhitening(8.0, 99, 2)
    fresh.build(SHAPE[0], SHAPE[1:], 0)
    assert not fresh.fitted
    fresh.load_state_dict(whitening.state_dict())
    assert fresh.fitted
    assert torch.equal(fresh(features(3)), whitening(features(3)))


def memory_of(data: torch.Tensor, size: int, seed: int = 0) -> PatchMemory:
    memory = PatchMemory(size, data.shape[1], sparse=False)
    memory.build(data.shape[1], data.shape[2:], seed)
    for batch in data.split(3):
        memory.observe(batch)
    memory.finish()
    return memory


def vectors_of(data: torch.Tensor) -> np.ndarray:
    """Patches, averages over 3 x 3 positions, (N h w, C)."""
    return surroundings(data).permute(0, 2, 3, 1).reshape(-1, data.shape[1]).double().numpy()


def test_memory_is_the_distance_to_the_nearest_vector():
    data, images = features(2), features(3, seed=5)
    memory = memory_of(data, 100)
    brute = cdist(vectors_of(images), vectors_of(data)).min(1) / SHAPE[0] ** 0.5
    np.testing.assert_allclose(memory(images).flatten(), brute, atol=1e-4, rtol=1e-4)
    assert int(memory.count) == 24


def test_memory_keeps_the_vectors_that_cover_the_others():
    data = features(30)
    bank = memory_of(data, 36).bank.double().numpy()  # of 360: all of them are in the sample
    assert set(map(tuple, bank)) <= set(map(tuple, vectors_of(data)))
    random = vectors_of(data)[np.random.default_rng(0).permutation(360)[:36]]
    assert cdist(vectors_of(data), bank).min(1).max() < 0.8 * cdist(vectors_of(data), random).min(1).max()


def test_greedy_k_center_by_brute_force():
    points = torch.randn(60, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    distances, chosen = cdist(points, points), [0]
    while len(chosen) < 15:
        chosen.append(int(distances[:, chosen].min(1).argmax()))
    assert greedy_k_center(points, 15).tolist() == chosen


def test_a_sample_is_even_and_bounded_and_does_not_depend_on_the_batches():
    """Each of 600 vectors is kept by 1 in 6 of the samples; the first batch is not preferred."""
    data = torch.arange(600.0).view(50, 1, 3, 4)
    kept = np.zeros(600)
    for seed in range(200):
        samples = PatchSample(100, seed), PatchSample(100, seed)
        for sample, size in zip(samples, (3, 50), strict=True):
            for batch in data.split(size):
                sample.observe(batch)
                assert len(sample.vectors) <= 100
        assert torch.equal(samples[0].vectors.sort(0).values, samples[1].vectors.sort(0).values)
        kept[samples[0].vectors.flatten().long().numpy()] += 1
    assert kept.sum() == 200 * 100
    assert kept[:300].sum() == pytest.approx(100 * 100, rel=0.05)
    assert kept.max() < 200 / 6 + 6 * np.sqrt(200 / 6 * 5 / 6)


def test_unfilled_rows_of_the_memory_are_never_nearest():
    assert memory_of(features(1) + 100, 1000)(torch.zeros(1, *SHAPE)).min() > 40
