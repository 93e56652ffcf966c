"""Frozen backbones, where their weights come from, and the store of what they computed."""
