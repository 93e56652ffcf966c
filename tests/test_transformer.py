"""The transformer decoder: attention against dense matrices, mining against gradient hooks, steps against the seed."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from toy import BARE, SMALL, command

from anomaly_lightning.detectors.base import Spec
from anomaly_lightning.detectors.parts.attention import Decoder, LinearAttention
from anomaly_lightning.detectors.parts.whitening import PositionWhitening
from anomaly_lightning.detectors.transformer import Transformer, mined_cosine
from anomaly_lightning.errors import UserError
from anomaly_lightning.training.schedule import WarmCosine, planned

GRID = (4, 6)


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def made(channels=8, grid=GRID, **settings):
    torch.manual_seed(0)
    detector = Transformer(**{"depth": 2, "heads": 2, "ramp": 10, **settings})
    detector.build(Spec((channels, *grid), (32 * grid[0], 32 * grid[1])))
    return detector


def dense_attention(attention, tokens, grid):
    """The same from the whole matrix of weights, position by position, in float64."""
    width, heads = tokens.shape[2], attention.heads
    positions = [(row, column) for row in range(grid[0]) for column in range(grid[1])]
    query, key, value = (tokens.double() @ attention.projections.weight.T.double()).split(width, 2)
    outcome = torch.zeros_like(query)
    for head in range(heads):
        part = slice(head * width // heads, (head + 1) * width // heads)
        phi_q, phi_k = (F.elu(x[..., part]) + 1 for x in (query, key))
        for i, (row, column) in enumerate(positions):
            weights = (phi_k * phi_q[:, i : i + 1]).sum(2)
            near = [max(abs(r - row), abs(c - column)) <= attention.blind // 2 for r, c in positions]
            if attention.blind:
                weights = weights * ~torch.tensor(near)
            outcome[:, i, part] = (weights[..., None] * value[..., part]).sum(1) / weights.sum(1, keepdim=True)
    return outcome @ attention.outlet.weight.T.double() + attention.outlet.bias.double()


@pytest.mark.parametrize("blind", [0, 1, 3])
@torch.no_grad()
def test_attention_is_the_mean_of_the_values_weighted_by_the_dense_matrix(blind):
    torch.manual_seed(0)
    attention, tokens = LinearAttention(8, 2, blind), randn(3, 24, 8)
    torch.nn.init.zeros_(attention.projections.bias)
    wanted = dense_attention(attention, tokens, GRID)
    torch.testing.assert_close(attention(tokens, GRID).double(), wanted, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_position_does_not_attend_to_its_own_surroundings():
    torch.manual_seed(0)
    attention, tokens = LinearAttention(8, 2, 3), randn(1, 24, 8)
    changed = tokens.clone()
    changed[0, 1 * 6 + 2] += 5  # row 1, column 2
    moved = (attention(changed, GRID) - attention(tokens, GRID)).abs().amax(2).view(GRID)
    around = [(0, 1), (0, 2), (0, 3), (1, 1), (1, 3), (2, 1), (2, 2), (2, 3)]
    assert max(moved[place] for place in around) < 1e-4
    assert min(moved[:, 4:].min(), moved[3].min()) > 1e-3


class TestMining:
    """The loss's value is plain, its gradient prefers what is rebuilt badly."""

    def test_value_is_one_minus_the_cosine_of_whole_images(self):
        target, rebuilt = randn(3, 8, *GRID), randn(3, 8, *GRID, seed=1)
        a, b = target.flatten(1).numpy(), rebuilt.flatten(1).numpy()
        wanted = np.mean([1 - x @ y / np.linalg.norm(x) / np.linalg.norm(y) for x, y in zip(a, b, strict=True)])
        for mined in (0.0, 0.5, 0.9):
            assert float(mined_cosine(target, rebuilt, mined, 0.1)) == pytest.approx(wanted, rel=1e-5)

    @pytest.mark.parametrize("mined", [0.0, 0.25, 0.9])
    def test_gradient_of_the_best_rebuilt_share_is_smaller(self, mined):
        target, rebuilt = randn(2, 8, *GRID), randn(2, 8, *GRID, seed=1).requires_grad_()
        plain = 1 - F.cosine_similarity(target.flatten(1), rebuilt.flatten(1), dim=1)
        (whole,) = torch.autograd.grad(plain.mean(), rebuilt)
        (found,) = torch.autograd.grad(mined_cosine(target, rebuilt, mined, 0.1), rebuilt)
        distances = (1 - F.cosine_similarity(target, rebuilt, dim=1)).detach().numpy()
        easy = np.argsort(distances, axis=None)[: int(mined * distances.size)]
        factor = np.ones(distances.size)
        factor[easy] = 0.1
        wanted = whole.numpy() * factor.reshape(2, 1, *GRID)
        np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-4, atol=1e-7)

    def test_share_rises_over_the_ramp(self, monkeypatch):
        seen = []
        monkeypatch.setattr(
            "anomaly_lightning.detectors.transformer.mined_cosine",
            lambda target, rebuilt, mined, easy: seen.append(mined) or rebuilt.sum(),
        )
        detector = made(groups=1, mined=0.8, ramp=4).train()
        for _ in range(6):
            detector.losses(randn(2, 8, *GRID), "all")
        assert seen == pytest.approx([0.2, 0.4, 0.6, 0.8, 0.8, 0.8])


