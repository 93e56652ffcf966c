"""Training for a fixed number of steps: AdamW, a warm-up, a cosine decay, and gradients that are clipped."""

import math
from collections.abc import Iterable

from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from anomaly_lightning.errors import UserError


class WarmCosine:
    """Makes an AdamW optimizer, and its learning rates from step to step.

    Args:
        lr: Learning rate after the warm-up.
        final_lr: Learning rate at the last step.
        warmup: Steps of the linear warm-up.
        weight_decay: Decoupled weight decay.
        amsgrad: Whether the largest second moment so far is divided by, which takes the edge off spikes of the loss.
        clip: Norm that all gradients together are clipped to.

    Raises:
        UserError: A value without a meaning.
    """

    def __init__(
        self, lr: float, final_lr: float, warmup: int, weight_decay: float, amsgrad: bool, clip: float
    ) -> None:
        if not 0 < final_lr <= lr or warmup < 0 or weight_decay < 0 or clip <= 0:
            raise UserError(
                "Expected 0 < optimizer.final_lr <= optimizer.lr, optimizer.warmup and weight_decay 0 or more, and "
                f"optimizer.clip above 0; got {final_lr}, {lr}, {warmup}, {weight_decay} and {clip}."
            )
        self.lr, self.final_lr, self.warmup = lr, final_lr, warmup
        self.weight_decay, self.amsgrad, self.clip = weight_decay, amsgrad, clip

    def __call__(self, parameters: Iterable[nn.Parameter]) -> Optimizer:
        """Optimizer of some parameters."""
        return AdamW(parameters, lr=self.lr, weight_decay=self.weight_decay, amsgrad=self.amsgrad)

    def schedule(self, optimizer: Optimizer, steps: int) -> LambdaLR:
        """Learning rates of the optimizer over so many steps; to be stepped after each of them."""
        return LambdaLR(optimizer, lambda step: self.rate(step, steps) / self.lr)

    def rate(self, step: int, steps: int) -> float:
        """Learning rate of a step (from 0) of so many: linear to `lr`, then half a cosine to `final_lr`."""
        warmup = min(self.warmup, steps // 2)  # in a run that is cut short the rate still rises and falls
        if step < warmup:
            return self.lr * (step + 1) / (warmup + 1)
        share = min((step - warmup) / max(steps - 1 - warmup, 1), 1.0)
        return self.final_lr + (self.lr - self.final_lr) * (1 + math.cos(math.pi * share)) / 2


def planned(steps: float) -> int:
    """The steps of a run as a whole number.

    Raises:
        UserError: The run has no end, so that no learning rate can be told.
    """
    if not math.isfinite(steps):
        raise UserError("trainer.max_steps=-1 and trainer.max_epochs=-1: this optimizer needs an end. Set one of them.")
    return int(steps)
