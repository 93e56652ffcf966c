"""What a detector learns from besides normals: made and real defects, whose features are computed once."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, islice
from typing import NamedTuple

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from anomaly_lightning.data.defects import DefectMaker, Recipe, varied_with
from anomaly_lightning.data.defects.normals import levels_of
from anomaly_lightning.data.samples import Sample
from anomaly_lightning.detectors.base import TrainedDetector
from anomaly_lightning.errors import UserError
from anomaly_lightning.features.datamodule import FeatureDataModule
from anomaly_lightning.model import AnomalyModel
from anomaly_lightning.runtime.reading import ImageError, read_mask
from anomaly_lightning.runtime.tiles import Box, Tiling, crop

MOST_EACH = 8  # images made of one normal, so that a fit takes no more than so many times the features of its normals
VERSIONS = 20  # of one real defect, at most
AT_ONCE = 16


class Example(NamedTuple):
    """An image at the network's size.

    Attributes:
        image: (H, W, 3) uint8.
        mask: (H, W) bool.
        known: Whether the mask is the truth; else the image shows a defect somewhere.
    """

    image: NDArray[np.uint8]
    mask: NDArray[np.bool_]
    known: bool


def serve_examples(
    data: pl.LightningDataModule,
    model: AnomalyModel,
    detector: TrainedDetector,
    labelled: Sequence[Sample] = (),
    tiling: Tiling | None = None,
) -> None:
    """Let a datamodule serve, in place of the training normals, them and images with defects.

    Held-out normals are served as they are.

    Args:
        data: Of a fit; the trainer is attached.
        model: Whose features the examples are given as.
        detector: Asks for them; `prepare` was called.
        labelled: Real defects; none of them is a test image.
        tiling: How images are cut; None = they stay whole.

    Raises:
        UserError: Features are not stored, so that they would be computed anew in every epoch, or no tile shows a real
            defect.
        OSError: The disk is full.
    """
    if not isinstance(data, FeatureDataModule):
        raise UserError(
            f"model.examples={detector.examples}: made and known defects are kept as features for all epochs. Expected "
            "cache.mode=disk or cache.mode=memory, or model.examples=0 and no labelled_defects."
        )
    device = next(model.parameters()).device
    shown = chain(_made(data, detector), _real(data, detector, labelled, tiling))
    for role, loader in (("train", data.statistics_dataloader), (data.splits.choosing, data.held_out_dataloader)):
        rows = (detector.condense(model.seen(batch["features"].to(device))) for batch in loader())
        data.serve(role, chain(rows, _explained(shown, data, model, detector)) if role == "train" else rows)


def _explained(
    examples: Iterator[Example], data: FeatureDataModule, model: AnomalyModel, detector: TrainedDetector
) -> Iterator[Tensor]:
    """Rows (B, ...) float of examples, as `explain` gives them."""
    device, transform = next(model.parameters()).device, data.transform
    while several := list(islice(examples, AT_ONCE)):
        seen = torch.from_numpy(np.stack([transform(Image.fromarray(one.image)) for one in several]))
        masks = torch.from_numpy(np.stack([one.mask for one in several])).to(device)
        known = torch.tensor([one.known for one in several], device=device)
        yield detector.explain(model.seen(model.features(seen.to(device))), masks, known)


def _made(data: FeatureDataModule, detector: TrainedDetector) -> Iterator[Example]:
    """Training normals with made defects, each normal as often as the others."""
    samples = data.splits.train
    maker = DefectMaker(levels_of(samples, data.transform), len(samples), Recipe(**detector.recipe), data.images.seed)
    wanted = min(detector.examples, MOST_EACH * len(samples))
    places = [(number % len(samples), number // len(samples)) for number in range(wanted)]
    with ThreadPoolExecutor(max(1, data.workers)) as pool:
        for start in range(0, wanted, AT_ONCE):
            for made in pool.map(lambda place: maker(*place), places[start : start + AT_ONCE]):
                yield Example(made.image, made.mask, known=True)


def _real(
    data: FeatureDataModule, detector: TrainedDetector, labelled: Sequence[Sample], tiling: Tiling | None
) -> Iterator[Example]:
    """Real defects, each in several versions: shifted, and in other light."""
    if not labelled:
        return
    shown = _shown(labelled, tiling)
    versions, rng = min(VERSIONS, max(1, round(detector.known / len(shown)))), np.random.default_rng(data.images.seed)
    transform = data.transform
    for sample, box in shown:
        image = transform.read(sample.path)
        mask = np.zeros((image.height, image.width), bool) if sample.mask is None else read_mask(sample.mask)
        if box is not None:
            if mask.shape != (image.height, image.width):
                raise ImageError(sample.path, "its mask is of another size than the image")
            image, mask = crop(image, box), _part(mask, box)
        levels, small = transform.levels(transform(image)), transform.mask(mask)
        for _ in range(versions):
            yield Example(*varied_with(levels, small, rng), known=sample.mask is not None)


def _shown(labelled: Sequence[Sample], tiling: Tiling | None) -> list[tuple[Sample, Box | None]]:
    """The images that are learned from; with tiles those that show a defect, as the training normals are cut.

    Raises:
        UserError: There is no such tile. Of a defect without a mask none is known.
    """
    if tiling is None:
        return [(sample, None) for sample in labelled]
    found: list[tuple[Sample, Box | None]] = []
    for sample in labelled:
        mask = None if sample.mask is None else read_mask(sample.mask)
        boxes = [] if mask is None else tiling.boxes((mask.shape[0], mask.shape[1]))
        found += [(sample, box) for box in boxes if mask is not None and _part(mask, box).any()]
    if not found:
        raise UserError(
            f"labelled_defects: none of {len(labelled)} images has a mask with a defect. Expected one at least: with "
            "data.tile a detector learns from the tiles that show a defect. Add masks beside the images."
        )
    return found


def _part(mask: NDArray[np.bool_], box: Box) -> NDArray[np.bool_]:
    """One tile of a mask (H, W) bool."""
    top, left, height, width = box
    return mask[top : top + height, left : left + width]
