"""Lightning's advice that does not hold here, silenced."""

import logging
import warnings

LOGGERS = ("pytorch_lightning", "pytorch_lightning.utilities.rank_zero", "pytorch_lightning.accelerators.cuda")
ADVICE = (
    ".*`IterableDataset` has `__len__` defined.*",
    ".*module.s. in eval mode at the start of training.*",
    ".*isinstance.treespec, LeafSpec.*",
    ".*does not have many workers.*",
    ".*The dirpath has changed from.*",  # BestCheckpoint takes its files along
    ".*Checkpoint directory .* exists and is not empty.*",
    ".*litlogger.*",
    ".*`srun` command is available.*",  # on the login node of a cluster
    ".*configure_optimizers. returned .None.*",  # methods without gradients
    ".*training_step. returned .None.*",
)


def quieten() -> None:
    """Silence that advice; Lightning's warnings about results stay."""
    for name in LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in ADVICE:
        warnings.filterwarnings("ignore", message)
