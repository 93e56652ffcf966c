"""A checkpoint and the bundle exported from it, in turn, as ratios to the checkpoint's bare backbone."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from anomaly_lightning.bench.timing import Rounds, cycle
from anomaly_lightning.runtime.inspector import Inspector
from anomaly_lightning.training.checkpoint import TorchEngine, load_model

BASE = "backbone alone, torch"


@torch.inference_mode()
def compare(
    checkpoint: Path,
    bundle: Path,
    images: Sequence[Path],
    size: int,
    rounds: int,
    warmup: int,
    threads: int,
    compile: bool = False,
) -> dict[str, dict[str, float]]:
    """Times and ratios of network and of all from file to verdict; see `Rounds.summary`.

    Args:
        checkpoint: Of a run.
        bundle: Exported from it.
        images: Files that take turns.
        size: Images a batch; file to verdict is measured for one image alone.
        rounds: How often each is measured.
        warmup: Rounds before that are left out.
        threads: For one forward, in torch and in the bundle's engine alike.
        compile: Whether torch compiles the checkpoint's model.
    """
    torch.set_num_threads(threads)
    model, card = load_model(checkpoint)
    torch_side = Inspector(card, TorchEngine(model, "cpu", card.transform.size if compile else None))
    bare_backbone = load_model(checkpoint)[0].extractor.backbone  # eager, as a training has it
    exported, bare = (Inspector.load(bundle, "cpu", threads=threads, validity=known) for known in (True, False))
    read = torch_side.transform
    measured = Rounds(warmup)
    for chosen in cycle(list(images), size, rounds + warmup):
        planes = np.stack([read(read.read(path)) for path in chosen])
        tensors = torch.from_numpy(planes)
        measured.time(BASE, lambda tensors=tensors: bare_backbone(tensors))  # type: ignore[misc]
        for name, inspector in (("torch", torch_side), ("exported", exported)):
            measured.time(f"tensor to map and score, {name}", lambda i=inspector, p=planes: i.engine.run(p))  # type: ignore[misc]
        if size == 1:
            looks = {"torch": torch_side, "exported": exported, "exported, without validity": bare}
            for name, inspector in looks.items():
                measured.time(f"file to verdict, {name}", lambda i=inspector, c=chosen: i(c[0]))  # type: ignore[misc]
    return measured.summary(BASE, size)
