"""From a composed config to objects; the only file that instantiates, so that commands and tests build alike."""

import logging
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from anomaly_lightning.data import sources
from anomaly_lightning.data.datamodule import MVNetDataModule
from anomaly_lightning.data.hashes import ContentHashes
from anomaly_lightning.data.tiling import tiled_splits
from anomaly_lightning.data.white import find_white
from anomaly_lightning.detectors.base import TrainedDetector
from anomaly_lightning.errors import UserError
from anomaly_lightning.features.backbone import Backbone
from anomaly_lightning.features.datamodule import FeatureDataModule
from anomaly_lightning.features.extractor import FeatureExtractor
from anomaly_lightning.features.housekeeping import limit_bytes, trim
from anomaly_lightning.features.store import DiskStore, FeatureStore, MemoryStore
from anomaly_lightning.features.weights import resolve_backbone
from anomaly_lightning.model import AnomalyModel
from anomaly_lightning.places import CONFIG_DIR, FEATURES
from anomaly_lightning.runtime.card import (
    ModelCard,
)
from anomaly_lightning.runtime.tiles import Tiling
from anomaly_lightning.runtime.transform import ImageTransform
from anomaly_lightning.training.checkpoint import assemble
from anomaly_lightning.training.module import AnomalyModule, Localising

logger = logging.getLogger(__name__)

CACHE_MODES = ("disk", "memory", "off")
SEEDS = 2**32  # that numpy takes
WATCHING = ("best", "stopping", "pruning")  # callbacks that need a loss to watch

Built = tuple[MVNetDataModule, sources.Resolved]
"""Splits of a category, and what its images were resolved to."""


def plain(node: Any) -> Any:
    """A config node as plain Python values, interpolations resolved."""
    return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node


def build_backbone(cfg: DictConfig) -> Backbone:
    """The backbone that is given, or the one that `auto` stands for here."""
    config = plain(cfg.backbone)
    if config["name"] == "auto":
        config = plain(OmegaConf.load(CONFIG_DIR / "backbone" / f"{resolve_backbone('auto')}.yaml"))
    return Backbone(**config)


def build_extractor(cfg: DictConfig) -> FeatureExtractor:
    """Backbone and pooling to one grid."""
    return FeatureExtractor(build_backbone(cfg), **plain(cfg.features))


def build_datamodule(cfg: DictConfig, backbone: Backbone) -> Built:
    """Splits of the category, and what its images were resolved to."""
    data = plain(cfg.data)
    seen = (data["image_size"], backbone.mean, backbone.std, data["resize"])
    resolved = sources.resolve(data, cfg.category.name, Path(cfg.cache.dir))
    datamodule = MVNetDataModule(
        resolved.category,
        ImageTransform(*seen),
        split=data["split"],
        validation_share=data["validation_share"],
        selection_share=data["selection_share"],
        batch_size=data["batch_size"],
        workers=data["workers"] if cfg.cache.mode == "off" else 0,
        seed=data["seed"],
        on_corrupt=data["on_corrupt"],
        shots=data["shots"],
        content_hash=hashes_for(cfg.cache),
    )
    white = find_white(data["white"], [sample.path for sample in datamodule.splits.train])
    datamodule.transform = ImageTransform(*seen, white)
    if cfg.test:
        datamodule.check_masks()
    if data["tile"] is not None:
        tiling = Tiling.from_config(data["tile"], data["tile_overlap"])
        cut_into_tiles(datamodule, tiling, Path(cfg.cache.dir))
    return datamodule, resolved


def hashes_for(cache: DictConfig) -> ContentHashes:
    """Hashes of files, kept between runs where features are; a command without features (export) has no mode."""
    return ContentHashes(Path(cache.dir) if cache.get("mode", "disk") == "disk" else None)


def cut_into_tiles(datamodule: MVNetDataModule, tiling: Tiling, cache: Path) -> None:
    """Put tiles in the place of the images of a datamodule.

    Raises:
        DataError: An image can't be cut and `data.on_corrupt` is not skip.
    """
    splits, unreadable, unknown = tiled_splits(
        datamodule.splits, tiling, cache, datamodule.transform.white, datamodule.content_hash
    )
    if unreadable:
        datamodule.leave_out(unreadable)
    datamodule.untested = unknown
    datamodule.splits = splits
    whole = replace(datamodule.category, train=splits.normals, test=splits.test)
    datamodule.category = whole


def store_for(
    extractor: FeatureExtractor, transform: ImageTransform, mode: str, folder: Path, dtype: str
) -> FeatureStore:
    """Store for the features that this extractor makes of images that went through this transform."""
    shape = extractor.shape(transform.size)
    if mode == "memory":
        return MemoryStore(shape, dtype)
    backbone = extractor.backbone
    spec = {
        "backbone": backbone.name,
        "weights_sha256": backbone.weights_sha256,
        "layers": list(backbone.layers),
        "neighbourhood": extractor.alignment.neighbourhood,
        "grid": list(shape[1:]),
        "coarse": extractor.alignment.coarse,
        "precision": extractor.precision.name,
        "groups": extractor.alignment.groups,
        "transform": transform.card().to_dict(),
        "libraries": {name: version(name) for name in ("torchvision", "pillow")},  # they decide the resize
    }
    return DiskStore(folder / FEATURES, spec, shape, dtype)


