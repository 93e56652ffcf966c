"""What can go wrong, as functions (scene, rng, strength) -> scene; nothing here knows of light or camera.

`strength` in (0, 1.5] runs from faint to plain: it sets contrast and, for some, size.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from scipy.ndimage import gaussian_filter

from anomaly_lightning.data.synthetic.noise import Field, pixel, smooth_noise
from anomaly_lightning.data.synthetic.scene import Scene
from anomaly_lightning.data.synthetic.shapes import blob, cover, distance_to, path, place, shard, stroke, warp
from anomaly_lightning.data.synthetic.textures import blend, colour, painted

Defect = Callable[[Scene, np.random.Generator, float], Scene]

INKS = ((0.75, 0.12, 0.10), (0.10, 0.25, 0.65), (0.10, 0.45, 0.20), (0.85, 0.75, 0.15), (0.05, 0.05, 0.08))


def _painted_over(scene: Scene, ink: Field, amount: Field) -> Field:
    """The albedo with `ink` (3,) or (H, W, 3) laid over it by `amount` (H, W), cut to [0, 1]."""
    return np.asarray(np.clip(blend(scene.albedo, ink, np.clip(amount, 0, 1)), 0, 1), dtype=np.float32)


def stain(scene: Scene, rng: np.random.Generator, strength: float) -> Scene:
    """A patch of foreign colour that the surface has soaked up."""
    depth = blob(rng, scene.size, place(scene, rng), rng.uniform(8, 22), 0.6)
    ink = colour(*INKS[rng.integers(len(INKS))])
    amount = (0.18 + 0.55 * strength) * cover(depth, scene.size, 3)
    return replace(scene, albedo=_painted_over(scene, ink, amount))


def oil(scene: Scene, rng: np.random.Generator, strength: float) -> Scene:
    """A wet spot: darker, warmer, shinier, darkest at its rim."""
    depth = blob(rng, scene.size, place(scene, rng), rng.uniform(14, 34), 0.5)
    rim = np.exp(-((depth / 3) ** 2))
    amount = cover(depth, scene.size, 2) * (0.15 + 0.50 * strength) * (1 + 0.4 * rim)
    wet = scene.albedo * colour(0.45, 0.40, 0.25)
    shine = np.asarray(scene.gloss + 0.25 * cover(depth, scene.size, 3) * strength, dtype=np.float32)
    return replace(scene, albedo=_painted_over(scene, wet, amount), gloss=shine)


def cut(scene: Scene, rng: np.random.Generator, strength: float) -> Scene:
    """A slit by a blade: a dark line with raised lips, what lies behind showing in its middle."""
    points = path(rng, place(scene, rng), rng.uniform(16, 30) + 34 * strength, 0.35)
    width = rng.uniform(1.8, 2.4) + 2.2 * strength
    depth = stroke(points, scene.size, width)
    lips = np.exp(-(((depth + 2.0) / 1.8) ** 2)) * (depth > -6)
    opened = cover(depth, scene.size, 0.8) * (0.45 + 0.5 * strength)
    dark = scene.behind * 0.45
    height = scene.height - 1.5 * strength * opened + (0.2 + 0.9 * strength) * lips
    return replace(scene, albedo=_painted_over(scene, dark, opened), height=height.astype(np.float32))


def crack(scene: Scene, rng: np.random.Generator, strength: float) -> Scene:
    """A jagged dark line that forks."""
    start = place(scene, rng)
    trunk = path(rng, start, rng.uniform(40, 70) + 80 * strength, 1.4)
    fork = path(rng, (0.0, 0.0), rng.uniform(25, 60), 1.2)
    fork = fork - fork[0] + trunk[rng.integers(5, 15)]
    width = 1.2 + 2.2 * strength
    depth = np.maximum(stroke(trunk, scene.size, width), stroke(fork, scene.size, 0.8 * width))
    amount = cover(depth, scene.size, 0.8) * (0.35 + 0.6 * strength)
    lip = np.exp(-(((depth + 1.2) / 1.0) ** 2)) * 0.12 * strength
    albedo = np.clip(_painted_over(scene, scene.behind * 0.5, amount) + lip[..., None], 0, 1)
    return replace(scene, albedo=albedo.astype(np.float32))


def scratch(scene: Scene, rng: np.random.Generator, strength: float) -> Scene:
    """A few thin pale lines side by side."""
    middle, angle = place(scene, rng), rng.uniform(0, np.pi)
    albedo, height = scene.albedo, scene.height
    length = rng.uniform(20, 40) + 50 * strength
    for _ in range(rng.integers(1, 4)):
        near = (middle[0] + rng.normal(0, 4), middle[1] + rng.normal(0, 4))
        depth = stroke(path(rng, near, length * rng.uniform(0.6, 1), 0.25, angle), scene.size, 1.2 + 1.2 * strength)
        line = cover(depth, scene.size, 0.8)
        pale = np.clip(scene.albedo * 1.25 + 0.15, 0, 1)
        albedo = blend(albedo, pale, line * (0.3 + 0.6 * strength))
        height = height - 0.8 * strength * line
    return replace(scene, albedo=albedo, height=height.astype(np.float32))


def fold(scene: Scene, rng: np.random.Generator, strength: float) -> Scene:
    """A crease across the sheet: a long ridge, its back rubbed pale, a dark valley beside it."""
    points = path(rng, place(scene, rng), rng.uniform(70, 130), 0.5)
    away, along = distance_to(points, scene.size)
    fade = np.sin(np.pi * np.clip(along, 0.02, 0.98)) ** 0.5
    ridge = np.exp(-((away / (2.0 + 2.0 * strength)) ** 2)) * fade
    valley = np.exp(-(((away - 6) / 2.5) ** 2)) * fade
    height = scene.height + (1.1 + 2.6 * strength) * ridge - (0.3 + 1.0 * strength) * valley
    pale = np.clip(scene.albedo * 1.3 + 0.05, 0, 1)
    albedo = blend(scene.albedo, pale, (0.18 + 0.45 * strength) * ridge)
    return replace(scene, albedo=albedo, height=height.astype(np.float32))


def glue(scene: Scene, rng: np.random.Generator, strength: float) -> Scene:
    """A dried drop of glue: it fills the grain, shines and looks milky."""
    depth = blob(rng, scene.size, place(scene, rng), rng.uniform(6, 13) + 7 * strength, 0.5)
    inside = cover(depth, scene.size, 2.5)
    drop = np.sqrt(np.clip(depth, 0, 6)) * 0.5
    filled = gaussian_filter(scene.height, 3 / pixel(scene.size)) + drop
    height = scene.height + inside * (0.5 + 0.5 * min(strength, 1)) * (filled - scene.height)
    albedo = _painted_over(scene, colour(0.80, 0.76, 0.62), inside * (0.10 + 0.30 * strength))
    shine = np.asarray(scene.gloss + 0.5 * strength * inside, dtype=np.float32)
    return replace(scene, albedo=albedo, height=height.astype(np.float32), gloss=shine)


def poke(scene: Scene, rng: np.random.Generator, strength: float) -> Scene:
    """A hole pricked by a tool: small, round, dark, with a swollen edge."""
    depth = blob(rng, scene.size, place(scene, rng), 1.8 + 3.2 * strength, 0.15)
    inside = cover(depth, scene.size, 1.5)
    swollen = np.exp(-(((depth + 2.5) / 2.0) ** 2))
    height = scene.height + (0.8 * strength + 0.2) * swollen - 2.0 * inside
    amount = inside * (0.45 + 0.5 * min(strength, 1))
    return replace(scene, albedo=_painted_over(scene, scene.behind * 0.35, amount), height=height.astype(np.float32))


def hole(scene: Scene, rng: np.random.Generator, strength: float) -> Scene:
    """A ragged hole that shows what lies behind."""
    depth = blob(rng, scene.size, place(scene, rng), 4 + 9 * strength, 0.8)
    inside = cover(depth, scene.size)
    shaded = scene.behind * np.clip(0.35 + 0.05 * np.clip(depth, 0, 10), 0, 1)[..., None]
    height = scene.height * (1 - inside) - 1.5 * inside
    albedo = _painted_over(scene, shaded, inside * (0.6 + 0.4 * min(strength, 1)))
    return replace(scene, albedo=albedo, height=height.astype(np.float32), gloss=scene.gloss * (1 - inside))


def strip(scene: Scene, rng: np.random.Generator, strength: float) -> Scene:
    """A strip of dried adhesive: straight, translucent, with ripples across."""
    points = path(rng, place(scene, rng), rng.uniform(60, 150), 0.15)
    depth = stroke(points, scene.size, rng.uniform(12, 24), pointed=False)
    depth = depth + 1.2 * smooth_noise(rng, scene.size, 9)
    inside = cover(depth, scene.size, 1.5)
    ripple = 0.5 + 0.12 * smooth_noise(rng, scene.size, 6)
    amount = inside * (0.20 + 0.60 * strength) * 2 * ripple
    albedo = _painted_over(scene, colour(0.90, 0.84, 0.64), amount)
    height = scene.height + inside * (0.25 * strength) * smooth_noise(rng, scene.size, 7)
    return replace(scene, albedo=albedo, height=height.astype(np.float32))


def rough(scene: Scene, rng: np.random.Generator, strength: float) -> Scene:
    """A patch where the polish is lost: matt, bleached, gritty."""
    depth = blob(rng, scene.size, place(scene, rng), rng.uniform(14, 34), 0.6)
    inside = cover(depth, scene.size, 6)
    grit = smooth_noise(rng, scene.size, 2.2)
    height = scene.height + inside * (0.05 + 0.30 * strength) * grit
    grey = np.float32(0.62) + 0.06 * grit[..., None] * colour(1, 1, 1)
    albedo = _painted_over(scene, grey, inside * (0.20 + 0.60 * strength))
    return replace(scene, albedo=albedo, height=height.astype(np.float32))


def thread(scene: Scene, rng: np.random.Generator, strength: float) -> Scene:
    """A loose thread that lies on the surface and throws a shadow."""
    points = path(rng, place(scene, rng), rng.uniform(45, 90) + 60 * strength, 2.2)
    depth = stroke(points, scene.size, rng.uniform(1.4, 2.0) + 1.0 * strength, pointed=False)
    ink = colour(*((0.85, 0.82, 0.76), (0.62, 0.20, 0.18), (0.25, 0.32, 0.55), (0.16, 0.15, 0.15))[rng.integers(4)])
    shift = max(1, round(1.5 / pixel(scene.size)))
    shadow = np.roll(cover(depth, scene.size, 2.5), (shift, shift), axis=(0, 1))
    shaded = scene.albedo * (1 - 0.4 * strength * shadow[..., None])
    albedo = blend(shaded, ink, cover(depth, scene.size, 0.8) * (0.45 + 0.5 * min(strength, 1)))
    height = scene.height + 0.6 * np.clip(depth, 0, 2)
    return replace(scene, albedo=albedo, height=height.astype(np.float32))


def metal(scene: Scene, rng: np.random.Generator, strength: float) -> Scene:
    """A splinter of metal: angular, bright on one side and dark on the other."""
    depth = shard(rng, scene.size, place(scene, rng), 1.8 + 4.5 * strength)
    inside = cover(depth, scene.size)
    side = smooth_noise(rng, scene.size, 5)
    tone = np.clip(0.62 + 0.22 * side, 0.1, 1.0)
    shine = np.asarray(scene.gloss + 0.4 * inside, dtype=np.float32)
    height = scene.height * (1 - inside) + inside * (scene.height.max() + 0.6 * side)
    steel = painted(tone.astype(np.float32), colour(0.95, 0.97, 1.0))
    albedo = _painted_over(scene, steel, inside * (0.55 + 0.45 * min(strength, 1)))
    return replace(scene, albedo=albedo, height=height.astype(np.float32), gloss=shine)


def bent(scene: Scene, rng: np.random.Generator, strength: float) -> Scene:
    """Material pushed aside around a point."""
    depth = blob(rng, scene.size, place(scene, rng), rng.uniform(22, 38), 0.0)
    push = np.clip(depth / max(float(depth.max()), 1e-6), 0, 1) ** 1.5
    angle, amount = rng.uniform(0, 2 * np.pi), 2.5 + 7.0 * strength
    return warp(scene, np.sin(angle) * amount * push, np.cos(angle) * amount * push)


def broken_wire(scene: Scene, rng: np.random.Generator, strength: float) -> Scene:
    """A gap in the mesh: a stretch of material is missing."""
    points = path(rng, place(scene, rng), 5 + 22 * strength, 0.2, np.pi / 4 + rng.integers(2) * np.pi / 2)
    inside = cover(stroke(points, scene.size, 5 + 4 * strength, pointed=False), scene.size)
    albedo = blend(scene.albedo, scene.behind, inside)
    height = scene.height * (1 - inside)
    return replace(scene, albedo=albedo, height=height.astype(np.float32), gloss=scene.gloss * (1 - inside))
