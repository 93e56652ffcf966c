"""Detectors trained against noise: losses and projection by hand, Perlin noise point by point."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from anomaly_lightning.detectors.base import Spec
from anomaly_lightning.detectors.noise import Noise, drawn, truncated
from anomaly_lightning.detectors.parts.chance import StepChance, normal
from anomaly_lightning.detectors.parts.known import read, rows
from anomaly_lightning.detectors.parts.margins import focal, masked_truncated_l1
from anomaly_lightning.detectors.parts.perlin import perlin, perlin_masks
from anomaly_lightning.errors import UserError

GRID = (4, 6)


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def made(noise, channels=8, **settings):
    torch.manual_seed(0)
    detector = Noise(noise, **{"width": 8, "judge": 4, "positions": 16, **settings})
    detector.build(Spec((channels, *GRID), (32 * GRID[0], 32 * GRID[1])))
    return detector


def truncated_l1(normals, anomalous, margin):
    """SimpleNet's equation 7 of two sets of logits, number by number."""
    return sum(
        torch.stack([torch.clamp(margin + sign * value, min=0) for value in values.flatten()]).mean()
        for sign, values in ((1, normals), (-1, anomalous))
    )


class TestLosses:
    """Each by hand, number by number."""

    def test_masked_truncated_l1_is_that_of_the_chosen_places(self):
        logits, mask = randn(3, 1, *GRID), (randn(3, 1, *GRID, seed=1) > 0).float()
        wanted = truncated_l1(logits[mask == 0], logits[mask == 1], 0.5)
        assert float(masked_truncated_l1(logits, mask, 0.5)) == pytest.approx(float(wanted), rel=1e-6)
        nothing = masked_truncated_l1(logits, torch.zeros_like(mask), 0.5)
        assert float(nothing) == pytest.approx(np.maximum(0.5 + logits.numpy(), 0).mean(), rel=1e-6)

    def test_focal(self):
        logits, labels = [-2.0, 0.3, 1.5, -0.1], [0.0, 1.0, 0.0, 1.0]
        wanted = 0.0
        for logit, label in zip(logits, labels, strict=True):
            anomalous = 1 / (1 + math.exp(-logit))
            right = anomalous if label else 1 - anomalous
            wanted += (1 - right) ** 4 * -math.log(right) / 4
        assert float(focal(torch.tensor(logits), torch.tensor(labels), 4.0)) == pytest.approx(wanted, rel=1e-5)

    def test_gaussian_is_truncated_l1_of_drawn_features_and_the_same_with_noise(self):
        detector, batch = made("gaussian").eval(), randn(2, 8, *GRID)
        generator = seeded()  # that of evaluation, seed 0
        features = detector.adaptor(drawn(batch, torch.ones(2, 1, *GRID), 16, generator))
        noisy = features + 0.25 * normal(features.shape, generator)
        wanted = truncated_l1(detector.pointwise(features), detector.pointwise(noisy), 0.5)
        torch.testing.assert_close(detector.losses(rows(batch), "all")["total"], wanted)

    def test_perlin_sees_every_image_twice_and_its_loss_has_two_parts(self):
        detector, batch = made("perlin").eval(), randn(4, 8, *GRID)
        generator = seeded()
        masks = perlin_masks(8, GRID, 0.2, generator)
        features = detector.adaptor(torch.cat((batch, batch)))
        features = features + 0.25 * masks * normal(features.shape, generator)
        logits = detector.pointwise(features)
        labels = (masks.sum((1, 2, 3)) > 0).float()
        assert 0 < labels.sum() < 8
        maps = truncated_l1(logits[masks == 0], logits[masks == 1], 0.5) + focal(logits, masks, 4.0)
        images = focal(detector.whole(features, logits), labels, 4.0)
        found = detector.losses(rows(batch), "all")
        torch.testing.assert_close(found["maps"], maps)
        torch.testing.assert_close(found["images"], images)
        torch.testing.assert_close(found["total"], maps + images)


