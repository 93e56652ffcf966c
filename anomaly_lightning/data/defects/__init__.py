"""Defects made on normal images, seeded and with exact masks: to train a localiser on, or to test a detector with.

`data.synthetic` draws whole categories; here anybody's own normals are changed.
"""

from anomaly_lightning.data.defects.fills import FILLS
from anomaly_lightning.data.defects.making import DefectMaker, Made, Recipe, varied_with

__all__ = ["KINDS", "DefectMaker", "Made", "Recipe", "varied_with"]

KINDS: tuple[str, ...] = tuple(FILLS)
