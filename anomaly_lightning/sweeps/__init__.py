"""Sweeps beyond one process: jobs of a queue, and searches. Hydra meets it by the plugins in `hydra_plugins/`."""
