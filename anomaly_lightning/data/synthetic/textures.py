"""Good surfaces that fill the image: leather, tile, grid, carpet, wood."""

import numpy as np

from anomaly_lightning.data.synthetic.noise import Field, Size, cells, grid, smooth_noise, turned
from anomaly_lightning.data.synthetic.scene import Region, Scene


def colour(red: float, green: float, blue: float) -> Field:
    """A colour as (3,) float32 in [0, 1]."""
    return np.array([red, green, blue], dtype=np.float32)


def painted(level: Field, ink: Field) -> Field:
    """A grey field (H, W) in one colour (3,): (H, W, 3) float32."""
    return np.asarray(level[..., None] * ink, dtype=np.float32)


def blend(below: Field, above: Field, cover: Field) -> Field:
    """Lay `above` over `below`, both (H, W, 3) or broadcast to it, by `cover` (H, W) in [0, 1]."""
    return np.asarray(below + cover[..., None] * (above - below), dtype=np.float32)


def _surface(albedo: Field, height: Field, gloss: float, behind: Field, axes: tuple[Field, Field]) -> Scene:
    """A texture's scene: a defect may lie anywhere but at the very edge of the image."""
    y, x = grid((height.shape[0], height.shape[1]))
    v, u = axes
    inner: Region = (np.abs(y) < 0.75 * y.max()) & (np.abs(x) < 0.75 * x.max())
    shine = np.full(height.shape, gloss, dtype=np.float32)
    return Scene(np.clip(albedo, 0, 1), height, shine, behind, u, v, {"all": inner})


def leather(rng: np.random.Generator, size: Size) -> Scene:
    """Brown leather: pebbles of two sizes parted by creases, pores, slow wrinkles."""
    y, x = grid(size)
    stretch = rng.uniform(0.93, 1.07)
    v, u = turned(y, x, rng.uniform(0, np.pi))
    v = v * np.float32(stretch) + 3.0 * smooth_noise(rng, size, 50)
    u = u / np.float32(stretch) + 3.0 * smooth_noise(rng, size, 50)
    scale = rng.uniform(6.6, 7.6)
    coarse = cells(rng, v / scale, u / scale)
    fine = cells(rng, v / (0.45 * scale), u / (0.45 * scale))
    dome = 1 - np.exp(-3.5 * coarse.border)
    small = 1 - np.exp(-3.0 * fine.border)
    height = scale * (0.12 * dome * (0.85 + 0.3 * coarse.tone) + 0.03 * small)
    height = height + 0.5 * smooth_noise(rng, size, 45) + 0.07 * smooth_noise(rng, size, 2.5)
    tone = 0.78 + 0.18 * dome + 0.06 * small + 0.04 * smooth_noise(rng, size, 70)
    tone = tone * (0.96 + 0.08 * coarse.kind)
    ink = colour(0.50, 0.305, 0.19) * np.exp(rng.normal(0, 0.015, 3)).astype(np.float32)
    flesh = painted(np.full(size, 0.55, dtype=np.float32), colour(0.62, 0.48, 0.36))
    return _surface(painted(tone, ink), height.astype(np.float32), rng.uniform(0.15, 0.35), flesh, (y, x))


def tile(rng: np.random.Generator, size: Size) -> Scene:
    """Terrazzo: stone chips of three sizes in a light binder, polished flat."""
    y, x = grid(size)
    albedo = painted(0.70 + 0.02 * smooth_noise(rng, size, 3), colour(1.0, 0.985, 0.95))
    palette = np.array(
        [[0.36, 0.36, 0.37], [0.46, 0.45, 0.44], [0.56, 0.54, 0.51], [0.84, 0.83, 0.80], [0.62, 0.54, 0.47]],
        dtype=np.float32,
    )
    for scale, share in ((3.8, 0.45), (6.5, 0.42), (10.5, 0.34)):
        length = scale * rng.uniform(0.93, 1.07)
        bend_y, bend_x = (0.12 * scale * smooth_noise(rng, size, 0.6 * scale) for _ in range(2))
        field = cells(rng, (y + bend_y) / length, (x + bend_x) / length)
        chip = palette[np.minimum((field.kind * len(palette)).astype(np.int32), len(palette) - 1)]
        chip = chip * (0.92 + 0.05 * smooth_noise(rng, size, 4)[..., None])
        cover = np.clip(field.border * 9 - 0.9, 0, 1) * (field.tone < share)
        albedo = blend(albedo, chip, cover.astype(np.float32))
    height = 0.05 * smooth_noise(rng, size, 30)
    return _surface(albedo, height, 0.25, albedo * 0.35, (y, x))


