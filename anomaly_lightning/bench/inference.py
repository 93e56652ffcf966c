"""What a prediction costs, stage by stage: decode, resize, backbone, detector, score and map."""

from collections.abc import Sequence

import numpy as np
import torch

from anomaly_lightning.bench.latency import from_files
from anomaly_lightning.bench.timing import Rounds, cycle
from anomaly_lightning.data.samples import Sample
from anomaly_lightning.model import AnomalyModel
from anomaly_lightning.runtime.transform import ImageTransform

BASE = "backbone"  # the bare forward of the frozen network up to its last layer


@torch.inference_mode()
def stages(
    model: AnomalyModel, transform: ImageTransform, samples: Sequence[Sample], size: int, rounds: int, warmup: int
) -> dict[str, dict[str, float]]:
    """Times of each stage and of the whole, see `Rounds.summary`.

    `features` is the backbone with the pooling to one grid; `tensor_to_map` all that follows the resize; `whole` all
    from the file on disk (in the page cache) to score and map on the CPU.

    Args:
        model: Fitted; measured on the device that it is on.
        transform: From image to `images`.
        samples: Images that take turns.
        size: Images a batch.
        rounds: How often each stage is measured.
        warmup: Rounds before that are left out.
    """
    model.eval()
    measured = Rounds(warmup)
    for chosen in cycle(list(samples), size, rounds + warmup):
        _round(model, transform, chosen, measured)
    return measured.summary(BASE, size)


def _round(model: AnomalyModel, transform: ImageTransform, chosen: Sequence[Sample], measured: Rounds) -> None:
    device = model.threshold.device

    def settled(result: object) -> object:
        if device.type == "cuda":
            torch.cuda.synchronize(device)  # kernels run on after the call returns
        return result

    decoded = measured.time("decode", lambda: [transform.read(sample.path) for sample in chosen])
    arrays = measured.time("resize", lambda: np.stack([transform(image) for image in decoded]))
    images = torch.from_numpy(arrays).to(device)
    measured.time(BASE, lambda: settled(model.extractor.backbone(images)))
    inputs = measured.time("features", lambda: settled(model.inputs(images)))
    error_maps = measured.time("detector", lambda: settled(model.error_map(inputs)))
    measured.time("score_and_map", lambda: settled(model.read(error_maps, inputs)))
    measured.time("tensor_to_map", lambda: [part.cpu() for part in model(images)])
    measured.time("whole", lambda: from_files(model, transform, chosen))