class TestDecoder:
    """Groups, projections and dropout."""

    @torch.no_grad()
    def test_the_mean_of_the_groups_goes_in_and_the_deepest_blocks_rebuild_the_first_group(self):
        torch.manual_seed(0)
        decoder, grids = Decoder(12, 2, None, 4, 2, 0, 0.2, 0), randn(2, 12, *GRID)
        tokens = ((grids[:, :6] + grids[:, 6:]) / 2).flatten(2).transpose(1, 2)
        first, second = decoder.bottleneck
        tokens = second(F.gelu(first(tokens)))
        outputs = []
        for block in decoder.blocks:
            tokens = block(tokens, GRID)
            outputs.append(tokens.transpose(1, 2).unflatten(2, GRID))
        wanted = torch.cat([(outputs[2] + outputs[3]) / 2, (outputs[0] + outputs[1]) / 2], 1)
        torch.testing.assert_close(decoder(grids, None), wanted)

    def test_projects_to_its_width_and_back(self):
        narrow, wide = Decoder(12, 2, 4, 2, 2, 0, 0.2, 0), Decoder(12, 1, 99, 2, 2, 0, 0.2, 0)
        assert narrow(randn(1, 12, *GRID), None).shape == (1, 12, *GRID)
        assert narrow.blocks[0].norms[0].normalized_shape == (4,)
        assert not wide.projects

    @torch.no_grad()
    def test_dropout_hangs_on_seed_and_step_alone(self):
        torch.manual_seed(0)
        decoder, grids = Decoder(8, 1, None, 2, 2, 0, 0.5, 7), randn(1, 8, *GRID)
        before = torch.random.get_rng_state()
        first, other, again = (decoder(grids, step) for step in (1, 2, 1))
        assert torch.equal(first, again)
        assert not torch.equal(first, other)
        assert not torch.equal(first, decoder(grids, None))
        assert torch.equal(before, torch.random.get_rng_state())

    @torch.no_grad()
    def test_dropout_keeps_the_mean(self):
        decoder = Decoder(8, 1, None, 2, 2, 0, 0.25, 0)
        dropped = decoder._dropped(torch.ones(200, 200), torch.Generator().manual_seed(0))
        assert float((dropped == 0).float().mean()) == pytest.approx(0.25, abs=0.01)
        assert float(dropped.mean()) == pytest.approx(1, abs=0.01)


def test_training_goes_on_where_a_state_was_saved():
    detector, batch = made().train(), randn(2, 8, *GRID)
    for _ in range(3):
        detector.losses(batch, "all")
    resumed = made().train()
    resumed.losses(batch, "all")
    resumed.load_state_dict(detector.state_dict())
    found, wanted = (one.losses(batch, "all")["total"] for one in (resumed, detector))
    assert torch.equal(found, wanted)
    assert int(resumed.steps) == 4


@torch.no_grad()
def test_the_error_is_the_mean_of_the_groups_cosines():
    detector, features = made(groups=2).eval(), randn(2, 8, *GRID)
    rebuilt = detector.decoder(features, None).numpy()
    given, wanted = features.numpy(), np.zeros((2, *GRID))
    for part in (slice(0, 4), slice(4, 8)):
        a, b = given[:, part], rebuilt[:, part]
        wanted += (1 - (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)) / 2
    np.testing.assert_allclose(detector.error_map(features).numpy(), wanted, rtol=1e-4, atol=1e-6)


@torch.no_grad()
def test_with_a_covariance_the_length_of_what_is_rebuilt_does_not_matter():
    features = randn(20, 8, *GRID)
    detector = made(groups=1, width=4, whitening=PositionWhitening(8.0, 128, 4)).eval()
    detector.conclude(features.split(5), [])
    before = detector.error_map(features[:3])
    for outlet in detector.decoder.outlets:  # what is rebuilt by fresh weights is next to nothing
        outlet.weight *= 1000
        outlet.bias *= 1000
    torch.testing.assert_close(detector.error_map(features[:3]), before, rtol=1e-4, atol=1e-5)
    assert before.shape == (3, *GRID)