class TestKnownDefects:
    """Rows of real defects beside those of normals."""

    masks = torch.zeros(2, 32 * GRID[0], 32 * GRID[1], dtype=torch.bool)
    masks[0, :64, :32] = True  # two positions of the first image

    def batch(self, features, known=(True, True)):
        return torch.cat((rows(features[:2], self.masks, torch.tensor(known)), rows(features[2:])))

    def test_what_is_read_is_what_was_told(self):
        features = randn(4, 8, *GRID)
        seen = read(self.batch(features, (True, False)))
        assert torch.equal(seen.inputs, features)
        assert seen.located.tolist() == [True, False, True, True]
        assert seen.defective.nonzero().tolist() == [[0, 0, 0, 0], [0, 0, 1, 0]]

    def test_gaussian_takes_defective_positions_for_anomalous_and_the_others_for_normal(self):
        detector, features = made("gaussian").eval(), randn(4, 8, *GRID)
        defective, generator = torch.zeros(4, 1, *GRID), seeded()
        defective[0, 0, :2, 0] = 1
        real = drawn(features, defective, 16, generator)
        kept = {tuple(vector) for vector in features[0, :, :2, 0].T.tolist()}
        assert {tuple(vector) for vector in real.flatten(1).tolist()} == kept
        normals = detector.adaptor(drawn(features, 1 - defective, 16, generator))
        noisy = normals + 0.25 * normal(normals.shape, generator)
        told, real = detector.pointwise(normals), detector.pointwise(detector.adaptor(real))
        wanted = (truncated_l1(told, detector.pointwise(noisy), 0.5) + truncated_l1(told, real, 0.5)) / 2
        torch.testing.assert_close(detector.losses(self.batch(features), "all")["total"], wanted)

    def test_perlin_puts_no_noise_on_a_defect_and_calls_it_anomalous(self):
        detector, features = made("perlin", std=100.0).eval(), randn(2, 8, *GRID)
        seen = {}
        detector.pointwise.register_forward_pre_hook(lambda _module, given: seen.update(noisy=given[0]))
        everywhere = torch.ones(2, 32 * GRID[0], 32 * GRID[1], dtype=torch.bool)
        found = detector.losses(rows(features, everywhere), "all")
        torch.testing.assert_close(seen["noisy"], detector.adaptor(features).repeat(2, 1, 1, 1))
        logits = detector.pointwise(seen["noisy"])
        wanted = masked_truncated_l1(logits, torch.ones_like(logits), 0.5) + focal(logits, torch.ones_like(logits), 4.0)
        torch.testing.assert_close(found["maps"], wanted)

    @pytest.mark.parametrize("noise", ["gaussian", "ascent", "perlin"])
    def test_a_defect_that_nobody_located_weighs_a_fifth_by_its_highest_position(self, noise):
        detector, features = made(noise).eval(), randn(4, 8, *GRID)
        told = detector.losses(self.batch(features, (True, False)), "all")["total"]
        located = detector.losses(self.batch(features)[[0, 2, 3]], "all")["total"]
        adapted = detector.adaptor(features[1:2])
        logits = detector.pointwise(adapted)
        vague = torch.nn.functional.softplus(-logits.max())
        if noise == "perlin":
            vague = vague + focal(detector.whole(adapted, logits), torch.ones(1), 4.0)
        torch.testing.assert_close(told, 0.75 * located + 0.25 * 0.2 * vague)

    @pytest.mark.parametrize("noise", ["gaussian", "ascent"])
    def test_a_batch_without_a_normal_position_has_a_finite_loss(self, noise):
        detector, everywhere = made(noise), torch.ones(2, 8, 12, dtype=torch.bool)
        assert torch.isfinite(detector.losses(rows(randn(2, 8, *GRID), everywhere), "all")["total"])


class TestAscent:
    """On a linear discriminator the gradient is known."""

    def linear(self, **settings):
        detector = made("ascent", std=0.5, **settings)
        detector.pointwise = nn.Conv2d(8, 1, 1)
        weight = detector.pointwise.weight.detach().flatten()
        return detector, weight / weight.norm()

    @pytest.mark.parametrize("climbs", [0, 1, 4])
    def test_moves_by_equal_steps_to_where_noise_looks_normal(self, climbs):
        detector, direction = self.linear(stride=0.3)
        features, offsets = randn(5, 8, 1, 1), randn(5, 8, 1, 1, seed=1)
        found = detector._climbed(features, offsets, climbs)
        wanted = offsets - climbs * 0.3 * 0.5 * math.sqrt(8) * direction[:, None, None]
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)

    def test_every_fifth_step_is_followed_by_the_projection(self):
        detector, _ = self.linear(stride=1e-6, reach=(2.0, 3.0))
        low, high = (bound * 0.5 * math.sqrt(8) for bound in (2.0, 3.0))
        short, long = 0.1 * randn(5, 8, 1, 1), 10 * randn(5, 8, 1, 1, seed=1)
        for climbs, wanted in ((4, None), (5, (low, high)), (9, (low, high))):
            for offsets, bound in ((short, 0), (long, 1)):
                lengths = detector._climbed(torch.zeros(5, 8, 1, 1), offsets, climbs).norm(dim=1).flatten()
                before = offsets.norm(dim=1).flatten()
                expected = before if wanted is None else torch.full((5,), wanted[bound])
                torch.testing.assert_close(lengths, expected, rtol=1e-3, atol=1e-4)

    def test_projection_keeps_directions_and_what_lies_between_the_bounds(self):
        offsets = torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.6, 0.8], [0.0, 0.0]])[:, :, None]
        wanted = torch.tensor([[1.2, 1.6], [0.54, 0.72], [0.6, 0.8], [0.0, 0.0]])[:, :, None]
        torch.testing.assert_close(truncated(offsets, 0.9, 2.0), wanted)

    def test_validation_needs_no_gradient(self):
        detector, batch = made("ascent").eval(), randn(2, 8, *GRID)
        with torch.inference_mode():
            assert torch.isfinite(detector.losses(rows(batch), "all")["total"])

    def test_training_moves_no_weight_by_climbing_alone(self):
        detector = made("ascent").train()
        detector.losses(rows(randn(2, 8, *GRID)), "all")
        assert all(parameter.grad is None for parameter in detector.parameters())


