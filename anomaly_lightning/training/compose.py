"""From a composed config to objects; the only file that instantiates, so that commands and tests build alike."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from anomaly_lightning import __version__
from anomaly_lightning.cache import FEATURES, limit_bytes
from anomaly_lightning.cli import CONFIG_DIR
from anomaly_lightning.data import sources
from anomaly_lightning.data.datamodule import MVNetDataModule
from anomaly_lightning.data.samples import Sample
from anomaly_lightning.data.tiling import tiled_splits
from anomaly_lightning.data.white import find_white
from anomaly_lightning.errors import UserError
from anomaly_lightning.features.backbone import Backbone, FeatureExtractor
from anomaly_lightning.features.datamodule import FeatureDataModule
from anomaly_lightning.features.store import DiskStore, FeatureStore, MemoryStore, trim
from anomaly_lightning.features.weights import resolve_backbone
from anomaly_lightning.runtime.reading import ImageError, image_size
from anomaly_lightning.runtime.region import Region
from anomaly_lightning.runtime.tiles import Tiling
from anomaly_lightning.runtime.transform import ImageTransform
from anomaly_lightning.scoring import RegionScoring, Scoring
from anomaly_lightning.training.checkpoint import FORMAT, create_detector
from anomaly_lightning.training.module import AnomalyModule

logger = logging.getLogger(__name__)

CACHE_MODES = ("disk", "memory", "off")


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


def build_images(cfg: DictConfig, backbone: Backbone) -> tuple[MVNetDataModule, sources.Resolved]:
    """Splits of the category, and what its images were resolved to."""
    data = plain(cfg.data)
    seen = (data["image_size"], backbone.mean, backbone.std, data["resize"])
    resolved = sources.resolve(data, cfg.category.name, Path(cfg.cache.dir))
    images = MVNetDataModule(
        resolved.category,
        ImageTransform(*seen),
        split=data["split"],
        validation_share=data["validation_share"],
        batch_size=data["batch_size"],
        workers=data["workers"] if cfg.cache.mode == "off" else 0,
        seed=data["seed"],
        on_corrupt=data["on_corrupt"],
    )
    white = find_white(data["white"], [sample.path for sample in images.splits.train])
    images.transform = ImageTransform(*seen, white)
    cut_into_tiles(images, data["tile"], data["tile_overlap"], Path(cfg.cache.dir))
    return images, resolved


def cut_into_tiles(images: MVNetDataModule, tile: Any, overlap: int, cache: Path) -> Tiling | None:
    """Put tiles in the place of the images of a datamodule, where `data.tile` is given; returns how they were cut.

    Raises:
        DataError: No such tiling, or an image can't be cut and `data.on_corrupt` is not skip.
    """
    if tile is None:
        return None
    tiling = Tiling.from_config(tile, overlap)
    splits, unreadable, unknown = tiled_splits(images.splits, tiling, cache, images.transform.white)
    if unreadable:
        images.leave_out(unreadable)
    for path in unknown:
        logger.warning("data.tile: %s shows a defect but has no mask: its tiles are not tested on", path)
    images.splits = splits
    images.category = replace(images.category, train=splits.train + splits.validation, test=splits.test)
    return tiling


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
        "taps": list(backbone.taps),
        "neighbourhood": extractor.neighbourhood,
        "grid": list(shape[1:]),
        "coarse": extractor.coarse,
        "precision": extractor.precision.name,
        "transform": transform.card().to_dict(),
        "libraries": {name: version(name) for name in ("torchvision", "pillow")},  # they decide the resize
    }
    return DiskStore(folder / FEATURES, spec, shape, dtype)


def build_data(
    cfg: DictConfig,
    images: MVNetDataModule,
    extractor: FeatureExtractor,
    on_progress: Callable[[int, int], None] | None = None,
) -> MVNetDataModule | FeatureDataModule:
    """Datamodule to train from: features out of a store, or images where `cache.mode=off`."""
    if cfg.cache.mode not in CACHE_MODES:
        raise UserError(f"cache.mode={cfg.cache.mode}: expected one of {', '.join(CACHE_MODES)}.")
    if cfg.cache.mode == "off":
        return images
    if cfg.cache.mode == "disk":
        trim(Path(cfg.cache.dir) / FEATURES, limit_bytes(cfg.cache.max_gb))
    store = store_for(extractor, images.transform, cfg.cache.mode, Path(cfg.cache.dir), cfg.cache.dtype)
    return FeatureDataModule(images, extractor, store, workers=max(1, cfg.data.workers), on_progress=on_progress)


def build_module(cfg: DictConfig, extractor: FeatureExtractor, transform: ImageTransform) -> AnomalyModule:
    """Module with a fresh detector, and the settings that make its checkpoints self-contained."""
    model, scoring = plain(cfg.model), plain(cfg.scoring)
    shape = extractor.shape(transform.size)
    detector = create_detector(model, trust=[str(model["_target_"]).partition(".")[0]])
    detector.build(shape)
    optimizer = instantiate(cfg.optimizer) if detector.trainable else None
    module = AnomalyModule(extractor, detector, Scoring(**scoring), transform.size, optimizer)
    module.settings = {
        "format": FORMAT,
        "version": __version__,
        "category": str(cfg.category.name),
        "backbone": extractor.backbone.config,
        "weights_sha256": extractor.backbone.weights_sha256,
        "weights_source": extractor.backbone.weights_source,
        "features": plain(cfg.features),
        "transform": transform.card().to_dict(),
        "model": model,
        "scoring": scoring,
        "shape": list(shape),
        "split": str(cfg.data.split),
        "seed": int(cfg.data.seed),
    }
    return module


def look_at_region(cfg: DictConfig, module: AnomalyModule, images: MVNetDataModule) -> None:
    """Let a module look at `data.roi` alone, where that is given, and refuse images that it does not fit.

    Raises:
        DataError: The region makes no sense, or an image has another size.
    """
    given = plain(cfg.data)["roi"]
    if given is None:
        return
    if cfg.data.tile is not None:
        raise UserError("data.roi and data.tile don't go together: a tile has no place of its own to look at.")
    roi = Region.from_config(given, image_size(images.splits.train[0].path))
    module.scoring = RegionScoring.of(module.scoring, roi, images.transform)
    module.settings["roi"] = roi.card().to_dict()
    check_region(module, images.samples())


def check_region(module: AnomalyModule, samples: Sequence[Sample]) -> None:
    """Raise `DataError` for the first image that does not fit the module's region; unreadable ones are left alone."""
    if not isinstance(module.scoring, RegionScoring) or module.scoring.roi is None:
        return
    for sample in samples:
        try:
            size = image_size(sample.path)
        except ImageError:
            continue
        module.scoring.roi.check(size, sample.path)


def build_trainer(cfg: DictConfig, trainable: bool) -> pl.Trainer:
    """Trainer with the named callbacks and loggers; methods without gradients take one epoch in one process."""
    callbacks = {name: node for name, node in cfg.callbacks.items() if trainable or name not in ("best", "stopping")}
    changes = {} if trainable else {"max_epochs": 1, **_one_process(cfg.trainer)}
    return instantiate(
        cfg.trainer,
        **changes,
        default_root_dir=cfg.run_dir,
        callbacks=[instantiate(node) for node in callbacks.values() if node],
        logger=[instantiate(node) for node in cfg.logger.values() if node],
        enable_progress_bar=False,
    )


def _one_process(trainer: DictConfig) -> dict[str, Any]:
    """Changes that make one process of several: a single pass has no gradients to share, and DDP refuses it."""
    devices = plain(trainer.devices)
    if trainer.num_nodes == 1 and (devices in (1, "1") or (isinstance(devices, list) and len(devices) == 1)):
        return {}
    logger.warning("This method is fitted in one pass without gradients: one process does it, on one device.")
    return {"devices": 1, "num_nodes": 1, "strategy": "auto"}
