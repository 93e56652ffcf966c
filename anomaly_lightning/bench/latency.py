"""How long one image takes, from file to score and map."""

import time
from collections.abc import Sequence

import numpy as np
import torch

from anomaly_lightning.data.samples import Sample
from anomaly_lightning.runtime.transform import ImageTransform
from anomaly_lightning.training.module import AnomalyModule

IMAGES = 20


@torch.inference_mode()
def single_image_ms(
    module: AnomalyModule, transform: ImageTransform, samples: Sequence[Sample], device: torch.device
) -> dict[str, float]:
    """Median and 95th percentile of decoding and scoring images one by one, in milliseconds, after a warm-up.

    Args:
        module: Fitted; moved to the device.
        transform: From image to `images`.
        samples: Where the images come from; the first 20 are used.
        device: Where to score: the trainer's, which leaves the module on the CPU when it is done.
    """
    module.to(device).eval()
    durations = []
    for sample in [samples[0], samples[0], *samples[:IMAGES]]:
        start = time.perf_counter()
        images = torch.from_numpy(transform(transform.read(sample.path)))[None].to(module.device)
        _, scores = module(images)
        scores.cpu()
        durations.append(1000 * (time.perf_counter() - start))
    p50, p95 = np.percentile(durations[2:], (50, 95))
    return {"latency_ms_p50": float(p50), "latency_ms_p95": float(p95)}
