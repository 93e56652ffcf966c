"""Training with Lightning: the module, its callbacks, checkpoints, and a run from config to files."""
