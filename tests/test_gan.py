"""The GAN: losses by hand, whose gradient goes where, lengths on training normals, collapse and divergence told."""

import json
import logging

import numpy as np
import pytest
import torch
from toy import BARE, command

from anomaly_lightning.detectors.base import Spec
from anomaly_lightning.detectors.gan import GAN, PixelGAN
from anomaly_lightning.detectors.parts.adversarial import (
    GridNetworks,
    PixelNetworks,
    Variation,
    critic_losses,
    generator_losses,
)
from anomaly_lightning.detectors.parts.whitening import PositionWhitening
from anomaly_lightning.errors import TrainingError, UserError

GRID = (4, 6)


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def made(**settings):
    torch.manual_seed(0)
    detector = GAN(GridNetworks(6, 5, 1), **{"pool": 1, **settings})
    detector.build(Spec((8, *GRID), (32 * GRID[0], 32 * GRID[1])))
    return detector


class TestLosses:
    """The paper's three, and the critic's cross entropy."""

    def test_generator(self):
        pairs = tuple((randn(2, 3, 4, seed=i), randn(2, 3, 4, seed=i + 3)) for i in range(3))
        found = generator_losses(pairs, (1.0, 50.0, 2.0))
        (real, fake), (image, rebuilt), (latent, again) = (tuple(x.numpy() for x in pair) for pair in pairs)
        adversarial, contextual = ((real - fake) ** 2).mean(), abs(image - rebuilt).mean()
        second = ((latent - again) ** 2).mean()
        assert float(found["total"]) == pytest.approx(adversarial + 50 * contextual + 2 * second, rel=1e-5)
        assert float(found["contextual"]) == pytest.approx(contextual, rel=1e-5)

    def test_critic(self):
        real, rebuilt = np.array([2.0, -1.0]), np.array([0.5, -3.0])
        one, other = (1 / (1 + np.exp(-x)) for x in (real, rebuilt))
        found = critic_losses(torch.tensor(real), torch.tensor(rebuilt))
        wanted = (-np.log(one).mean() - np.log(1 - other).mean()) / 2
        assert float(found["total"]) == pytest.approx(wanted, rel=1e-6)
        assert (float(found["real"]), float(found["rebuilt"])) == pytest.approx((one.mean(), other.mean()))

    def test_of_the_detector_are_those_of_its_networks(self):
        detector, batch = made().eval(), randn(3, 8, *GRID)
        encoder, decoder, second = (getattr(detector.generator, name) for name in ("encoder", "decoder", "second"))
        latent = encoder(batch)
        rebuilt = decoder(latent)
        features = detector.critic.features
        pairs = ((features(batch), features(rebuilt)), (batch, rebuilt), (latent, second(rebuilt)))
        wanted = generator_losses(pairs, (1.0, 50.0, 1.0))["total"]
        torch.testing.assert_close(detector.losses(batch, "generator")["total"], wanted)
        head = detector.critic.head
        wanted = critic_losses(head(features(batch)), head(features(rebuilt)))["total"]
        torch.testing.assert_close(detector.losses(batch, "critic")["total"], wanted)


def test_the_critics_loss_moves_the_critic_alone_and_the_generators_all_three_networks():
    detector, batch = made().train(), randn(3, 8, *GRID)
    detector.losses(batch, "critic")["total"].backward()
    assert all(parameter.grad is None for parameter in detector.generator.parameters())
    assert all(parameter.grad is not None for parameter in detector.critic.parameters())
    detector.zero_grad()
    detector.losses(batch, "generator")["total"].backward()
    for name in ("encoder", "decoder", "second"):
        gradients = [parameter.grad for parameter in getattr(detector.generator, name).parameters()]
        assert max(float(gradient.abs().max()) for gradient in gradients) > 0, name


@torch.no_grad()
@pytest.mark.parametrize("part", range(3))
def test_each_length_is_one_on_training_normals_in_the_mean_square(part):
    errors = [0.0, 0.0, 0.0]
    errors[part] = 1.0
    detector, features = made(errors=tuple(errors)).eval(), 3 + 2 * randn(40, 8, *GRID)
    detector.prepare(features.split(7))
    detector.conclude(features.split(7), [])
    differences, *_ = detector._differences(features)
    scale = detector._scales[part]
    length = scale(differences[part]).square().mean(1)
    assert float(length.mean()) == pytest.approx(1.0, abs=0.02)
    if part == 0:  # on the grid of the features, where nothing is enlarged
        torch.testing.assert_close(detector.error_map(features), length.sqrt())


@torch.no_grad()
def test_the_error_is_the_weighted_sum_of_the_three():
    features, maps = randn(10, 8, *GRID), []
    for errors in ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (0.5, 2.0, 3.0)):
        detector = made(errors=errors, whitening=PositionWhitening(8.0, 128, 4)).eval()
        detector.prepare(features.split(4))
        detector.conclude(features.split(4), [features[:2]])
        maps.append(detector.error_map(features))
    torch.testing.assert_close(maps[3], 0.5 * maps[0] + 2 * maps[1] + 3 * maps[2], rtol=1e-4, atol=1e-5)
    differences, *_ = detector._differences(features)
    torch.testing.assert_close(maps[0], detector.whitening(differences[0]))


