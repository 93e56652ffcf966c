"""The contract of detectors/base.py, held by every method that conf/model lists.

A new method is one file and one yaml: it is found here by its yaml, and nothing needs to be added.
"""

import copy
import inspect

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from anomaly_lightning.detectors.base import Detector, Spec, TrainedDetector
from anomaly_lightning.detectors.registry import create_detector
from anomaly_lightning.places import CONFIG_DIR

MODELS = sorted((CONFIG_DIR / "model").glob("*.yaml"))
SHAPES = [(12, 8, 6), (10, 5, 9), (7, 4, 4)]
IMAGES = [2, 7, 40]

pytestmark = pytest.mark.parametrize("path", MODELS, ids=[path.stem for path in MODELS])


def given(path):
    """Plain values of a yaml of conf/model, inside a run whose seed is 0."""
    run = OmegaConf.create({"seed": 0, "model": OmegaConf.load(path)})
    values = OmegaConf.to_container(run, resolve=True)["model"]
    values.pop("defaults", None)  # of the optimizer, which is no part of a detector
    return values


def build(path, shape):
    torch.manual_seed(0)
    detector = create_detector(given(path))
    detector.build(Spec(shape, (32 * shape[1], 32 * shape[2])))
    return detector


def normals(count, shape, seed=0):
    """(N, C, h, w): a few factors shared by all positions, a mean a position, and noise, as features have them."""
    generator = torch.Generator().manual_seed(seed)
    fixed = torch.Generator().manual_seed(99)
    channels, height, width = shape
    mixing = torch.randn(channels, 3, generator=fixed)
    place = torch.randn(channels, height, width, generator=fixed)
    factors = torch.randn(count, 3, height, width, generator=generator)
    noise = 0.1 * torch.randn(count, *shape, generator=generator)
    return torch.einsum("cf,nfhw->nchw", mixing, factors) + place + noise


def fit(detector, features, batch=6, steps=0):
    """The life of a detector, as detectors/base.py tells it."""
    detector.prepare(features.split(batch))
    if not isinstance(detector, TrainedDetector):
        return detector.eval()
    players = detector.players()
    optimizers = {name: torch.optim.Adam(parameters, lr=3e-3) for name, parameters in players.items()}
    detector.train()
    for _ in range(steps):
        for name, optimizer in optimizers.items():
            optimizer.zero_grad()
            detector.losses(detector.condense(features), name)["total"].backward()
            optimizer.step()
    detector.eval()
    detector.conclude(features.split(batch), [])
    return detector


@torch.no_grad()
def error_map(detector, features):
    return detector.error_map(features)


def test_is_a_detector_whose_yaml_states_every_argument(path):
    config = given(path)
    detector = instantiate(config)
    assert isinstance(detector, Detector)
    assert set(config) - {"_target_"} == set(inspect.signature(type(detector)).parameters)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("count", IMAGES)
def test_error_map_is_finite_not_negative_and_keeps_the_grid(path, shape, count):
    detector = fit(build(path, shape), normals(count, shape))
    errors = error_map(detector, normals(3, shape, seed=1))
    assert errors.shape == (3, *shape[1:])
    assert errors.is_floating_point()
    assert torch.isfinite(errors).all()
    assert (errors >= 0).all()


def test_error_map_does_not_depend_on_the_mode_and_leaves_it(path):
    shape = SHAPES[0]
    detector, features = fit(build(path, shape), normals(9, shape)), normals(4, shape, seed=1)
    before = copy.deepcopy(detector.state_dict())
    detector.train()
    training = error_map(detector, features)
    assert detector.training
    detector.eval()
    assert torch.equal(training, error_map(detector, features))
    assert not detector.training
    assert all(torch.equal(value, before[name]) for name, value in detector.state_dict().items())


