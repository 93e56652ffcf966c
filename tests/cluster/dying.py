"""A callback whose node dies in the middle of an epoch."""

import os
import signal

import pytorch_lightning as pl


class Dying(pl.Callback):
    """Kill this process and the torchrun that started it, without a word, after the first step of an epoch."""

    def __init__(self, rank: int, epoch: int) -> None:
        self.rank, self.epoch = rank, epoch

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if (trainer.global_rank, trainer.current_epoch, batch_idx) == (self.rank, self.epoch, 0):
            os.kill(os.getppid(), signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGKILL)