class TestFailures:
    """What GANs are known for is told."""

    @torch.no_grad()
    def concluded(self, spoil):
        detector, features = made().eval(), randn(9, 8, *GRID)
        detector.prepare(features.split(4))
        spoil(detector.generator.decoder[-1])
        detector.conclude(features.split(4), [])

    def test_a_collapsed_generator(self, caplog):
        with caplog.at_level(logging.WARNING):
            self.concluded(lambda layer: layer.weight.mul_(1e-3))
        assert "The generator collapsed: between images what it rebuilds varies by" in caplog.text

    def test_a_sound_one_is_not_warned_of(self, caplog):
        with caplog.at_level(logging.WARNING):
            self.concluded(lambda layer: layer.weight.mul_(3))
        assert not caplog.text

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_a_diverged_training(self, value):
        with pytest.raises(TrainingError, match=r"diverged: what it rebuilds is not finite.*smaller optimizer\.lr"):
            self.concluded(lambda layer: layer.bias.fill_(value))

    def test_variation_is_the_variance_between_images(self):
        values, variation = 5 + randn(12, 3, 4), Variation()
        for part in values.split(5):
            variation.observe(part)
        assert variation.mean() == pytest.approx(values.double().numpy().var(0).mean(), rel=1e-6)


def test_a_resumed_step_is_the_step_that_would_have_followed():
    detector, batch = made(seed=3).train(), randn(3, 8, *GRID)
    for player in detector.players():
        detector.losses(batch, player)
    resumed = made(seed=3).train()
    resumed.load_state_dict(detector.state_dict())
    for player in detector.players():
        assert torch.equal(resumed.losses(batch, player)["total"], detector.losses(batch, player)["total"])
    assert int(resumed.chance.steps) == 4


class TestPixels:
    """GANomaly's networks on images."""

    def test_layers_are_those_of_the_paper(self):
        torch.manual_seed(0)
        networks = PixelNetworks()
        encoder, decoder = networks.encoder(3, (64, 64)), networks.decoder(3, (64, 64))
        shapes = [tuple(layer.weight.shape) for layer in encoder if isinstance(layer, torch.nn.Conv2d)]
        assert shapes == [(64, 3, 4, 4), (128, 64, 4, 4), (256, 128, 4, 4), (512, 256, 4, 4), (100, 512, 4, 4)]
        back = [tuple(layer.weight.shape) for layer in decoder if isinstance(layer, torch.nn.ConvTranspose2d)]
        assert back == [(100, 512, 4, 4), (512, 256, 4, 4), (256, 128, 4, 4), (128, 64, 4, 4), (64, 3, 4, 4)]

    @torch.no_grad()
    @pytest.mark.parametrize("size", [(64, 64), (64, 96), (128, 256)])
    def test_images_that_are_not_square_are_rebuilt_whole(self, size):
        torch.manual_seed(0)
        detector = PixelGAN(PixelNetworks(2, 3), pool=1, noise=0.0)
        detector.build(Spec((8, 4, 4), size))
        latent, rebuilt = detector.generator(randn(2, 3, *size))
        assert latent.shape == (2, 3, 1, 1)
        assert rebuilt.shape == (2, 3, *size)
        assert detector.critic(rebuilt).shape == (2, 1, 1, 1)
        assert detector.eval().error_map(randn(2, 3, *size)).shape == (2, *detector.grid(Spec((8, 4, 4), size)))

    def test_a_side_that_cannot_be_halved_is_told(self):
        with pytest.raises(UserError, match=r"data\.image_size: this model halves 64x90 pixels 4 .*multiples of 16"):
            PixelNetworks().encoder(3, (64, 90))

    def test_the_experiment_runs_on_images_and_counts_the_steps_of_both_players(self, root, tmp_path):
        small = ("data.image_size=32", "model.network.width=4", "trainer.max_steps=8", "data.batch_size=5")
        where = ("category=custom", "category.name=widget", f"data.root={root}", "trainer.accelerator=cpu")
        rest = ("backbone=tiny", "data.workers=0", "bootstrap=0", *BARE, f"hydra.run.dir={tmp_path / 'run'}")
        ran = command("train", "experiment=ganomaly", *where, *small, *rest, cwd=tmp_path)
        assert ran.code == 0, ran.out
        last = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
        assert last["global_step"] == 8
        assert [state["param_groups"][0]["betas"] for state in last["optimizer_states"]] == [(0.5, 0.999)] * 2
        basis = json.loads((tmp_path / "run" / "metrics.json").read_text())["threshold"]["rests_on"]
        assert basis[1] == "They were used for nothing else."


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"errors": (0.0, 0.0, 0.0)}, "not all errors 0"),
        ({"loss_weights": (1.0, -1.0, 1.0)}, r"model\.loss_weights"),
        ({"loss_weights": (1.0, 50.0)}, r"model\.loss_weights"),
        ({"errors": ()}, r"model\.errors three weights"),
        ({"pool": 0}, r"model\.pool must be 1 or more"),
        ({"whitening": 3}, r"model\.whitening=3: expected blocks"),
    ],
    ids=str,
)
def test_values_without_a_meaning_are_refused(settings, words):
    with pytest.raises(UserError, match=words):
        GAN(GridNetworks(), **settings)
