"""PatchCore and PaDiM as published: the numbers that anomalib 2.7.0's torch models gave on the same features.

Recorded once, anomalib being no dependency: `MultiVariateGaussian.fit` and `AnomalyMapGenerator.compute_distance` of
PaDiM; of PatchCore the 3 x 3 average pooling, `KCenterGreedy` from the first patch and without its random projection,
`nearest_neighbors` and `compute_anomaly_score` with four neighbours.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from anomaly_lightning.detectors.base import Detector, Spec
from anomaly_lightning.detectors.padim import PaDiM
from anomaly_lightning.detectors.parts.coreset import greedy_k_center
from anomaly_lightning.detectors.parts.grid import surroundings
from anomaly_lightning.detectors.patchcore import PatchCore

RECORDED = json.loads((Path(__file__).parent / "published" / "anomalib_2.7.0.json").read_text())
SHAPE = (6, 4, 5)


def features(images: int, seed: int) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return 3 + torch.randn(images, *SHAPE, generator=draw) * torch.linspace(0.5, 2, 6)[:, None, None]


def errors(detector: Detector) -> Tensor:
    """Error maps (3, 4, 5) of the test features after a fit on the training features, in batches."""
    detector.build(Spec(SHAPE, (64, 64)))
    detector.prepare(features(9, 0).split(4))
    return detector.error_map(features(3, 1))


def test_padim_is_anomalibs() -> None:
    found = errors(PaDiM(reduced=None, shrinkage=0.0, epsilon=0.01 + 1e-5))  # theirs adds both
    np.testing.assert_allclose(found.numpy(), RECORDED["padim"], rtol=1e-4)


@pytest.mark.parametrize("ratio", [1.0, 0.25])
def test_patchcore_is_anomalibs(ratio: float) -> None:
    wanted = RECORDED[f"patchcore {ratio:g}"]
    whole = {"bank": None, "ratio": ratio, "pool": None, "projection": None}
    found = errors(PatchCore(**whole, neighbours=1))
    np.testing.assert_allclose(found.numpy(), wanted["map"], rtol=1e-4)
    scores = errors(PatchCore(**whole, neighbours=4)).flatten(1).amax(1)
    np.testing.assert_allclose(scores.numpy(), wanted["score"], rtol=1e-4)


def test_the_coreset_is_anomalibs() -> None:
    patches = surroundings(features(9, 0)).permute(0, 2, 3, 1).flatten(0, 2)
    assert greedy_k_center(patches, len(RECORDED["coreset"])).tolist() == RECORDED["coreset"]
