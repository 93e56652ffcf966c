"""What can go wrong with objects only, where it matters which part of them it is: bottle, screw, hazelnut."""

from dataclasses import replace

import numpy as np
from scipy.ndimage import gaussian_filter

from anomaly_lightning.data.synthetic.defects import Defect
from anomaly_lightning.data.synthetic.noise import Field, pixel, smooth_noise
from anomaly_lightning.data.synthetic.objects import SCREW_CORE
from anomaly_lightning.data.synthetic.scene import Scene
from anomaly_lightning.data.synthetic.shapes import blob, cover, path, place, shard, stroke, warp
from anomaly_lightning.data.synthetic.textures import blend, colour, painted


def on_body(defect: Defect) -> Defect:
    """The same defect, kept from running over the object's outline onto the ground."""

    def kept(scene: Scene, rng: np.random.Generator, strength: float) -> Scene:
        changed, body = defect(scene, rng, strength), scene.parts["body"]
        return replace(
            changed,
            albedo=np.where(body[..., None], changed.albedo, scene.albedo),
            height=np.where(body, changed.height, scene.height),
            gloss=np.where(body, changed.gloss, scene.gloss),
        )

    return kept


def broken_large(scene: Scene, rng: np.random.Generator, strength: float) -> Scene:
    """A piece broken out of the bottle's lip, tens of units wide."""
    return _chipped(scene, rng, 13 + 14 * strength, strength)


def broken_small(scene: Scene, rng: np.random.Generator, strength: float) -> Scene:
    """A chip off the bottle's lip, a few units wide."""
    return _chipped(scene, rng, 3.5 + 5 * strength, strength)


def _chipped(scene: Scene, rng: np.random.Generator, radius: float, strength: float) -> Scene:
    """Glass missing around a place on the lip: a dull hollow with bright, faceted edges."""
    frayed = 0.05 * radius * smooth_noise(rng, scene.size, max(4, radius / 2))
    depth = shard(rng, scene.size, place(scene, rng, "lip"), radius) + frayed
    inside = cover(depth, scene.size)
    facets = 0.5 + 0.5 * np.clip(smooth_noise(rng, scene.size, max(3, 0.6 * radius)), -1, 1)
    rim = np.exp(-((depth / 1.6) ** 2)) * facets
    hollow = painted(np.asarray(0.05 + 0.16 * facets, dtype=np.float32), colour(1.0, 0.72, 0.42))
    albedo = blend(scene.albedo, hollow, inside * (0.55 + 0.4 * min(strength, 1)))
    albedo = albedo + painted((0.15 + 0.55 * strength) * rim, colour(1.0, 0.95, 0.85))
    return replace(scene, albedo=np.clip(albedo, 0, 1))


def contamination(scene: Scene, rng: np.random.Generator, strength: float) -> Scene:
    """Dirt in the bottle's mouth or on its wall: a pale crumb or a milky film."""
    depth = blob(rng, scene.size, place(scene, rng, "all"), 4 + rng.uniform(2, 12) * strength, 0.5)
    texture = 0.75 + 0.15 * smooth_noise(rng, scene.size, 4)
    dirt = painted(texture.astype(np.float32), colour(0.62, 0.56, 0.44))
    amount = cover(depth, scene.size, 2) * (0.12 + 0.55 * strength)
    return replace(scene, albedo=blend(scene.albedo, dirt, np.clip(amount, 0, 1)))


def scratch_head(scene: Scene, rng: np.random.Generator, strength: float) -> Scene:
    """Scratches on the screw's head."""
    return _scored(scene, rng, strength, "head", 12)


def scratch_neck(scene: Scene, rng: np.random.Generator, strength: float) -> Scene:
    """Scratches on the smooth part below the screw's head."""
    return _scored(scene, rng, strength, "neck", 9)


