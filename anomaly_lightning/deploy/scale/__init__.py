"""Scoring of large sets: images from any file system that fsspec knows, rows in Parquet, here or on a Ray cluster."""
