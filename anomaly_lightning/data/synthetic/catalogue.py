"""Which categories there are: how each is drawn, lit and broken."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from anomaly_lightning.data.synthetic import defects, object_defects, objects, textures
from anomaly_lightning.data.synthetic.defects import Defect
from anomaly_lightning.data.synthetic.noise import Size
from anomaly_lightning.data.synthetic.object_defects import on_body
from anomaly_lightning.data.synthetic.scene import Light, Scene


@dataclass(frozen=True)
class Recipe:
    """How one category is made.

    Attributes:
        draw: Draws a good specimen of a size (H, W).
        defects: What can go wrong, by name.
        light: How light and camera vary.
        faint: Strength of its faintest defects; the plainest have 1.
    """

    draw: Callable[[np.random.Generator, Size], Scene]
    defects: Mapping[str, Defect]
    light: Light = field(default_factory=Light)
    faint: float = 0.15


RECIPES: Mapping[str, Recipe] = {
    "bottle": Recipe(
        objects.bottle,
        {
            "broken_large": on_body(object_defects.broken_large),
            "broken_small": on_body(object_defects.broken_small),
            "contamination": on_body(object_defects.contamination),
        },
    ),
    "carpet": Recipe(
        textures.carpet,
        {
            "color": defects.stain,
            "cut": defects.cut,
            "hole": defects.hole,
            "metal_contamination": defects.metal,
            "thread": defects.thread,
        },
        faint=0.3,
    ),
    "grid": Recipe(
        textures.wire_mesh,
        {
            "bent": defects.bent,
            "broken": defects.broken_wire,
            "glue": defects.glue,
            "metal_contamination": defects.metal,
            "thread": defects.thread,
        },
        faint=0.3,
    ),
    "hazelnut": Recipe(
        objects.hazelnut,
        {
            "crack": on_body(defects.crack),
            "cut": on_body(defects.cut),
            "hole": on_body(defects.hole),
            "print": object_defects.nut_print,
        },
    ),
    "leather": Recipe(
        textures.leather,
        {
            "color": defects.stain,
            "cut": defects.cut,
            "fold": defects.fold,
            "glue": defects.glue,
            "poke": defects.poke,
        },
        faint=0.35,
    ),
    "screw": Recipe(
        objects.screw,
        {
            "manipulated_front": object_defects.manipulated_front,
            "scratch_head": object_defects.scratch_head,
            "scratch_neck": object_defects.scratch_neck,
            "thread_side": object_defects.thread_side,
            "thread_top": object_defects.thread_top,
        },
        light=Light(gradient=0.08, exposure=0.05, tint=0.008, noise=1.6),
        faint=0.45,
    ),
    "tile": Recipe(
        textures.tile,
        {
            "crack": defects.crack,
            "glue_strip": defects.strip,
            "oil": defects.oil,
            "rough": defects.rough,
        },
        faint=0.35,
    ),
    "wood": Recipe(
        textures.wood,
        {
            "color": defects.stain,
            "hole": defects.hole,
            "liquid": defects.oil,
            "scratch": defects.scratch,
        },
    ),
}
