"""The most memory that this process has had; imports no torch."""

import sys
from pathlib import Path

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]


def peak_memory_mb() -> float | None:
    """Largest resident size that this process has had, in MiB; None where the system does not say."""
    if (status := Path("/proc/self/status")).is_file():  # Linux, where getrusage starts from the parent's peak
        lines = dict(line.split(":", 1) for line in status.read_text(encoding="ascii", errors="replace").splitlines())
        if "VmHWM" in lines:
            return int(lines["VmHWM"].split()[0]) / (1 << 10)
    if resource is None:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def peak_gpu_memory_mb() -> float | None:
    """Most that this process has reserved of its GPU, in MiB; None where it has used none."""
    torch = sys.modules.get("torch")
    return torch.cuda.max_memory_reserved() / (1 << 20) if torch and torch.cuda.is_initialized() else None