def build_data(
    cfg: DictConfig,
    datamodule: MVNetDataModule,
    model: AnomalyModel,
    on_progress: Callable[[int, int], None] | None = None,
) -> MVNetDataModule | FeatureDataModule:
    """Datamodule to train from: features out of a store, or images where `cache.mode=off` or the detector sees them."""
    if cfg.cache.mode not in CACHE_MODES:
        raise UserError(f"cache.mode={cfg.cache.mode}: expected one of {', '.join(CACHE_MODES)}.")
    if cfg.cache.mode == "off" or model.detector.inputs == "images":
        datamodule.workers = cfg.data.workers  # nothing else decodes
        return datamodule
    if cfg.cache.mode == "disk":
        trim(Path(cfg.cache.dir) / FEATURES, limit_bytes(cfg.cache.max_gb))
    extractor, workers = model.extractor, max(1, cfg.data.workers)
    store = store_for(extractor, datamodule.transform, cfg.cache.mode, Path(cfg.cache.dir), cfg.cache.dtype)
    shuffle_gb = float(cfg.data.shuffle_gb)
    if not shuffle_gb > 0:
        raise UserError(f"data.shuffle_gb={cfg.data.shuffle_gb}: expected a number of gigabytes above 0.")
    return FeatureDataModule(
        datamodule, extractor, store, workers=workers, on_progress=on_progress, shuffle_gb=shuffle_gb
    )


def build_module(cfg: DictConfig, card: ModelCard, extractor: FeatureExtractor) -> AnomalyModule:
    """Module with a fresh detector, as the card describes it."""
    model = assemble(card, extractor, trust=[card.detector.target.partition(".")[0]])
    second = None if model.localiser is None else model.localiser.detector
    localising = _localising(cfg.localiser) if isinstance(second, TrainedDetector) else None
    if not isinstance(model.detector, TrainedDetector):
        return AnomalyModule(model, card, localising=localising)
    settings = {
        "data.batch_size": cfg.data.batch_size,
        "trainer.precision": str(cfg.trainer.precision),
        "optimizer": plain(cfg.optimizer),
    }
    return AnomalyModule(model, card, instantiate(cfg.optimizer), settings, localising)


# Options that torch or Lightning would refuse without naming them, or late, or not at all: kind, and the least value.
NUMBERS: dict[str, tuple[type, int]] = {
    "bootstrap": (int, 0),
    "data.batch_size": (int, 1),
    "data.workers": (int, 0),
    "localiser.batch_size": (int, 1),
    "localiser.steps": (int, 1),
    "optimizer.lr": (float, 0),
    "scoring.sigma": (float, 0),
    "trainer.max_epochs": (int, -1),
}


def check_numbers(cfg: DictConfig) -> None:
    """Refuse numbers that make no sense, before anything is done.

    Raises:
        UserError: `seed`, or one of `NUMBERS`, is none.
    """
    if not isinstance(cfg.seed, int) or not 0 <= cfg.seed < SEEDS:
        raise UserError(f"seed={cfg.seed}: expected a whole number from 0 to {SEEDS - 1}.")
    for name, (kind, least) in NUMBERS.items():
        value: Any = OmegaConf.select(cfg, name)
        fits = isinstance(value, int) or (kind is float and isinstance(value, float))
        if value is not None and (not fits or value < least):
            whole = "whole " if kind is int else ""
            raise UserError(f"{name}={value}: expected a {whole}number of {least} or more.")


def _localising(block: DictConfig) -> Localising:
    return Localising(instantiate(block.optimizer), block.steps, block.batch_size)


def build_trainer(cfg: DictConfig, players: int) -> pl.Trainer:
    """Trainer with the named callbacks and loggers.

    Only where one player minimises one loss does that loss tell which epoch is best. Without a player, one epoch in one
    process is all there is to do.

    Args:
        cfg: The run's config.
        players: How many players the detector has; 0 for methods without gradients.
    """
    callbacks = {name: node for name, node in cfg.callbacks.items() if players == 1 or name not in WATCHING}
    changes = {} if players else {"max_epochs": 1, **_one_process(cfg.trainer)}
    return instantiate(
        cfg.trainer,
        **changes,
        default_root_dir=cfg.run_dir,
        callbacks=[instantiate(node) for node in callbacks.values() if node],
        logger=[instantiate(node) for node in cfg.logger.values() if node],
        enable_progress_bar=False,
    )


def in_one_process(trainer: DictConfig) -> bool:
    """Whether the settings of a trainer ask for one process."""
    devices = plain(trainer.devices)
    one = devices in (1, "1") or (isinstance(devices, list) and len(devices) == 1)
    return bool(trainer.num_nodes == 1 and one)


def _one_process(trainer: DictConfig) -> dict[str, Any]:
    """Changes that make one process of several: a single pass has no gradients to share, and DDP refuses it."""
    if in_one_process(trainer):
        return {}
    logger.warning("This method is fitted in one pass without gradients: one process does it, on one device.")
    return {"devices": 1, "num_nodes": 1, "strategy": "auto"}
