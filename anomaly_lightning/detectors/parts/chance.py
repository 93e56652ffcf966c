"""Randomness of a training step that follows from a seed and the step's number alone, so that a run can be resumed."""

import torch
from torch import Tensor, nn

STRIDE = 1_000_003  # between the seeds of two runs: a prime that no run has as many steps as


class StepChance(nn.Module):
    """Counts steps, and gives each a generator of its own.

    Args:
        seed: Of the run.
    """

    steps: Tensor  # () int64, steps so far

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seed = seed
        self.register_buffer("steps", torch.tensor(0))
        self.register_load_state_dict_post_hook(_count_anew)
        self._step: int | None = None

    def forward(self, device: torch.device) -> torch.Generator:
        """Generator of the next step in training; in evaluation always the same one, and nothing is counted."""
        if not self.training:
            return torch.Generator(device).manual_seed(STRIDE * self.seed)
        if self._step is None:  # a number beside the buffer: a device need not be asked for it in every step
            self._step = int(self.steps)
        self._step += 1
        self.steps.fill_(self._step)
        return torch.Generator(device).manual_seed(STRIDE * self.seed + self._step)


def normal(shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Standard normal values of a shape, float32 on the generator's device."""
    return torch.randn(shape, generator=generator, device=generator.device)


def _count_anew(chance: nn.Module, _: object) -> None:
    """Read the number of steps from a state that was just loaded."""
    assert isinstance(chance, StepChance)
    chance._step = None
