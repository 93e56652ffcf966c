import numpy as np
import pytest
import torch
from torch import Tensor

from anomaly_lightning.detectors.base import Spec
from anomaly_lightning.detectors.padim import PaDiM
from anomaly_lightning.errors import UserError

SHAPE = (5, 3, 4)  # channels, height, width


def features(images: int, seed: int = 0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    scale = torch.linspace(0.5, 3, SHAPE[0])[:, None, None]
    return 2 + scale * torch.randn(images, *SHAPE, generator=draw)


def fitted(batches: list[Tensor], **settings: object) -> PaDiM:
    detector = PaDiM(**settings)
    detector.build(Spec(tuple(batches[0].shape[1:]), (64, 64)))
    detector.prepare(batches)
    return detector


def reference(train: Tensor, test: Tensor, shrinkage: float, epsilon: float) -> np.ndarray:
    """Mahalanobis distances by a loop over positions, numpy's covariance and a linear solve."""
    x, y = train.double().numpy(), test.double().numpy()
    _, channels, height, width = x.shape
    covariances = {(i, j): np.cov(x[:, :, i, j].T) for i in range(height) for j in range(width)}
    common = np.mean(list(covariances.values()), axis=0)
    result = np.empty((len(y), height, width))
    for (i, j), own in covariances.items():
        covariance = (1 - shrinkage) * own + shrinkage * common + epsilon * np.eye(channels)
        offset = y[:, :, i, j] - x[:, :, i, j].mean(0)
        result[:, i, j] = np.sqrt((offset * np.linalg.solve(covariance, offset.T).T).sum(1))
    return result


@pytest.mark.parametrize(("images", "shrinkage", "epsilon"), [(30, 0.0, 0.01), (4, 0.0, 0.01), (6, 0.3, 0.5)])
def test_distance_is_mahalanobis(images: int, shrinkage: float, epsilon: float) -> None:
    train, test = features(images), features(3, seed=1)
    detector = fitted([train], reduced=None, shrinkage=shrinkage, epsilon=epsilon)
    found = detector.error_map(test)
    assert found.shape == (3, 3, 4)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), reference(train, test, shrinkage, epsilon), rtol=1e-4)


def test_streaming_is_all_at_once() -> None:
    train, test = features(20), features(3, seed=1)
    at_once, streamed = fitted([train]), fitted(list(train.split(3)))
    torch.testing.assert_close(streamed.error_map(test), at_once.error_map(test))


def test_large_offsets_lose_no_accuracy() -> None:
    train, test = features(20), features(3, seed=1)
    torch.testing.assert_close(
        fitted([train + 1000]).error_map(test + 1000), fitted([train]).error_map(test), rtol=1e-2, atol=1e-2
    )


def test_reduced_keeps_the_drawn_channels() -> None:
    train, test = features(20), features(3, seed=1)
    detector = fitted([train], reduced=2, seed=0)
    kept = detector.channels
    assert len(kept) == len(set(kept.tolist())) == 2
    alone = fitted([train[:, kept]], reduced=None)
    torch.testing.assert_close(detector.error_map(test), alone.error_map(test[:, kept]))
    assert any(fitted([train], reduced=2, seed=seed).channels.tolist() != kept.tolist() for seed in range(1, 9))
    assert len(fitted([train], reduced=100).channels) == SHAPE[0]


def test_state_loads_back_and_nothing_depends_on_the_mode() -> None:
    detector, test = fitted([features(20)], reduced=3, seed=0), features(3, seed=1)
    twin = PaDiM(reduced=3, seed=5)
    twin.build(Spec(SHAPE, (64, 64)))
    twin.load_state_dict(detector.state_dict())
    before = detector.error_map(test)
    assert torch.equal(twin.train().error_map(test), before)
    assert torch.equal(detector.eval().error_map(test), before)


def test_preparing_again_starts_from_scratch() -> None:
    detector, test = fitted([features(20)]), features(3, seed=1)
    detector.prepare([features(9, seed=4)])
    assert torch.equal(detector.error_map(test), fitted([features(9, seed=4)]).error_map(test))


def test_what_cannot_be_fitted_is_refused() -> None:
    with pytest.raises(UserError, match="at least 2"):
        fitted([features(1)])
    with pytest.raises(UserError, match="epsilon"):
        PaDiM(epsilon=0)
