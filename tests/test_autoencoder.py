"""The autoencoder's error against what its docstring says, step by step."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from anomaly_lightning.detectors import autoencoder
from anomaly_lightning.detectors.autoencoder import Autoencoder
from anomaly_lightning.errors import UserError

SHAPE = (10, 8, 16)  # C, h, w
SMALL = {"width": 6, "latent": 4, "components": 5, "directions": 7, "rank": 3, "memory": 20, "memory_components": 4}


def features(count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(SHAPE[0], SHAPE[0], generator=generator)
    return torch.einsum("cd,bdhw->bchw", mixing, torch.randn(count, *SHAPE, generator=generator)) + 3.0


def fitted(**changes: object) -> Autoencoder:
    torch.manual_seed(0)
    detector = Autoencoder(**{**SMALL, **changes})
    detector.build(SHAPE)
    for batch in features(12).split(5):
        detector.observe(batch)
    detector.finish()
    for batch in features(12).split(5):
        detector.refine(batch)
    detector.refine_held_out(features(4, seed=1))
    detector.finish_refine()
    return detector.eval()


def test_the_plain_error_is_the_mean_square_of_features_less_their_reconstruction():
    detector = fitted(whiten=False, memory=0, rim=False, components=None)
    data = features(3, seed=2)
    standardised = (data - detector.moments.mean) / detector.moments.std
    with torch.no_grad():
        rebuilt = F.interpolate(detector.network(F.avg_pool2d(standardised, 2)), scale_factor=2, mode="bilinear")
    torch.testing.assert_close(detector.error_map(data), (standardised - rebuilt).square().mean(1))


def test_what_lies_beside_the_axes_counts_as_not_rebuilt():
    detector = fitted(whiten=False, memory=0, rim=False)
    data = features(3, seed=2)
    standardised = (data - detector.moments.mean) / detector.moments.std
    axes = detector.axes.axes[:5]  # (5, C)
    with torch.no_grad():
        seen = torch.einsum("kc,bchw->bkhw", axes, F.avg_pool2d(standardised, 2))
        rebuilt = torch.einsum("kc,bkhw->bchw", axes, detector.network(seen))
    residual = standardised - F.interpolate(rebuilt, scale_factor=2, mode="bilinear")
    torch.testing.assert_close(detector.error_map(data), residual.square().mean(1))


def test_as_many_axes_as_channels_are_the_channels_themselves():
    states = [fitted(components=count).error_map(features(2, seed=2)) for count in (None, SHAPE[0], 99)]
    assert torch.equal(states[0], states[1])
    assert torch.equal(states[0], states[2])


def test_axes_that_nothing_looks_along_are_not_computed():
    assert not fitted(components=None, memory=0).axes.axes.any()
    assert fitted(components=None).axes.axes.any()


def test_the_error_is_length_times_distance_to_the_power_times_the_rim():
    detector, data = fitted(memory_sparse=False), features(3, seed=2)
    assert float(detector.power) > 0
    standardised = detector.moments(data)
    residual = detector.projection(detector._residual(data))  # whole first, then projected: the long way round
    patches = F.avg_pool2d(torch.einsum("kc,bchw->bkhw", detector.axes.axes[:4], standardised), 3, 1, 1)
    error = detector.whitening(residual) * detector.memory(patches) ** float(detector.power)
    error[:, [0, -1], :] *= 2 / 3
    error[:, :, [0, -1]] *= 2 / 3
    torch.testing.assert_close(detector.error_map(data)[:, 1:-1, 1:-1], error[:, 1:-1, 1:-1], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(detector.error_map(data)[:, 0, 3], error[:, 0, 3], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(detector.error_map(data)[:, 0, 0], error[:, 0, 0], rtol=1e-4, atol=1e-5)


def test_the_memory_is_asked_at_white_squares_and_averaged_between():
    everywhere, some, data = fitted(memory_sparse=False), fitted(), features(3, seed=2)
    silent = fitted(memory_sparse=False)
    silent.power.zero_()
    length = silent.error_map(data)
    distance, found = ((d.error_map(data) / length) ** (1 / float(d.power)) for d in (everywhere, some))
    white = (torch.arange(SHAPE[1])[:, None] + torch.arange(SHAPE[2])) % 2 == 0
    torch.testing.assert_close(found[:, white], distance[:, white], rtol=1e-3, atol=1e-4)
    beside = (distance[:, 2, 4] + distance[:, 4, 4] + distance[:, 3, 3] + distance[:, 3, 5]) / 4
    torch.testing.assert_close(found[:, 3, 4], beside, rtol=1e-3, atol=1e-4)
    corner = (distance[:, 6, 0] + distance[:, 7, 1]) / 2
    torch.testing.assert_close(found[:, 7, 0], corner, rtol=1e-3, atol=1e-4)


def test_the_power_is_what_the_memory_explains_of_held_out_normals():
    detector, held = fitted(whiten=False), features(4, seed=1)
    distances = detector.memory(detector._patches(held))
    assert float(detector.power) == pytest.approx(1 - float(distances.square().mean()), abs=1e-5)
    strange = fitted()
    strange.refine(features(2))
    strange.refine_held_out(100 * features(2, seed=3))
    strange.finish_refine()
    assert float(strange.power) == 0
    silent = strange.whitening(strange.projection(strange._residual(held)))
    torch.testing.assert_close(strange.error_map(held)[:, 2:-2, 2:-2], silent[:, 2:-2, 2:-2])


def test_a_state_that_is_loaded_replaces_what_follows_from_the_one_before():
    one, other, data = fitted(), fitted(), features(2, seed=2)
    with torch.no_grad():
        for parameter in other.network.parameters():
            parameter.mul_(1.1)
    other.moments.std.mul_(2)
    before = other.error_map(data)
    other.load_state_dict(one.state_dict())
    assert torch.equal(other.error_map(data), one.error_map(data))
    assert not torch.equal(other.error_map(data), before)


def test_a_new_fit_measures_plainly_until_it_is_refined_again():
    detector, data = fitted(memory=0, rim=False), features(3, seed=2)
    detector.observe(features(12, seed=5))
    detector.finish()
    torch.testing.assert_close(detector.error_map(data), detector._residual(data).square().mean(1))
    assert not detector.whitening.fitted  # a checkpoint of now holds nothing of the fit before


def test_condensed_features_are_averages_on_the_axes_and_all_that_the_loss_looks_at():
    detector, data = fitted(), features(3, seed=2)
    standardised = (F.avg_pool2d(data, 2) - detector.moments.mean) / detector.moments.std
    condensed = detector.condense(data)
    torch.testing.assert_close(condensed, torch.einsum("kc,bchw->bkhw", detector.axes.axes[:5], standardised))
    expected = F.mse_loss(detector.network(condensed), condensed)
    torch.testing.assert_close(detector.loss(condensed), expected)


@pytest.mark.parametrize(("uneven", "least", "most"), [(0.0, 1.0, 1.9), (3.0, 2.0, 2.0)])
def test_the_power_grows_where_the_length_is_the_less_even_of_the_two(monkeypatch, uneven, least, most):
    """numpy, by the docstring; lengths that differ more from place to place take it to its double."""
    detector, held = fitted(), features(4, seed=1)
    length, places = detector.whitening.length, torch.randn(SHAPE[1:], generator=torch.Generator().manual_seed(3))
    monkeypatch.setattr(detector.whitening, "length", lambda whitened: length(whitened) * (uneven * places).exp())
    with torch.no_grad():
        lengths = detector.whitening(detector.projection(detector._residual(held)))
        distances = detector.memory(detector._patches(held))
        detector._held = [(detector.projection(detector._residual(held)), detector._patches(held))]
        detector.finish_refine()
    ratio = np.log(lengths.numpy()).std(ddof=1) / np.log(distances.numpy()).std(ddof=1)
    power = 1 - float(distances.square().mean())
    assert float(detector.power) == pytest.approx(power * np.clip(ratio, 1, 2), rel=1e-4)
    assert least - 1e-4 <= float(detector.power) / power <= most + 1e-4


def test_the_power_is_not_less_where_the_length_is_the_more_even_of_the_two(monkeypatch):
    detector, held = fitted(), features(4, seed=1)
    length = detector.whitening.length
    monkeypatch.setattr(detector.whitening, "length", lambda whitened: length(whitened) ** 0.1)
    detector.refine(features(2))
    detector.refine_held_out(held)
    detector.finish_refine()
    distances = detector.memory(detector._patches(held))
    assert float(detector.power) == pytest.approx(1 - float(distances.square().mean()), rel=1e-4)
    assert 0 < float(detector.power) < 1


def test_what_is_kept_of_held_out_normals_is_bounded_and_given_back(monkeypatch):
    monkeypatch.setattr(autoencoder, "HELD", 3)
    detector = fitted()
    detector.refine(features(3))
    for batch in features(5, seed=1).split(2):
        detector.refine_held_out(batch)
    assert [len(patches) for _, patches in detector._held] == [2, 1]
    assert [len(residual) for residual, _ in detector._held] == [2, 1]
    detector.finish_refine()
    assert detector._held == []


@pytest.mark.parametrize(
    ("changes", "worth"),
    [({}, True), ({"components": None}, True), ({"components": None, "pool": 1}, False), ({"pool": 1}, True)],
)
def test_features_are_condensed_where_that_saves_reading(changes, worth):
    assert fitted(**changes).condenses == worth


def test_noise_depends_on_seed_and_step_alone():
    one, same, other = fitted(), fitted(), fitted(seed=1)
    target = torch.zeros(2, 5, 4, 8)
    first = one._noisy(target)
    assert torch.equal(first, same._noisy(target))
    assert not torch.equal(first, one._noisy(target))
    assert not torch.equal(first, other._noisy(target))
    resumed = fitted()
    resumed.load_state_dict(one.state_dict())
    assert torch.equal(resumed._noisy(target), one._noisy(target))
    assert float(first.std()) == pytest.approx(0.25, rel=0.1)


MEANINGLESS = (
    {"form": "round"},
    {"components": 0},
    {"rank": 0},
    {"memory_components": 0},
    {"prior": 0.0},
    {"noise": -1},
)


@pytest.mark.parametrize("changes", MEANINGLESS)
def test_settings_without_a_meaning_are_refused(changes):
    with pytest.raises(UserError, match="model"):
        Autoencoder(**changes)