def test_error_map_of_a_image_does_not_depend_on_its_batch(path):
    shape = SHAPES[1]
    detector, features = fit(build(path, shape), normals(9, shape)), normals(5, shape, seed=1)
    together = error_map(detector, features)
    alone = torch.cat([error_map(detector, features[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_preparing_again_starts_from_scratch(path):
    shape, wanted = SHAPES[0], normals(9, SHAPES[0])
    detector, other = build(path, shape), build(path, shape)
    fit(detector, 5 + 3 * normals(9, shape, seed=7))
    other.load_state_dict(detector.state_dict())  # the same parameters, where the method has some
    fit(detector, wanted)
    fit(other, wanted)
    features = normals(3, shape, seed=1)
    torch.testing.assert_close(error_map(detector, features), error_map(other, features), rtol=1e-5, atol=1e-6)


def test_normals_are_walked_whole_each_time(path):
    """A one-way iterator is used up after the first walk: a method may walk as often as it likes."""
    shape, features = SHAPES[0], normals(9, SHAPES[0])
    walks = []

    class Walked:
        def __iter__(self):
            walks.append(0)
            for part in features.split(4):
                walks[-1] += len(part)
                yield part

    detector = build(path, shape)
    detector.prepare(Walked())
    assert walks
    assert set(walks) == {9}
    assert torch.equal(error_map(detector.eval(), features), error_map(_prepared(path, features), features))


def _prepared(path, features):
    detector = build(path, tuple(features.shape[1:]))
    detector.prepare(features.split(4))
    return detector.eval()


def test_the_error_map_has_the_grid_that_the_method_says(path):
    shape = SHAPES[1]
    detector = fit(build(path, shape), normals(9, shape))
    spec = Spec(shape, (32 * shape[1], 32 * shape[2]))
    assert tuple(error_map(detector, normals(2, shape)).shape[1:]) == tuple(detector.grid(spec))


def test_how_the_images_are_cut_into_batches_does_not_matter(path):
    shape, features = SHAPES[0], normals(13, SHAPES[0])
    maps = [error_map(fit(build(path, shape), features, batch), normals(3, shape, seed=1)) for batch in (1, 5, 13)]
    torch.testing.assert_close(maps[0], maps[1], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(maps[0], maps[2], rtol=1e-3, atol=1e-4)


def test_a_fresh_detector_takes_the_state_and_gives_the_same_map(path, tmp_path):
    shape, features = SHAPES[1], normals(4, SHAPES[1], seed=1)
    detector = fit(build(path, shape), normals(11, shape), steps=3)
    torch.save(detector.state_dict(), tmp_path / "state.pt")
    torch.manual_seed(123)  # nothing may hang on the seed
    fresh = create_detector(given(path))
    fresh.build(Spec(shape, (32 * shape[1], 32 * shape[2])))
    fresh.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert torch.equal(error_map(fresh.eval(), features), error_map(detector, features))


def test_fitting_leaves_the_features_alone(path):
    features = normals(6, SHAPES[2])
    before = features.clone()
    fit(build(path, SHAPES[2]), features, steps=1)
    assert torch.equal(features, before)


def test_losses_are_numbers_whose_total_gradients_lower(path):
    shape, features = SHAPES[0], normals(12, SHAPES[0])
    detector = fit(build(path, shape), features)
    if not isinstance(detector, TrainedDetector):
        pytest.skip("a method without gradients")
    assert {id(p) for group in detector.players().values() for p in group} == {id(p) for p in detector.parameters()}
    for player in detector.players():
        before = detector.losses(detector.condense(features), player)
        assert all(value.shape == () for value in before.values())
        assert before["total"].requires_grad
    if len(detector.players()) == 1:  # several play against each other
        after = fit(detector, features, steps=60).losses(detector.condense(features), player)
        assert after["total"] < 0.9 * before["total"]


def test_what_features_are_condensed_to_hangs_on_them_and_the_statistics_alone(path):
    shape, features = SHAPES[1], normals(8, SHAPES[1])
    detector = fit(build(path, shape), features)
    if not isinstance(detector, TrainedDetector):
        pytest.skip("a method without gradients")
    before = detector.condense(features)
    assert not before.requires_grad
    assert detector.condenses == (before.numel() < features.numel())
    other = fit(build(path, shape), features, steps=3).train()
    torch.testing.assert_close(other.condense(features[2:5]), before[2:5])


def test_a_method_with_chance_follows_the_runs_seed(path):
    if "seed" not in inspect.signature(type(create_detector(given(path)))).parameters:
        pytest.skip("a method without chance")
    assert OmegaConf.to_container(OmegaConf.load(path))["seed"] == "${seed}"


@pytest.mark.parametrize("shape", [SHAPES[0], pytest.param(SHAPES[1], marks=pytest.mark.slow)], ids=str)
def test_a_planted_anomaly_scores_higher_than_every_normal_and_at_its_place(path, shape):
    detector = fit(build(path, shape), normals(40, shape), steps=75)
    clean = normals(12, shape, seed=1)
    planted = clean.clone()
    row, column = shape[1] - 2, 1  # off the diagonal: a map with H and W swapped puts it elsewhere
    direction = torch.randn(shape[0], generator=torch.Generator().manual_seed(5))
    planted[:, :, row - 1 : row + 1, column : column + 2] += 12 * direction[:, None, None]
    usual, strange = error_map(detector, clean), error_map(detector, planted)
    assert strange.flatten(1).amax(1).min() > usual.flatten(1).amax(1).max()
    rise = (strange - usual).mean(0)
    assert rise[row - 1 : row + 1, column : column + 2].min() > rise.mean()
