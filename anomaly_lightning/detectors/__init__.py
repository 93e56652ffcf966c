"""Detectors: one file a method, all behind the contract of `base.Detector`."""
