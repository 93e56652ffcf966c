"""Good objects on a plain ground, each in its own pose: bottle, screw, hazelnut."""

import numpy as np
from scipy.ndimage import gaussian_filter

from anomaly_lightning.data.synthetic.noise import Field, Size, grid, pixel, smooth_noise, turned
from anomaly_lightning.data.synthetic.scene import Scene
from anomaly_lightning.data.synthetic.textures import blend, colour, painted

SCREW_SCALE = 1.18
SCREW_PITCH = 8.4
SCREW_CORE = 7.2
SCREW_CREST = 12.0


def _pose(rng: np.random.Generator, size: Size, shift: float, angle: float) -> tuple[Field, Field]:
    """The object's own coordinates (v, u): shifted by up to `shift` units and turned by `angle` radians."""
    y, x = grid(size)
    y = y - np.float32(rng.uniform(-shift, shift))
    x = x - np.float32(rng.uniform(-shift, shift))
    return turned(y, x, angle)


def _edge(depth: Field, size: Size) -> Field:
    """Coverage of pixels by a shape whose signed depth (units, > 0 inside) is given, in [0, 1]."""
    return np.asarray(np.clip(depth / pixel(size) + 0.5, 0, 1), dtype=np.float32)


def bottle(rng: np.random.Generator, size: Size) -> Scene:
    """A brown glass bottle from above: shoulder, wall, bright lip, dark mouth, highlights of the lamps."""
    v, u = _pose(rng, size, 7, 0.0)
    around = np.arctan2(v, u)
    turn = rng.uniform(0, 2 * np.pi)
    out_of_round = 1 + 0.008 * np.cos(2 * (around - rng.uniform(0, np.pi)))
    radius = np.hypot(v, u) / (out_of_round * rng.uniform(0.97, 1.03))
    stops = [0, 48, 56, 60, 63, 68, 75, 79, 82, 90, 98, 103, 106, 108, 400]
    red = [0.05, 0.07, 0.16, 0.34, 0.60, 0.50, 0.30, 0.20, 0.12, 0.14, 0.22, 0.13, 0.08, 0.90, 0.92]
    green = [0.045, 0.05, 0.10, 0.20, 0.38, 0.29, 0.15, 0.09, 0.06, 0.06, 0.10, 0.06, 0.05, 0.90, 0.92]
    blue = [0.045, 0.045, 0.06, 0.09, 0.19, 0.12, 0.06, 0.04, 0.03, 0.03, 0.04, 0.03, 0.04, 0.90, 0.92]
    glass = np.stack([np.interp(radius, stops, channel) for channel in (red, green, blue)], axis=-1)
    wall = (radius > 50) & (radius < 107)
    streaks = 0.10 * smooth_noise(rng, size, 14) + 0.14 * np.cos(2 * (around - turn)) + 0.07 * np.cos(5 * around + turn)
    glass = glass * (1 + np.where(wall, streaks, 0))[..., None]
    albedo = glass + painted(_highlights(rng, radius, around, turn), colour(1.0, 0.97, 0.90))
    deep = np.clip(1 - ((u - 10 * np.cos(turn)) ** 2 + (v - 10 * np.sin(turn)) ** 2) / 30**2, 0, 1)
    albedo = albedo + painted(0.07 * deep, colour(1.0, 0.8, 0.55))
    flat = np.zeros(size, dtype=np.float32)
    ground = np.full((*size, 3), 0.91, dtype=np.float32)
    parts = {"all": radius < 92, "body": radius < 105, "lip": (radius > 58) & (radius < 72)}
    return Scene(np.clip(albedo, 0, 1).astype(np.float32), flat, flat, ground, u, v, parts)


def _highlights(rng: np.random.Generator, radius: Field, around: Field, turn: float) -> Field:
    """Reflections of a few lamps along the lip and the shoulder, (H, W)."""
    shine = np.zeros(radius.shape)
    for ring, width, strength in ((65.0, 2.2, 0.50), (71.0, 1.5, 0.25), (99.0, 2.5, 0.30)):
        for lamp in range(3):
            middle = turn + lamp * 2 * np.pi / 3 + rng.normal(0, 0.15)
            away = (around - np.float32(middle) + np.float32(np.pi)) % np.float32(2 * np.pi) - np.float32(np.pi)
            lobe = np.exp(-((away / rng.uniform(0.25, 0.45)) ** 2))
            shine += strength * rng.uniform(0.6, 1.0) * lobe * np.exp(-(((radius - ring) / width) ** 2))
    return shine.astype(np.float32)


def screw(rng: np.random.Generator, size: Size) -> Scene:
    """A steel wood screw from the side, at any angle, on a light ground with a soft shadow."""
    angle = rng.uniform(0, 2 * np.pi)
    v, u = _pose(rng, size, 8, angle)
    v, u = v / np.float32(SCREW_SCALE), u / np.float32(SCREW_SCALE)
    radius, slope = _screw_profile(u, v, rng.uniform(0, 1))
    cover = _edge((radius - np.abs(v)) * SCREW_SCALE * 0.9, size)
    lamp = rng.normal(0.25 * np.pi, 0.3) - angle
    steel = _steel(v, radius, slope, lamp) + 0.02 * smooth_noise(rng, size, 6, 2, angle=angle)
    shade = gaussian_filter(cover, 5 / pixel(size))
    ground = 0.80 + 0.006 * smooth_noise(rng, size, 3)
    shift = round(3 / pixel(size))
    shadow = 0.20 * np.roll(shade, (shift, shift), axis=(0, 1))
    behind = painted(ground - shadow, colour(1.0, 1.0, 0.985))
    albedo = blend(behind, painted(steel.astype(np.float32), colour(0.98, 0.98, 1.0)), cover)
    body = cover > 0.9
    parts = {
        "all": body,
        "body": body,
        "head": body & (u < -74),
        "neck": body & (u > -66) & (u < -38),
        "thread": body & (u > -28) & (u < 62) & (np.abs(v) < SCREW_CORE),
    }
    flat = np.zeros(size, dtype=np.float32)
    return Scene(np.clip(albedo, 0, 1), flat, flat, behind, u, v, parts)


