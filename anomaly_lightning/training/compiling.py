"""A model compiled by torch for where it runs: faster after a first call that takes a minute and a C++ compiler."""

import os
import shutil
import sys
from collections.abc import Callable

import torch
from torch import Tensor

from anomaly_lightning.errors import UserError
from anomaly_lightning.model import AnomalyModel

COMPILERS = ("g++", "clang++", "c++", "cl")
Run = Callable[[Tensor], tuple[Tensor, Tensor]]


def compiled(model: AnomalyModel, device: torch.device, size: tuple[int, int]) -> Run:
    """The model's forward, compiled and run once.

    Args:
        model: Fitted, in evaluation mode, on the device.
        device: Where it runs.
        size: (H, W) of the network's input.

    Raises:
        UserError: There is no C++ compiler, or compiling failed; the message says what is needed.
    """
    needs = "It needs a C++ compiler (Debian: apt-get install g++; $CXX names one) and Python's header files"
    if device.type == "cpu" and compiler() is None:
        raise UserError(f"compile=true: there is no C++ compiler here. {needs}; or leave compile out.")
    torch._dynamo.reset()  # what an earlier model left would count as its variants
    run: Run = torch.compile(model, options={"freezing": True})
    try:
        with torch.inference_mode():
            run(torch.zeros(1, 3, *size, device=device))
    except Exception as error:  # whatever the compiler says
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UserError(f"compile=true: compiling failed here: {first}. {needs}; or leave compile out.") from error
    return run


def compiler() -> str | None:
    """The C++ compiler that torch would take; None where there is none."""
    given = os.environ.get("CXX")
    names = (given,) if given else COMPILERS if sys.platform == "win32" else COMPILERS[:-1]
    return next((found for name in names if (found := shutil.which(name))), None)
