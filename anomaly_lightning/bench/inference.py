"""What a prediction costs, stage by stage: decode, resize, backbone, detector, score and map."""

from collections.abc import Sequence

import numpy as np
import torch

from anomaly_lightning.bench.timing import Rounds, cycle
from anomaly_lightning.data.samples import Sample
from anomaly_lightning.runtime.transform import ImageTransform
from anomaly_lightning.training.module import AnomalyModule

BASE = "backbone"  # the bare forward of the frozen network up to its last tap


@torch.inference_mode()
def stages(
    module: AnomalyModule, transform: ImageTransform, samples: Sequence[Sample], size: int, rounds: int, warmup: int
) -> dict[str, dict[str, float]]:
    """Figures of each stage and of the whole, see `Rounds.summary`.

    `features` is the backbone with the pooling to one grid; `tensor_to_map` all that follows the resize; `whole` all
    from the file on disk (in the page cache) to score and map on the CPU.

    Args:
        module: Fitted; measured on the device that it is on.
        transform: From image to `images`.
        samples: Images that take turns.
        size: Images a batch.
        rounds: How often each stage is measured.
        warmup: Rounds before that are left out.
    """
    module.eval()
    measured = Rounds(warmup)
    for chosen in cycle(list(samples), size, rounds + warmup):
        _round(module, transform, chosen, measured)
    return measured.summary(BASE, size)


def _round(module: AnomalyModule, transform: ImageTransform, chosen: Sequence[Sample], measured: Rounds) -> None:
    device = module.device

    def settled(result: object) -> object:
        if device.type == "cuda":
            torch.cuda.synchronize(device)  # kernels run on after the call returns
        return result

    images = measured.time("decode", lambda: [transform.read(sample.path) for sample in chosen])
    arrays = measured.time("resize", lambda: np.stack([transform(image) for image in images]))
    images = torch.from_numpy(arrays).to(device)
    measured.time(BASE, lambda: settled(module.extractor.backbone(images)))
    features = measured.time("features", lambda: settled(module.extractor(images)))
    error_maps = measured.time("detector", lambda: settled(module.detector.error_map(features)))
    measured.time("score_and_map", lambda: settled(module.scoring(error_maps, module.size)))
    measured.time("tensor_to_map", lambda: [part.cpu() for part in module(images)])

    def whole() -> object:
        batch = torch.from_numpy(np.stack([transform(transform.read(sample.path)) for sample in chosen])).to(device)
        return [part.cpu() for part in module(batch)]

    measured.time("whole", whole)