class TestPerlin:
    """Against gradient noise computed point by point, and its corners."""

    @pytest.mark.parametrize("cells", [(1, 1), (2, 3), (5, 4)])
    def test_every_point(self, cells):
        grid = (6, 9)
        angles = torch.rand(2, cells[0] + 1, cells[1] + 1, generator=seeded(3)).double().numpy() * 2 * np.pi
        found = perlin(2, grid, cells, seeded(3))
        assert found.shape == (2, *grid)
        for row in range(grid[0]):
            for column in range(grid[1]):
                y, x = row * cells[0] / grid[0], column * cells[1] / grid[1]
                top, left, value = math.floor(y), math.floor(x), 0.0
                for i in (top, top + 1):
                    for j in (left, left + 1):
                        share = 1.0
                        for t in (abs(y - i), abs(x - j)):
                            share *= 1 - (6 * t**5 - 15 * t**4 + 10 * t**3)
                        angle = angles[1, i, j]
                        value += share * (math.sin(angle) * (y - i) + math.cos(angle) * (x - j))
                assert float(found[1, row, column]) == pytest.approx(math.sqrt(2) * value, abs=1e-5)

    def test_half_of_the_masks_are_empty_and_none_is_grey(self):
        masks = torch.cat([perlin_masks(20, GRID, 0.0, seeded(seed)) for seed in range(20)])
        assert masks.unique().tolist() == [0.0, 1.0]
        empty = float((masks.flatten(1).sum(1) == 0).float().mean())
        assert 0.4 < empty < 0.75  # a field of one cell may lie below the limit as a whole
        assert torch.equal(perlin_masks(3, GRID, 0.0, seeded(7)), perlin_masks(3, GRID, 0.0, seeded(7)))


@pytest.mark.parametrize("noise", ["gaussian", "ascent", "perlin"])
def test_a_resumed_step_is_the_step_that_would_have_followed(noise):
    detector, batch = made(noise, seed=3).train(), randn(4, 8, *GRID)
    first, _ = detector.losses(rows(batch), "all")["total"], detector.losses(rows(batch), "all")
    resumed = made(noise, seed=3).train()
    resumed.load_state_dict(detector.state_dict())
    torch.manual_seed(99)  # nothing may hang on it
    assert torch.equal(resumed.losses(rows(batch), "all")["total"], detector.losses(rows(batch), "all")["total"])
    assert int(resumed.chance.steps) == 3
    assert not torch.equal(first, detector.losses(rows(batch), "all")["total"])
    other = made(noise, seed=4).train()
    assert not torch.equal(other.losses(rows(batch), "all")["total"], first)


def test_evaluation_has_the_same_chance_each_time_and_counts_nothing():
    chance = StepChance(5).eval()
    draws = [torch.rand(3, generator=chance(torch.device("cpu"))) for _ in range(2)]
    assert torch.equal(*draws)
    assert int(chance.steps) == 0


@torch.no_grad()
def test_the_error_is_the_negative_log_of_the_probability_of_normal():
    detector, features = made("perlin", trust=2.0), randn(3, 8, *GRID)
    adapted = detector.adaptor(detector.condense(features)[:, :8])
    logits = detector.pointwise(adapted)
    places = -np.log(1 - 1 / (1 + np.exp(-logits.numpy()[:, 0])))
    images = -np.log(1 - 1 / (1 + np.exp(-detector.whole(adapted, logits).numpy())))
    wanted = places * (1 + 2 * images[:, None, None])
    np.testing.assert_allclose(detector.error_map(features).numpy(), wanted, rtol=1e-4, atol=1e-5)
    detector.trust = 0.0
    np.testing.assert_allclose(detector.error_map(features).numpy(), places, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"noise": "white"}, r"model\.noise=white: expected one of gaussian, ascent, perlin"),
        ({"std": 0.0}, r"model\.std must be above 0"),
        ({"judge": 0}, "judge 1 or more"),
        ({"reach": (2.0, 1.0)}, r"model\.reach two lengths above 0 in order"),
        ({"reach": (1.0,)}, r"model\.reach two lengths above 0 in order"),
        ({"limit": 1.0}, r"model\.limit between -1 and 1"),
        ({"trust": -1.0}, "trust must be 0 or more"),
    ],
    ids=str,
)
def test_values_without_a_meaning_are_refused(settings, words):
    with pytest.raises(UserError, match=words):
        Noise(**settings)
