import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.spatial.distance import cdist
from torch import Tensor

from anomaly_lightning.detectors import patchcore
from anomaly_lightning.detectors.base import Spec
from anomaly_lightning.detectors.patchcore import PatchCore, distances, exact_distances
from anomaly_lightning.errors import UserError

SHAPE = (6, 3, 4)  # channels, height, width
PLAIN = {"bank": 500, "pool": 500, "projection": None, "neighbourhood": 1, "neighbours": 1}


def features(images: int, seed: int = 0) -> Tensor:
    return 3 + torch.randn(images, *SHAPE, generator=torch.Generator().manual_seed(seed))


def fitted(batches: list[Tensor], **settings: object) -> PatchCore:
    detector = PatchCore(**{**PLAIN, **settings})
    detector.build(Spec(SHAPE, (64, 64)))
    detector.prepare(batches)
    return detector


def patches(maps: Tensor) -> np.ndarray:
    return maps.double().permute(0, 2, 3, 1).reshape(-1, SHAPE[0]).numpy()


def test_distance_to_the_whole_bank_is_brute_force() -> None:
    train, test = features(4), features(3, seed=1)
    expected = cdist(patches(test), patches(train)).min(1).reshape(3, 3, 4)
    found = fitted([train]).error_map(test)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5)


def test_a_image_of_the_bank_has_no_error() -> None:
    train = 1000 + features(4)  # where norms cancel badly
    assert fitted([train]).error_map(train).max() == 0


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    memory, queries = torch.randn(20, 6), torch.randn(57, 6)
    whole = exact_distances(queries, memory)
    monkeypatch.setattr(patchcore, "DISTANCES_AT_ONCE", 100)
    assert torch.equal(exact_distances(queries, memory), whole)


def test_what_is_exported_gives_the_same_distances() -> None:
    memory, queries = 3 + torch.randn(620, 6), 3 + torch.randn(57, 6)
    torch.testing.assert_close(distances(queries, memory), exact_distances(queries, memory), rtol=1e-5, atol=0)


def test_coreset_covers_better_than_chance() -> None:
    train, test = features(30), patches(features(30))
    chosen = fitted([train], bank=40, projection=None).memory.double().numpy()
    assert chosen.shape == (40, 6)
    random = patches(train)[np.random.default_rng(0).permutation(360)[:40]]
    assert cdist(test, chosen).min(1).max() < cdist(test, random).min(1).max()
    assert set(map(tuple, chosen)) <= set(map(tuple, patches(train)))
    assert fitted([train], bank=40, projection=2).memory.shape == (40, 6)


def test_reweighting_is_equation_7() -> None:
    train, test = features(4), features(3, seed=1)
    bank, found = patches(train), fitted([train], neighbours=5).error_map(test)
    for image, plain in enumerate(fitted([train]).error_map(test).double().numpy()):
        x = patches(test[image : image + 1])[plain.argmax()]
        star = bank[cdist([x], bank).argmin()]
        near = bank[np.argsort(cdist([star], bank)[0])[:5]]
        weight = 1 - np.exp(np.linalg.norm(x - star)) / np.exp(np.linalg.norm(x - near, axis=1)).sum()
        np.testing.assert_allclose(found[image].numpy(), weight * plain, rtol=1e-4)


def test_neighbourhood_averages() -> None:
    test = features(2)
    averaged = F.conv2d(test, torch.ones(6, 1, 3, 3) / 9, padding=1, groups=6)  # zeros outside the grid
    train = F.conv2d(features(4), torch.ones(6, 1, 3, 3) / 9, padding=1, groups=6)
    found = fitted([features(4)], neighbourhood=3).error_map(test)
    torch.testing.assert_close(found, fitted([train]).error_map(averaged))


@pytest.mark.parametrize("pool", [50, 500])
def test_streaming_is_all_at_once(pool: int) -> None:
    train = features(20)
    at_once = fitted([train], pool=pool, bank=30)
    streamed = fitted(list(train.split(3)), pool=pool, bank=30)
    assert torch.equal(streamed.memory, at_once.memory)


def test_the_bank_is_a_share_of_all_patches_and_no_more_than_allowed() -> None:
    batches = list(features(20).split(6))  # 240 patches
    assert len(fitted(batches, bank=None, ratio=0.1, pool=None).memory) == 24
    assert len(fitted(batches, bank=10, ratio=0.1, pool=None).memory) == 10
    assert len(fitted(batches, bank=None, ratio=0.5, pool=60).memory) == 60, "the pool holds no more"
    assert len(fitted(batches, bank=None, ratio=0.001, pool=None).memory) == 1


def test_bank_loads_back_and_nothing_depends_on_the_mode() -> None:
    detector, test = fitted([features(4)], neighbours=3), features(3, seed=1)
    twin = PatchCore(**{**PLAIN, "neighbours": 3})
    twin.build(Spec(SHAPE, (64, 64)))
    twin.load_state_dict(detector.state_dict())
    before = detector.error_map(test)
    assert torch.equal(twin.train().error_map(test), before)
    assert torch.equal(detector.eval().error_map(test), before)


def test_preparing_again_starts_from_scratch() -> None:
    detector, test = fitted([features(20)]), features(3, seed=1)
    detector.prepare([features(9, seed=4)])
    assert torch.equal(detector.error_map(test), fitted([features(9, seed=4)]).error_map(test))


def test_settings_without_a_meaning_are_refused() -> None:
    with pytest.raises(UserError, match="pool=10"):
        PatchCore(bank=20, pool=10)
    with pytest.raises(UserError, match="ratio=None"):
        PatchCore(bank=None)
    with pytest.raises(UserError, match=r"ratio=1\.5"):
        PatchCore(ratio=1.5)
    with pytest.raises(UserError, match="odd"):
        PatchCore(neighbourhood=2)
