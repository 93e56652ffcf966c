"""Which arithmetic the frozen backbone computes in, and whether a device has it in hardware."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from anomaly_lightning.errors import UserError

logger = logging.getLogger(__name__)

PRECISIONS = ("32", "bf16")
# What torch.cpu.get_capabilities calls instructions that multiply bfloat16 numbers, on x86 and on ARM.
_CPU_BF16 = ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16")


class Precision:
    """Arithmetic of the backbone's forward, whatever the precision of the training around it.

    Args:
        given: 32, or "bf16" (convolutions and products in bfloat16, the weights stay in float32).

    Raises:
        UserError: It is neither.
    """

    def __init__(self, given: int | str) -> None:
        self.name = str(given)
        if self.name not in PRECISIONS:
            raise UserError(f"features.precision={given}: expected one of {', '.join(PRECISIONS)}.")
        self._warned = False

    @contextmanager
    def __call__(self, device: torch.device) -> Iterator[None]:
        """Context for a forward on a device; says once where bfloat16 is emulated there."""
        wanted = self.name == "bf16"
        if wanted and not self._warned and not native_bfloat16(device):
            self._warned = True
            logger.warning("features.precision=bf16: %s has no bfloat16 of its own, so 32 will be faster.", device.type)
        with true_float32(), torch.autocast(device.type, torch.bfloat16, enabled=wanted):
            yield


@contextmanager
def true_float32() -> Iterator[None]:
    """Within it, convolutions of float32 tensors are computed in float32 on a GPU, too.

    cuDNN rounds their factors to TF32 by default, so that features and scores would differ from those of a CPU by a
    thousandth, while store, checkpoint and threshold are shared between both.
    """
    owner: Any = getattr(torch.backends.cudnn, "conv", torch.backends.cudnn)  # the latter in older torch
    name, exact = ("fp32_precision", "ieee") if hasattr(owner, "fp32_precision") else ("allow_tf32", False)
    before = getattr(owner, name)
    setattr(owner, name, exact)
    try:
        yield
    finally:
        setattr(owner, name, before)


def native_bfloat16(device: torch.device) -> bool:
    """Whether a device multiplies bfloat16 in hardware; True where torch can't tell."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu" and hasattr(torch.cpu, "get_capabilities"):  # torch 2.6 does not tell
        known = torch.cpu.get_capabilities()
        return any(known.get(name, False) for name in _CPU_BF16)
    return True