def _scored(scene: Scene, rng: np.random.Generator, strength: float, part: str, length: float) -> Scene:
    """A few short lines on a part of the object, each pale or dark, and a scuffed patch around them."""
    middle = place(scene, rng, part)
    on_part = gaussian_filter((scene.parts["all"]).astype(np.float32), 0.6 / pixel(scene.size))
    scuff = cover(blob(rng, scene.size, middle, 4 + 5 * strength, 0.6), scene.size, 3) * on_part
    albedo = blend(scene.albedo, colour(0.66, 0.64, 0.62), scuff * (0.10 + 0.45 * strength))
    for _ in range(rng.integers(2, 5)):
        near = (middle[0] + rng.normal(0, 2.5), middle[1] + rng.normal(0, 2.5))
        depth = stroke(path(rng, near, length * (0.6 + 0.8 * strength), 0.5), scene.size, 1.5 + 1.5 * strength)
        tone = colour(0.95, 0.95, 0.95) if rng.random() < 0.6 else colour(0.05, 0.05, 0.05)
        albedo = blend(albedo, tone, cover(depth, scene.size, 0.8) * on_part * (0.25 + 0.6 * min(strength, 1)))
    return replace(scene, albedo=albedo)


def manipulated_front(scene: Scene, rng: np.random.Generator, strength: float) -> Scene:
    """The screw's tip bent aside or broken off."""
    if rng.random() < 0.5:
        missing = cover(scene.u - np.float32(94 - 6 - 24 * strength) + 0.25 * scene.v, scene.size)
        near = np.minimum(24 - np.abs(scene.v), 120 - scene.u)
        missing = missing * cover(near, scene.size, 10)
        ground = np.maximum(scene.behind, np.median(scene.behind, axis=(0, 1)))  # no tip, no shadow of it
        return replace(scene, albedo=blend(scene.albedo, ground, missing))
    beyond = np.clip(scene.u - 58, 0, None) * (np.abs(scene.v) < 40) * (scene.u < 125)
    aside = rng.choice([-1, 1]) * (0.10 + 0.45 * strength) * beyond * (1 + beyond / 40)
    down_v, right_v = _axis(scene, scene.v)
    return warp(scene, aside * down_v, aside * right_v)


def _axis(scene: Scene, coordinate: Field) -> tuple[float, float]:
    """Unit vector (down, right) in the image along which a coordinate of the object grows."""
    middle = (scene.size[0] // 2, scene.size[1] // 2)
    down = float(coordinate[middle] - coordinate[middle[0] - 1, middle[1]])
    right = float(coordinate[middle] - coordinate[middle[0], middle[1] - 1])
    length = float(np.hypot(down, right))
    return down / length, right / length


def thread_side(scene: Scene, rng: np.random.Generator, strength: float) -> Scene:
    """The crests of a few turns of the thread worn off on one side of the outline."""
    start, side = rng.uniform(-25, 40), rng.choice([-1, 1])
    within = 8 + 26 * strength - np.abs(scene.u - np.float32(start))
    worn = np.minimum(within, side * scene.v - np.float32(SCREW_CORE + 0.2 + 1.0 * (1 - min(strength, 1))))
    return replace(scene, albedo=blend(scene.albedo, scene.behind, cover(worn, scene.size)))


def thread_top(scene: Scene, rng: np.random.Generator, strength: float) -> Scene:
    """A few turns of the thread crushed flat on the face towards the camera."""
    depth = blob(rng, scene.size, place(scene, rng, "thread"), 7 + 9 * strength, 0.4)
    inside = cover(depth, scene.size, 2.5) * scene.parts["all"]
    flat = gaussian_filter(scene.albedo, (4 / pixel(scene.size), 4 / pixel(scene.size), 0))
    pale = flat * (1.1 + 0.4 * strength) + 0.14 * strength + 0.03 * smooth_noise(rng, scene.size, 4)[..., None]
    albedo = blend(scene.albedo, pale, inside)
    return replace(scene, albedo=np.clip(albedo, 0, 1))


def nut_print(scene: Scene, rng: np.random.Generator, strength: float) -> Scene:
    """A mark stamped in pale ink: a ring and a bar, as from a stray sorting stamp."""
    middle, radius = place(scene, rng), rng.uniform(9, 15)
    ring = 1.6 - np.abs(blob(rng, scene.size, middle, radius, 0.0))
    bar = stroke(path(rng, middle, 2.4 * radius, 0.05), scene.size, 3.0, pointed=False)
    worn = 0.75 + 0.25 * np.clip(smooth_noise(rng, scene.size, 4), -1, 1)
    mark = cover(np.maximum(ring, bar), scene.size) * scene.parts["all"] * worn
    return replace(scene, albedo=blend(scene.albedo, colour(0.88, 0.86, 0.80), mark * (0.15 + 0.55 * strength)))
