"""What the benchmark command measures: stages of a prediction, parts of a training run, memory; a service under load.

Seconds say little about another machine, so each stands beside a ratio to something that was measured in the same run,
in turn with it.
"""

import importlib
from collections.abc import Callable, Mapping
from typing import Any

from omegaconf import DictConfig

from anomaly_lightning.errors import UserError

Measure = Callable[[DictConfig], dict[str, Any]]
Show = Callable[[Mapping[str, Any]], None]
# What measures and what shows, imported when it is asked for.
SUITES = {"training": ("measure:measure", "table:show"), "service": ("service:measure", "service:show")}


def suite(name: str) -> tuple[Measure, Show]:
    """What measures, and what shows what was measured.

    Raises:
        UserError: There is no such suite.
    """
    if name not in SUITES:
        raise UserError(f"suite={name}: expected one of {', '.join(SUITES)}.")
    found = [
        getattr(importlib.import_module(f"{__name__}.{module}"), function)
        for module, _, function in (place.partition(":") for place in SUITES[name])
    ]
    return found[0], found[1]
