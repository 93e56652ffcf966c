"""What stands before the camera, and the camera: albedo and relief become an 8-bit image in a light that varies."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from anomaly_lightning.data.synthetic.noise import Field, Size, grid, pixel

Image = NDArray[np.uint8]
Region = NDArray[np.bool_]


@dataclass(frozen=True)
class Scene:
    """A surface or an object, before light.

    Attributes:
        albedo: Colour, (H, W, 3) float32 in [0, 1].
        height: Relief in units towards the camera, (H, W) float32.
        gloss: Strength of the mirror-like reflection, (H, W) float32.
        behind: Colour of what shows where material is missing, (H, W, 3) float32.
        u: Coordinate along the object's own axis, in units, (H, W) float32.
        v: Coordinate across it.
        parts: Named regions where a defect may lie, each (H, W) bool; "all" is always there.
    """

    albedo: Field
    height: Field
    gloss: Field
    behind: Field
    u: Field
    v: Field
    parts: Mapping[str, Region] = field(default_factory=dict)

    @property
    def size(self) -> Size:
        """Height and width in pixels."""
        return self.height.shape[0], self.height.shape[1]


@dataclass(frozen=True)
class Light:
    """How much the light and the camera differ from image to image.

    Attributes:
        elevation: Height of the lamp over the surface, in degrees, lowest and highest.
        gradient: Largest relative change of brightness from the centre to a side.
        exposure: Standard deviation of the logarithm of the exposure.
        tint: Standard deviation of the logarithm of each channel's gain.
        noise: Standard deviation of the sensor's noise at mid grey, in levels of 255.
        blur: Standard deviation of the lens's blur in units, lowest and highest.
    """

    elevation: tuple[float, float] = (40.0, 55.0)
    gradient: float = 0.14
    exposure: float = 0.07
    tint: float = 0.010
    noise: float = 2.2
    blur: tuple[float, float] = (0.5, 0.8)


def photograph(scene: Scene, light: Light, rng: np.random.Generator) -> Image:
    """The image of a scene; two scenes taken with equal generators differ only where the scenes do.

    Args:
        scene: What stands before the camera.
        light: How much light and camera vary.
        rng: Draws this image's light, exposure, blur and noise; what is drawn does not depend on the scene's content.

    Returns:
        (H, W, 3) uint8.
    """
    azimuth = rng.uniform(0, 2 * np.pi)
    elevation = np.radians(rng.uniform(*light.elevation))
    diffuse, mirror = _reflections(scene, azimuth, elevation)
    lamp = _illumination(scene.size, light, rng)
    lit = (scene.albedo * diffuse[..., None] + (scene.gloss * mirror)[..., None]) * lamp
    seen: Field = np.asarray(lit, dtype=np.float32)
    blur = rng.uniform(*light.blur) / pixel(scene.size)
    seen = gaussian_filter(seen, (blur, blur, 0))
    grain = rng.standard_normal(seen.shape, dtype=np.float32) * np.float32(light.noise / 255)
    seen = seen + grain * (0.5 + np.sqrt(np.clip(seen, 0, 1)) * 0.7)  # photons: noise grows with brightness
    return np.asarray(np.rint(np.clip(seen, 0, 1) * 255), dtype=np.uint8)


def _reflections(scene: Scene, azimuth: float, elevation: float) -> tuple[Field, Field]:
    """Diffuse and mirror-like reflection (Blinn 1977), each (H, W); 1 and 0 where the surface is level."""
    slope_y, slope_x = np.gradient(scene.height, np.float32(pixel(scene.size)))
    norm = 1 / np.sqrt(1 + slope_x**2 + slope_y**2)
    ly, lx = np.sin(azimuth) * np.cos(elevation), np.cos(azimuth) * np.cos(elevation)
    lz = np.sin(elevation)
    facing = (np.float32(lz) - np.float32(lx) * slope_x - np.float32(ly) * slope_y) * norm
    diffuse = np.clip(facing / np.float32(lz), 0.05, 2.5)
    half = np.array([ly, lx, lz + 1.0], dtype=np.float32)
    half /= np.linalg.norm(half)
    towards = np.clip((half[2] - half[1] * slope_x - half[0] * slope_y) * norm, 0, 1)
    return diffuse, np.clip(towards**24 - half[2] ** 24, 0, None)


def _illumination(size: Size, light: Light, rng: np.random.Generator) -> Field:
    """Gain of each pixel and channel: exposure, tint, a gradient across the image, vignetting; (H, W, 3)."""
    y, x = grid(size)
    direction, amount = rng.uniform(0, 2 * np.pi), rng.uniform(0, light.gradient)
    ramp = 1 + amount * (np.cos(direction) * x / x.max() + np.sin(direction) * y / y.max())
    corner = np.hypot(y.max(), x.max())
    vignette = 1 - rng.uniform(0.02, 0.12) * (x**2 + y**2) / corner**2
    gain = np.exp(rng.normal(0, light.exposure) + rng.normal(0, light.tint, 3))
    return np.asarray((ramp * vignette)[..., None] * gain, dtype=np.float32)
