"""From config, network and data to the model card: what the model of a run is, before it is trained."""

from collections.abc import Sequence
from typing import Any

from omegaconf import DictConfig

from anomaly_lightning import __version__
from anomaly_lightning.data import sources
from anomaly_lightning.data.datamodule import MVNetDataModule
from anomaly_lightning.data.samples import Sample
from anomaly_lightning.errors import UserError
from anomaly_lightning.features.extractor import FeatureExtractor
from anomaly_lightning.reports.run_files import versions
from anomaly_lightning.runtime.card import (
    SCHEMA,
    BackboneCard,
    DataCard,
    DetectorCard,
    FeaturesCard,
    LocaliserCard,
    ModelCard,
    RegionCard,
    ScoringCard,
)
from anomaly_lightning.runtime.reading import ImageError, image_size
from anomaly_lightning.runtime.region import Region
from anomaly_lightning.runtime.tiles import Tiling
from anomaly_lightning.training.compose import in_one_process, plain


def build_card(
    cfg: DictConfig, extractor: FeatureExtractor, datamodule: MVNetDataModule, resolved: sources.Resolved
) -> ModelCard:
    """What the model of this run is; thresholds and validity are added when they are known."""
    backbone, transform, data = extractor.backbone, datamodule.transform, plain(cfg.data)
    tiling = None if data["tile"] is None else Tiling.from_config(data["tile"], data["tile_overlap"]).card()
    return ModelCard(
        schema=SCHEMA,
        version=__version__,
        category=str(cfg.category.name),
        seed=int(cfg.seed),
        transform=transform.card(),
        backbone=BackboneCard(
            name=backbone.name,
            arguments=backbone.arguments,
            weights_sha256=backbone.weights_sha256,
            weights_source=backbone.weights_source,
        ),
        features=FeaturesCard(
            arguments=plain(cfg.features), dtype=str(cfg.cache.dtype), shape=extractor.shape(transform.size)
        ),
        detector=_detector(plain(cfg.model)),
        scoring=_scoring(cfg),
        data=DataCard(
            fingerprint=datamodule.fingerprint,
            places=dict(resolved.settings),
            split=datamodule.split,
            validation_share=float(data["validation_share"]),
            selection_share=float(data["selection_share"]),
            seed=int(data["seed"]),
            shots=data["shots"],
        ),
        localiser=_localiser(cfg),
        region=_region(cfg, datamodule),
        tiling=tiling,
        versions=versions(),
    )


def _detector(block: dict[str, Any]) -> DetectorCard:
    return DetectorCard(target=str(block["_target_"]), arguments={k: block[k] for k in block if k != "_target_"})


def _scoring(cfg: DictConfig) -> ScoringCard:
    block = plain(cfg.scoring)
    if not 0 <= block["mask_share"] < 1:
        raise UserError(
            f"scoring.mask_share={block['mask_share']}: expected 0 (all above the threshold) or more, below 1."
        )
    return ScoringCard(**block)


def _localiser(cfg: DictConfig) -> LocaliserCard | None:
    block = plain(cfg.localiser)
    possible = cfg.cache.mode != "off" and in_one_process(cfg.trainer)
    if block["detector"] is None or (block["auto"] and not possible):
        return None
    return LocaliserCard(detector=_detector(block["detector"]), floor=float(block["floor"]))


def _region(cfg: DictConfig, datamodule: MVNetDataModule) -> RegionCard | None:
    """The region that `data.roi` sets; None where it sets none.

    Raises:
        DataError: The region makes no sense, or an image has another size.
    """
    given = plain(cfg.data)["roi"]
    if given is None:
        return None
    if cfg.data.tile is not None:
        raise UserError("data.roi and data.tile don't go together: a tile has no place of its own to look at.")
    region = Region.from_config(given, image_size(datamodule.splits.train[0].path))
    check_region(region, datamodule.samples())
    return region.card()


def check_region(region: Region, samples: Sequence[Sample]) -> None:
    """Raise `DataError` for the first image that does not fit the region; unreadable ones are left alone."""
    for sample in samples:
        try:
            size = image_size(sample.path)
        except ImageError:
            continue
        region.check(size, sample.path)