def _screw_profile(u: Field, v: Field, phase: float) -> tuple[Field, Field]:
    """Radius of the screw where a pixel looks at it, and the slope of the radius along u; each (H, W)."""
    stops = [-93, -92.9, -89, -82, -66, -62, -38, -32, 72, 94, 94.1]
    outline = [-9, 17, 23, 24, 10, 8.2, 8.2, SCREW_CORE, SCREW_CORE, 0.6, -9]
    body = np.interp(u, stops, outline)
    helix = np.arcsin(np.clip(v / SCREW_CREST, -1, 1)) / (2 * np.pi)
    turns = u / SCREW_PITCH + helix + phase
    saw = 1 - 2 * np.abs(turns - np.rint(turns))  # 0 in the valley, 1 on the crest
    depth = (SCREW_CREST - SCREW_CORE) * np.interp(u, [-38, -30, 68, 90], [0, 1, 1, 0])
    radius = body + depth * saw**1.5
    taper = np.interp(u + 0.5, stops, outline) - np.interp(u - 0.5, stops, outline)
    slope = np.clip(taper, -1.5, 1.5) + 0.32 * depth * np.sign(np.rint(turns) - turns)
    return radius.astype(np.float32), slope.astype(np.float32)


def _steel(v: Field, radius: Field, slope: Field, lamp: float) -> Field:
    """Brightness of polished steel: a turned body under a lamp from the direction `lamp` in its own frame, (H, W)."""
    across = np.clip(v / np.maximum(radius, 1), -1, 1)
    facing = np.sqrt(1 - across**2)
    norm = 1 / np.sqrt(1 + slope**2)
    towards = norm * (0.75 * facing + 0.66 * (np.sin(lamp) * across - np.cos(lamp) * slope * facing))
    window = np.exp(-(((across + 0.35) / 0.16) ** 2)) * norm**4
    rim = np.clip(np.abs(across) - 0.75, 0, 1)
    return 0.16 + 0.42 * np.clip(towards, 0, 1) + 0.38 * window - 0.35 * rim


def hazelnut(rng: np.random.Generator, size: Size) -> Scene:
    """A hazelnut in its shell: brown, striped from the pale base to the tip, at any angle, on a dark ground."""
    angle = rng.uniform(0, 2 * np.pi)
    v, u = _pose(rng, size, 9, angle)
    long, wide = 84 * rng.uniform(0.95, 1.05), 76 * rng.uniform(0.95, 1.05)
    tip = np.clip(u / long, 0, 1.2)
    across = v / (wide * (1 - 0.20 * tip**3))
    inside = 1 - np.sqrt((u / long) ** 2 + across**2)
    cover = _edge(inside * wide * 0.8, size)
    facing = np.sqrt(np.clip(1 - (u / long) ** 2 - across**2, 0, 1))
    meridian = np.arctan2(across, facing + 0.15)
    lines = np.interp(meridian.ravel() % (2 * np.pi), *_stripes(rng)).reshape(size)
    lamp = rng.uniform(0, 2 * np.pi)
    light = 0.50 + 0.48 * facing + 0.18 * (np.cos(lamp) * u / long + np.sin(lamp) * across)
    tone = light * (1 + 0.10 * lines * (0.4 + facing) + 0.06 * smooth_noise(rng, size, 22, 5, angle=angle))
    shell = painted(tone.astype(np.float32), colour(0.60, 0.365, 0.19))
    base = np.clip((-u / long - 0.66 + 0.05 * smooth_noise(rng, size, 9)) * 14, 0, 1)
    pale = painted((light * (0.78 + 0.07 * smooth_noise(rng, size, 3))).astype(np.float32), colour(0.80, 0.67, 0.50))
    down = np.clip((tip - 0.72) * 3, 0, 0.6)
    shell = blend(blend(shell, pale, base.astype(np.float32)), pale * 0.95, down.astype(np.float32))
    ground = painted(0.07 + 0.006 * smooth_noise(rng, size, 4), colour(1.0, 1.0, 1.1))
    glint = np.exp(-(((u / long - 0.3 * np.cos(lamp)) ** 2 + (across - 0.3 * np.sin(lamp)) ** 2) / 0.06))
    shell = shell + painted((0.10 * glint).astype(np.float32), colour(1.0, 0.95, 0.85))
    height = (0.12 * lines * facing + 0.07 * smooth_noise(rng, size, 4)) * cover
    gloss = np.zeros(size, dtype=np.float32)
    parts = {"all": inside > 0.22, "body": cover > 0.9}
    return Scene(np.clip(blend(ground, shell, cover), 0, 1), height.astype(np.float32), gloss, ground, u, v, parts)


def _stripes(rng: np.random.Generator) -> tuple[Field, Field]:
    """Angles around the nut and the strength of its stripes there, as points to interpolate between."""
    steps = 160
    values = rng.standard_normal(steps).astype(np.float32)
    values[-1] = values[0]
    return np.linspace(0, 2 * np.pi, steps, dtype=np.float32), np.clip(values, -2, 2)