def wire_mesh(rng: np.random.Generator, size: Size) -> Scene:
    """Woven wire: two families of round wires that pass over and under each other, a dark ground below."""
    y, x = grid(size)
    v, u = turned(y, x, np.pi / 4 + np.radians(rng.normal(0, 4)))
    pitch, radius = rng.uniform(19.0, 20.5), 2.9
    v = v + np.float32(rng.uniform(0, 2 * pitch)) + 0.35 * smooth_noise(rng, size, 60)
    u = u + np.float32(rng.uniform(0, 2 * pitch)) + 0.35 * smooth_noise(rng, size, 60)
    ground = painted(0.14 + 0.012 * smooth_noise(rng, size, 20), colour(1.0, 1.0, 1.04))
    along, across = _wires(v, u, pitch, radius), _wires(u, v, pitch, radius, shift=1)
    top = np.where(along[1] > across[1], along[0], across[0])
    relief = np.maximum(along[1], across[1])
    cover = np.clip(top / 0.9, 0, 1)
    shaded = 0.62 + 0.045 * smooth_noise(rng, size, 2.5) - 0.16 * (1 - np.clip(relief / (1.9 * radius), 0, 1))
    under = ground * (1 - 0.45 * np.clip(np.maximum(along[2], across[2]), 0, 1))[..., None]
    metal = painted(np.asarray(shaded, dtype=np.float32), colour(0.96, 0.98, 1.0))
    height = np.asarray(0.55 * relief * cover, dtype=np.float32)
    return _surface(blend(under, metal, cover), height, 0.5, ground, (y, x))


def _wires(v: Field, u: Field, pitch: float, radius: float, shift: int = 0) -> tuple[Field, Field, Field]:
    """Parallel wires along u: depth inside the wire (>0) in units, height of its surface, halo of its shadow."""
    row = np.rint(v / pitch)
    off = np.abs(v - row * pitch)
    wave = np.cos(np.pi * (u / pitch + row + shift))
    round_top = np.sqrt(np.clip(radius**2 - off**2, 0, None))
    inside = np.clip(radius - off, 0, None)
    height = np.where(off < radius, round_top + 0.8 * radius * (wave + 1) / 2, 0)
    return inside, height.astype(np.float32), np.exp(-((off / (1.8 * radius)) ** 2))


def carpet(rng: np.random.Generator, size: Size) -> Scene:
    """Woven carpet: rows of yarn loops that lean left and right in turn, with loose fibres."""
    y, x = grid(size)
    v, u = turned(y, x, np.radians(rng.normal(0, 2.5)))
    v = v + np.float32(rng.uniform(0, 40)) + 0.9 * smooth_noise(rng, size, 22)
    u = u + np.float32(rng.uniform(0, 40)) + 0.9 * smooth_noise(rng, size, 22)
    wide, tall = 9.6 * rng.uniform(0.96, 1.04), 6.2 * rng.uniform(0.96, 1.04)
    column = np.floor(u / wide)
    lean = np.where(column % 2 == 0, 1.0, -1.0).astype(np.float32)
    in_x = u / wide - column - 0.5
    in_y = v / tall + lean * in_x * 0.9
    in_y = in_y - np.floor(in_y) - 0.5
    loop = np.clip(1 - (2 * in_x) ** 2, 0, 1) ** 0.5 * np.clip(1 - (2 * in_y) ** 2, 0, 1) ** 0.6
    fibres = np.where(lean > 0, smooth_noise(rng, size, 7, 1.2, angle=-0.6), smooth_noise(rng, size, 7, 1.2, angle=0.6))
    fluff = smooth_noise(rng, size, 1.8)
    height = 2.3 * loop + 0.28 * fibres + 0.22 * fluff
    tone = 0.34 + 0.50 * loop + 0.055 * fibres + 0.05 * fluff + 0.03 * smooth_noise(rng, size, 35)
    ink = colour(0.66, 0.63, 0.60) * np.exp(rng.normal(0, 0.012, 3)).astype(np.float32)
    backing = painted(0.22 + 0.02 * smooth_noise(rng, size, 4, 2), colour(1.0, 0.92, 0.8))
    return _surface(painted(tone.astype(np.float32), ink), height.astype(np.float32), 0.0, backing, (y, x))


def wood(rng: np.random.Generator, size: Size) -> Scene:
    """Planed wood: growth rings cut lengthwise, fine fibres and pores along the board."""
    y, x = grid(size)
    tilt = np.pi / 2 + np.radians(rng.normal(0, 2.5))
    v, u = turned(y, x, tilt)
    arch = rng.uniform(-70, 70) + 14 * smooth_noise(rng, size, 400, 60, angle=tilt)
    depth = rng.uniform(25, 60) + 0.055 * (u + np.float32(rng.uniform(-300, 300)))
    ring = np.hypot(v - arch, depth) + 2.2 * smooth_noise(rng, size, 160, 14, angle=tilt)
    ring = ring / np.float32(rng.uniform(9.5, 13.0))
    year = np.floor(ring)
    early = ring - year  # slow rise to the dark late wood, sharp fall to the next year's early wood
    dark = early**2.5 * np.clip((1 - early) * 9, 0, 1)
    strength = rng.uniform(0.55, 1.0, 256)[year.astype(np.int64) % 256]
    fibres = smooth_noise(rng, size, 45, 0.9, angle=tilt)
    pores = np.clip(smooth_noise(rng, size, 12, 0.8, angle=tilt) - 1.7, 0, 1)
    tone = 0.80 - 0.26 * dark * strength + 0.03 * fibres - 0.22 * pores + 0.035 * smooth_noise(rng, size, 90)
    warm = 1 - tone
    albedo = np.stack([tone + 0.06, tone - 0.10 - 0.25 * warm, tone - 0.26 - 0.30 * warm], axis=-1)
    albedo = albedo * np.exp(rng.normal(0, 0.012, 3))
    height = 0.10 * fibres - 0.35 * pores - 0.12 * dark
    return _surface(
        albedo.astype(np.float32), height.astype(np.float32), 0.12, (albedo * 0.25).astype(np.float32), (v, u)
    )
