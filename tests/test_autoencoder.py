"""The autoencoder's error against what its docstring says, step by step."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from anomaly_lightning.detectors import autoencoder
from anomaly_lightning.detectors.autoencoder import Autoencoder
from anomaly_lightning.detectors.base import Spec
from anomaly_lightning.detectors.parts import patch_memory
from anomaly_lightning.detectors.parts.fusion import StandardisedSum
from anomaly_lightning.detectors.parts.networks import Pointwise, Spatial
from anomaly_lightning.detectors.parts.patch_memory import PatchMemory
from anomaly_lightning.detectors.parts.whitening import PositionWhitening
from anomaly_lightning.errors import UserError

SHAPE = (10, 8, 16)  # C, h, w
WHITEN, SPARSE = object(), object()  # fresh parts for each detector


def features(count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(SHAPE[0], SHAPE[0], generator=generator)
    return torch.einsum("cd,bdhw->bchw", mixing, torch.randn(count, *SHAPE, generator=generator)) + 3.0


def made(whitening: object = WHITEN, memory: object = SPARSE, **changes: object) -> Autoencoder:
    torch.manual_seed(0)
    parts = {
        "network": Spatial(width=6, latent=4),
        "whitening": PositionWhitening(directions=7, rank=3) if whitening is WHITEN else whitening,
        "memory": PatchMemory(20, 4) if memory is SPARSE else memory,
    }
    return Autoencoder(**{**parts, "components": 5, **changes})


def fitted(**changes: object) -> Autoencoder:
    detector = made(**changes)
    detector.build(Spec(SHAPE, (64, 128)))
    detector.prepare(features(12).split(5))
    detector.conclude(features(12).split(5), [features(4, seed=1)])
    return detector.eval()


def test_the_plain_error_is_the_mean_square_of_features_less_their_reconstruction():
    detector = fitted(whitening=None, memory=None, rim=False, components=None)
    data = features(3, seed=2)
    standardised = (data - detector.moments.mean) / detector.moments.std
    with torch.no_grad():
        rebuilt = F.interpolate(detector.network(F.avg_pool2d(standardised, 2)), scale_factor=2, mode="bilinear")
    torch.testing.assert_close(detector.error_map(data), (standardised - rebuilt).square().mean(1))


def test_what_lies_beside_the_axes_counts_as_not_rebuilt():
    detector = fitted(whitening=None, memory=None, rim=False)
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
    assert not fitted(components=None, memory=None).axes.axes.any()
    assert fitted(components=None).axes.axes.any()


def test_the_error_is_length_times_distance_to_the_power_times_the_rim():
    detector, data = fitted(memory=PatchMemory(20, 4, sparse=False)), features(3, seed=2)
    assert float(detector.power) > 0
    standardised = detector.moments(data)
    residual = detector._residual(data)  # whole: the long way round
    coordinates = torch.einsum("kc,bchw->bkhw", detector.axes.axes[:4], standardised)
    patches = F.avg_pool2d(coordinates, 3, 1, 1).permute(0, 2, 3, 1)
    distance = torch.cdist(patches.flatten(0, 2), detector.memory.bank).amin(1).view(3, 8, 16) / SHAPE[0] ** 0.5
    error = detector.whitening(residual) * distance ** float(detector.power)
    error[:, [0, -1], :] *= 2 / 3
    error[:, :, [0, -1]] *= 2 / 3
    torch.testing.assert_close(detector.error_map(data)[:, 1:-1, 1:-1], error[:, 1:-1, 1:-1], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(detector.error_map(data)[:, 0, 3], error[:, 0, 3], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(detector.error_map(data)[:, 0, 0], error[:, 0, 0], rtol=1e-4, atol=1e-5)


def test_the_memory_is_asked_at_white_squares_and_averaged_between():
    everywhere, some, data = fitted(memory=PatchMemory(20, 4, sparse=False)), fitted(), features(3, seed=2)
    silent = fitted(memory=PatchMemory(20, 4, sparse=False))
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
    detector, held = fitted(whitening=None), features(4, seed=1)
    distances = detector.memory.everywhere(detector._leading(held, 4))
    assert float(detector.power) == pytest.approx(1 - float(distances.square().mean()), abs=1e-5)
    strange = fitted()
    strange.conclude([features(2)], [100 * features(2, seed=3)])
    assert float(strange.power) == 0
    silent = strange.whitening(strange._residual(held))
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


def test_a_new_fit_measures_plainly_until_it_is_concluded():
    detector, data = fitted(memory=None, rim=False), features(3, seed=2)
    detector.prepare([features(12, seed=5)])
    torch.testing.assert_close(detector.error_map(data), detector._residual(data).square().mean(1))
    assert not detector.whitening.fitted  # a checkpoint of now holds nothing of the fit before


def test_condensed_features_are_averages_on_the_axes_and_all_that_the_loss_looks_at():
    detector, data = fitted(), features(3, seed=2)
    standardised = (F.avg_pool2d(data, 2) - detector.moments.mean) / detector.moments.std
    condensed = detector.condense(data)
    torch.testing.assert_close(condensed, torch.einsum("kc,bchw->bkhw", detector.axes.axes[:5], standardised))
    expected = F.mse_loss(detector.network(condensed), condensed)
    torch.testing.assert_close(detector.losses(condensed, "all")["total"], expected)


@pytest.mark.parametrize(("uneven", "least", "most"), [(0.0, 1.0, 1.9), (3.0, 2.0, 2.0)])
def test_the_power_grows_where_the_length_is_the_less_even_of_the_two(monkeypatch, uneven, least, most):
    """numpy, by the docstring; lengths that differ more from place to place take it to its double."""
    detector, held = fitted(), features(4, seed=1)
    length, places = detector.whitening.length, torch.randn(SHAPE[1:], generator=torch.Generator().manual_seed(3))
    monkeypatch.setattr(detector.whitening, "length", lambda whitened: length(whitened) * (uneven * places).exp())
    with torch.no_grad():
        lengths = detector.whitening(detector._residual(held))
        distances = detector.memory.everywhere(detector._leading(held, 4))
        detector.power.copy_(detector._trust([(detector._residual(held), detector._leading(held, 4))]))
    ratio = np.log(lengths.numpy()).std(ddof=1) / np.log(distances.numpy()).std(ddof=1)
    power = 1 - float(distances.square().mean())
    assert float(detector.power) == pytest.approx(power * np.clip(ratio, 1, 2), rel=1e-4)
    assert least - 1e-4 <= float(detector.power) / power <= most + 1e-4


def test_the_power_is_not_less_where_the_length_is_the_more_even_of_the_two(monkeypatch):
    detector, held = fitted(), features(4, seed=1)
    length = detector.whitening.length
    monkeypatch.setattr(detector.whitening, "length", lambda whitened: length(whitened) ** 0.1)
    detector.conclude([features(2)], [held])
    distances = detector.memory.everywhere(detector._leading(held, 4))
    assert float(detector.power) == pytest.approx(1 - float(distances.square().mean()), rel=1e-4)
    assert 0 < float(detector.power) < 1


def test_what_is_kept_of_held_out_normals_is_bounded(monkeypatch):
    monkeypatch.setattr(autoencoder, "HELD", 3)
    detector, seen = fitted(), []
    trust = detector._trust
    monkeypatch.setattr(detector, "_trust", lambda compared: seen.extend(compared) or trust(compared))
    detector.conclude([features(3)], features(5, seed=1).split(2))
    assert [len(coordinates) for _, coordinates in seen] == [2, 1]
    assert [len(residual) for residual, _ in seen] == [2, 1]


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


def test_the_fused_error_is_both_maps_in_units_of_held_out_spread():
    """numpy, by the docstring: error and distance, each over its own spread, less what normals have everywhere."""
    alone, fused, held, data = (
        fitted(),
        fitted(fusion=StandardisedSum(PatchMemory(30, 7), 0.05)),
        features(4, seed=1),
        features(3, seed=2),
    )

    def maps(batch: Tensor) -> tuple[np.ndarray, np.ndarray]:
        distance = fused.fusion.memory(fused._leading(batch, 7)).numpy()
        return alone.error_map(batch).numpy(), distance

    spreads = [np.sort(one.reshape(4, -1))[:, -6:].mean(1).std(ddof=1) for one in maps(held)]  # 5 % of 128 are 6
    seen, usual = (sum(one / spread for one, spread in zip(maps(x), spreads, strict=True)) for x in (data, held))
    expected = np.maximum(seen - usual.mean(), 0)
    assert (np.abs(fused.error_map(data).numpy() - expected) <= 1e-4 * seen).all(), "to rounding of what is taken off"
    assert (expected == 0).any()
    assert (expected > 0).any()


def test_a_memory_of_all_channels_sees_what_a_rotation_leaves_alone():
    whole = fitted(fusion=StandardisedSum(PatchMemory(300, 99)))
    data = features(3, seed=2)
    standardised = (data - whole.moments.mean) / whole.moments.std
    bank, patches = whole.fusion.memory.bank, F.avg_pool2d(standardised, 3, 1, 1).permute(0, 2, 3, 1).flatten(0, 2)
    expected = torch.cdist(patches, bank).amin(1).view(3, 8, 16) / SHAPE[0] ** 0.5
    white = (torch.arange(8)[:, None] + torch.arange(16)) % 2 == 0
    torch.testing.assert_close(whole._maps(data)[1][:, white], expected[:, white], rtol=1e-4, atol=1e-4)
    assert len(whole.axes.axes) == 5, "no axes are kept for it"


def test_a_graph_asks_the_bank_block_by_block(monkeypatch):
    memory, coordinates = fitted(fusion=StandardisedSum(PatchMemory(300, 7))).fusion.memory, torch.randn(2, 7, 8, 16)
    whole = memory(coordinates)
    monkeypatch.setattr(patch_memory, "EXPORTED", 70)
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
    torch.testing.assert_close(memory(coordinates), whole, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("parts", [{}, {"memory": None}, {"memory": None, "whitening": None}])
def test_the_fusion_goes_with_any_error(parts):
    detector = fitted(fusion=StandardisedSum(PatchMemory(30, 7)), **parts)
    error, distance = detector._maps(features(3, seed=2))
    torch.testing.assert_close(error, fitted(**parts).error_map(features(3, seed=2)))
    assert distance.min() > 0
    assert detector.fusion.weights.min() > 0


def test_the_fusion_falls_back_where_held_out_normals_are_few():
    fusion = StandardisedSum(PatchMemory())
    maps = torch.ones(2, 3, 4), 4 * torch.ones(2, 3, 4)
    assert fusion(*maps).unique().tolist() == [1.0], "without held-out normals the first map alone"
    fusion.finish([maps])
    assert fusion.weights.tolist() == [1.0, 0.25], "the mean stands in for the spread of two"
    assert fusion(3 * maps[0], maps[1]).unique().tolist() == [2.0], "what the normals have, 2, is taken off"
    fusion.finish([])
    assert (fusion.weights.tolist(), float(fusion.offset)) == ([1.0, 0.0], 0.0)
    with pytest.raises(UserError, match=r"fusion\.memory"):
        StandardisedSum(None)


MEANINGLESS = (
    lambda: StandardisedSum(PatchMemory(), 0.0),
    lambda: made(components=0),
    lambda: made(noise=-1),
    lambda: made(pool=0),
    lambda: PositionWhitening(rank=0),
    lambda: PositionWhitening(prior=0.0),
    lambda: PatchMemory(components=0),
    lambda: Spatial(stages=0),
    lambda: Pointwise(width=0),
)


@pytest.mark.parametrize("make", MEANINGLESS)
def test_settings_without_a_meaning_are_refused(make):
    with pytest.raises(UserError, match=r"model\."):
        make()


def test_a_pointwise_network_sees_each_position_alone():
    detector, data = (
        fitted(network=Pointwise(6, 4), pool=1, whitening=None, memory=None, rim=False),
        features(2, seed=2),
    )
    changed = data.clone()
    changed[:, :, 3, 5] += 1
    differs = (detector.error_map(changed) != detector.error_map(data)).nonzero().tolist()
    assert differs == [[0, 3, 5], [1, 3, 5]]
