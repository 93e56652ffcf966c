"""What many tests need: a small category in MVNet layout, and the command lines run inside the test's process."""

import contextlib
import functools
import importlib
import io
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig
from PIL import Image

from anomaly_lightning.configs import register_resolvers
from anomaly_lightning.places import CONFIG_DIR
from anomaly_lightning.runtime.card import (
    SCHEMA,
    BackboneCard,
    DataCard,
    DetectorCard,
    FeaturesCard,
    ModelCard,
    ScoringCard,
    ThresholdsCard,
)
from anomaly_lightning.runtime.transform import ImageTransform

HEIGHT, WIDTH = 60, 84  # not square, and not the shape that the backbone sees either
DEFECTS = {"scratch": 3, "spot": 4}
COUNTS = {"train": 12, "validation": 3, "test_good": 5, "test_defect": 7}

# Seconds, not minutes: random backbone, 64 x 48 pixels, 8 x 6 positions, two epochs.
SMALL = (
    "debug=fast",
    "data.image_size=[64,48]",
    "features.grid=[8,6]",
    "model.network.width=8",
    "model.network.latent=4",
    "trainer.accelerator=cpu",
)
# Neither images nor logs, where a test looks at numbers alone.
BARE = ("callbacks.panels=null", "callbacks.heatmaps=null", "logger.tensorboard=null", "logger.history=null")


def card(transform: ImageTransform, **changed: Any) -> ModelCard:
    """A model card for an engine made by hand; both thresholds are 0."""
    made = ModelCard(
        schema=SCHEMA,
        version="",
        category="toy",
        seed=0,
        transform=transform.card(),
        backbone=BackboneCard("", {}, "", ""),
        features=FeaturesCard({}, "float32", (0, 0, 0)),
        detector=DetectorCard("", {}),
        scoring=ScoringCard(0.0, "max", 1.0),
        data=DataCard("", {}, "official", 0.2, 0),
        thresholds=ThresholdsCard(score=0.0, pixel=0.0),
    )
    return made.replace(**changed)


def texture(rng: np.random.Generator, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """(H, W, 3) uint8: a slope that differs along both axes, and noise."""
    rows, columns = np.mgrid[0:height, 0:width]
    slope = 90 + 60 * columns / width + 20 * np.sin(rows / 5)
    noisy = slope[..., None] + rng.normal(0, 6, (height, width, 3)) + rng.normal(0, 3, 3)
    return noisy.clip(0, 255).astype(np.uint8)


def save(values: np.ndarray, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)
    return path


def make_category(root: Path, name: str = "widget", normals: int = 15, test_good: int = 5, seed: int = 0) -> Path:
    """Write <root>/<name> in MVNet layout; every image differs, every defect has its mask."""
    rng, folder = np.random.default_rng(seed), root / name
    for number in range(normals):
        save(texture(rng), folder / "train" / "good" / f"{number}.png")
    for number in range(test_good):
        save(texture(rng), folder / "test" / "good" / f"{number}.png")
    for defect, count in DEFECTS.items():
        for number in range(count):
            values, mask = texture(rng), np.zeros((HEIGHT, WIDTH), np.uint8)
            top, left = int(rng.integers(0, HEIGHT - 12)), int(rng.integers(0, WIDTH - 30))
            box = (
                np.s_[top : top + 10, left : left + 28]
                if defect == "scratch"
                else np.s_[top : top + 9, left : left + 9]
            )
            values[box], mask[box] = (250, 20, 20), 255
            save(values, folder / "test" / defect / f"{number}.png")
            save(mask, folder / "ground_truth" / defect / f"{number}_mask.png")
    return folder


def composed(*overrides: str, config: str = "train", with_hydra: bool = False) -> DictConfig:
    """A config as the command line would compose it; a copy, to be changed at will."""
    return _composed(overrides, config, with_hydra).copy()


@functools.cache
def _composed(overrides: tuple[str, ...], config: str, with_hydra: bool) -> DictConfig:
    register_resolvers()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        return compose(config, overrides=list(overrides), return_hydra_config=with_hydra)


@dataclass(frozen=True)
class Ran:
    """What a command left: its exit status, and what it printed to both streams."""

    code: int
    out: str


@contextlib.contextmanager
def inside(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def command(name: str, *arguments: str, cwd: Path) -> Ran:
    """Run `python -m anomaly_lightning.<name> <arguments>` within this process."""
    main = importlib.import_module(f"anomaly_lightning.{name}").main
    stream, argv = io.StringIO(), sys.argv
    code = 0
    sys.argv = [f"anomaly_lightning/{name}.py", *arguments]
    try:
        with inside(cwd), contextlib.redirect_stdout(stream), contextlib.redirect_stderr(stream):
            main()
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    finally:
        sys.argv = argv
        GlobalHydra.instance().clear()
    return Ran(code, stream.getvalue())


def flat(text: str) -> str:
    """Text on one line, without frames: a terminal's width breaks lines anywhere."""
    return " ".join(text.replace("│", " ").split())
