"""Tell good parts from defective ones by images of good parts alone, and see where the defect is."""

__version__ = "0.1.0"
