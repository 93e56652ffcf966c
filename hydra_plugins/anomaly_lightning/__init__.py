"""What Hydra finds of this project by its plugin interface; the work is done in `anomaly_lightning.sweeps`.

Hydra imports it at the start of every command, so nothing heavy and no extra is imported before it is used.
"""
