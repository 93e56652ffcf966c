"""How long images take, from the files on disk to score and map: with the benchmark, and at the end of every run."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from anomaly_lightning.bench.timing import Rounds
from anomaly_lightning.data.samples import Sample
from anomaly_lightning.model import AnomalyModel
from anomaly_lightning.runtime.transform import ImageTransform

IMAGES, WARMUP = 20, 2


@torch.inference_mode()
def from_files(model: AnomalyModel, transform: ImageTransform, samples: Sequence[Sample]) -> list[Tensor]:
    """Maps (B, H, W) and scores (B,) of a batch of images, on the CPU."""
    images = torch.from_numpy(np.stack([transform(transform.read(sample.path)) for sample in samples]))
    return [part.cpu() for part in model(images.to(model.threshold.device))]


def single_image_ms(
    model: AnomalyModel, transform: ImageTransform, samples: Sequence[Sample], device: torch.device
) -> dict[str, float]:
    """Median and 95th percentile of decoding and scoring images one by one, in milliseconds, after a warm-up.

    Args:
        model: Fitted; moved to the device.
        transform: From image to `images`.
        samples: Where the images come from; the first 20 are used.
        device: Where to score: the trainer's, which leaves the module on the CPU when it is done.
    """
    model.to(device).eval()
    rounds = Rounds(WARMUP)
    for sample in (*[samples[0]] * WARMUP, *samples[:IMAGES]):
        rounds.time("image", lambda sample=sample: from_files(model, transform, [sample]))  # type: ignore[misc]
    times = rounds.summary("image")["image"]
    return {f"latency_ms_{name}": times[f"{name}_ms"] for name in ("p50", "p95")}