@pytest.mark.parametrize(
    "settings",
    [{"depth": 3}, {"heads": 0}, {"dropout": 1.0}, {"mined": 1.0}, {"blind": 2}, {"easy": -1}, {"whitening": 3}],
    ids=str,
)
def test_values_without_a_meaning_are_refused(settings):
    with pytest.raises(UserError, match=rf"model\..*{next(iter(settings))}"):
        Transformer(**settings)


def test_channels_that_are_no_groups_are_refused():
    with pytest.raises(UserError, match=r"model\.groups=2: the 7 channels"):
        made(channels=7, groups=2)


class TestSchedule:
    """Learning rates from step to step, and a run of fixed length."""

    made = WarmCosine(lr=0.01, final_lr=0.001, warmup=4, weight_decay=0.0, amsgrad=True, clip=0.5)

    def test_rises_linearly_and_falls_by_half_a_cosine(self):
        rates = [self.made.rate(step, 105) for step in range(105)]
        assert rates[:5] == pytest.approx([0.002, 0.004, 0.006, 0.008, 0.01])
        assert rates[54] == pytest.approx(0.0055)  # halfway between both ends
        assert rates[29] == pytest.approx(0.001 + 0.0045 * (1 + np.cos(np.pi / 4)))
        assert rates[-1] == pytest.approx(0.001)
        assert max(rates) == rates[4]

    @pytest.mark.parametrize("steps", [1, 2, 5])
    def test_of_a_short_run_is_whole(self, steps):
        rates = [self.made.rate(step, steps) for step in range(steps)]
        assert all(0 < rate < 0.0101 for rate in rates)
        if steps > 2:
            assert rates[-1] == pytest.approx(0.001)

    def test_is_what_the_optimizer_gets(self):
        parameter = torch.nn.Parameter(torch.ones(2))
        optimizer = self.made([parameter])
        schedule, found = self.made.schedule(optimizer, 20), []
        for _ in range(20):
            found.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.step()
        assert found == pytest.approx([self.made.rate(step, 20) for step in range(20)])

    def test_values_without_a_meaning_are_refused(self):
        with pytest.raises(UserError, match=r"optimizer\.final_lr <= optimizer\.lr"):
            WarmCosine(lr=0.001, final_lr=0.01, warmup=0, weight_decay=0, amsgrad=False, clip=1)
        with pytest.raises(UserError, match="needs an end"):
            planned(float("inf"))


def test_a_run_ends_after_its_steps_with_the_last_weights(root, tmp_path):
    where = ("category=custom", "category.name=widget", f"data.root={root}", "trainer.accelerator=cpu")
    given = ("model=transformer", "trainer.max_epochs=-1", "trainer.max_steps=6", "data.batch_size=5")
    ran = command("train", *SMALL[:3], *where, *given, *BARE, f"hydra.run.dir={tmp_path / 'run'}", cwd=tmp_path)
    assert ran.code == 0, ran.out
    last = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["global_step"] == int(last["state_dict"]["model.detector.steps"]) == 6
    (schedule,) = last["lr_schedulers"]
    assert schedule["_last_lr"] == pytest.approx([0.0002])
    best = torch.load(tmp_path / "run" / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    name = "model.detector.decoder.bottleneck.0.weight"
    assert torch.equal(best[name], last["state_dict"][name])
    basis = json.loads((tmp_path / "run" / "metrics.json").read_text())["threshold"]["rests_on"]
    assert "chose the weights of the error's parts, so" in basis[1]  # how far the covariance of a position is trusted
    assert "epoch" not in basis[1]


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{"groups": 2}, {"groups": 1, "width": 4, "blind": 3, "pool": 2}], ids=str)
def test_the_exported_graph_gives_the_same_errors(settings, tmp_path):
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    whitened = {"whitening": PositionWhitening(8.0, 128, 4)} if settings["groups"] == 1 else {}
    detector, features = made(**settings, **whitened).eval(), randn(12, 8, *GRID)
    detector.conclude(features.split(4), [])

    class Errors(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.detector = detector

        def forward(self, inputs):
            return self.detector.error_map(inputs)

    file, batch = str(tmp_path / "model.onnx"), torch.export.Dim("batch")
    torch.onnx.export(Errors().eval(), (features[:2],), file, dynamo=True, dynamic_shapes=({0: batch},), verbose=False)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    for given in (features[:2], features[:5]):
        (found,) = session.run(None, {session.get_inputs()[0].name: given.numpy()})
        np.testing.assert_allclose(found, detector.error_map(given).numpy(), rtol=1e-3, atol=1e-5)
