import numpy as np
import pytest
import torch
from sklearn import decomposition
from torch import Tensor

from anomaly_lightning.detectors.base import Spec
from anomaly_lightning.detectors.pca import PCA
from anomaly_lightning.errors import UserError

SHAPE = (6, 3, 4)  # channels, height, width


def features(images: int, seed: int = 0) -> Tensor:
    mix = torch.randn(6, 6, generator=torch.Generator().manual_seed(99)) * torch.tensor([5.0, 3, 2, 1, 0.5, 0.2])
    draw = torch.randn(images, 3, 4, 6, generator=torch.Generator().manual_seed(seed))
    return 1 + (draw @ mix.T).permute(0, 3, 1, 2)


def fitted(batches: list[Tensor], **settings: object) -> PCA:
    detector = PCA(**settings)
    detector.build(Spec(SHAPE, (64, 64)))
    detector.prepare(batches)
    return detector


def vectors(maps: Tensor) -> np.ndarray:
    return maps.double().permute(0, 2, 3, 1).reshape(-1, SHAPE[0]).numpy()


@pytest.mark.parametrize("settings", [{"variance": 0.9}, {"variance": 0.97}, {"variance": None, "components": 2}])
def test_error_is_sklearns_reconstruction_error(settings: dict) -> None:
    train, test = features(20), features(3, seed=1)
    reference = decomposition.PCA(settings.get("components") or settings["variance"], svd_solver="full")
    reference.fit(vectors(train))
    rebuilt = reference.inverse_transform(reference.transform(vectors(test)))
    expected = ((vectors(test) - rebuilt) ** 2).sum(1).reshape(3, 3, 4)
    found = fitted([train], **settings).error_map(test)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-3, atol=1e-5)


def test_streaming_is_all_at_once() -> None:
    train, test = features(20), features(3, seed=1)
    torch.testing.assert_close(fitted(list(train.split(3))).error_map(test), fitted([train]).error_map(test))


def test_state_loads_back_and_nothing_depends_on_the_mode() -> None:
    detector, test = fitted([features(4)]), features(3, seed=1)
    twin = PCA()
    twin.build(Spec(SHAPE, (64, 64)))
    twin.load_state_dict(detector.state_dict())
    before = detector.error_map(test)
    assert (before >= 0).all()
    assert torch.equal(twin.train().error_map(test), before)
    assert torch.equal(detector.eval().error_map(test), before)


def test_preparing_again_starts_from_scratch() -> None:
    detector, test = fitted([features(20)]), features(3, seed=1)
    detector.prepare([features(9, seed=4)])
    assert torch.equal(detector.error_map(test), fitted([features(9, seed=4)]).error_map(test))


def test_constant_features_have_errors_all_the_same() -> None:
    detector = fitted([torch.ones(4, *SHAPE)])
    assert detector.error_map(torch.ones(1, *SHAPE)).max() == 0
    assert detector.error_map(features(2)).min() > 0


def test_contradictions_are_refused() -> None:
    with pytest.raises(UserError, match="one of"):
        PCA(variance=0.9, components=3)
    with pytest.raises(UserError, match="one of"):
        PCA(variance=None)
    with pytest.raises(UserError, match="between 0 and 1"):
        PCA(variance=1.5)
    with pytest.raises(UserError, match="leaves nothing"):
        PCA(variance=None, components=6).build(Spec(SHAPE, (64, 64)))
