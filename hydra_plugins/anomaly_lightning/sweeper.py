"""hydra/sweeper=optuna: a search with a storage that it goes on from, and with pruning.

Written for Hydra 1.3: hydra-optuna-sweeper 1.3 asks for Optuna 2, and 1.4 for Hydra 1.4, and neither prunes.
"""

import importlib.util
from typing import Any

from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class OptunaSweeper(Sweeper):
    """Hands over to `anomaly_lightning.sweeps.search`; the settings are read from the config."""

    def __init__(self, **settings: Any) -> None:
        self.search: Any = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Make the launcher and the search."""
        if importlib.util.find_spec("optuna") is None:
            from anomaly_lightning.errors import MissingExtraError
            from anomaly_lightning.sweeps.errors import SweepError

            raise SweepError(str(MissingExtraError("hydra/sweeper=optuna", "optuna", "optuna")))
        from anomaly_lightning.sweeps.search import Search

        launcher = Plugins.instance().instantiate_launcher(hydra_context, task_function, config)
        self.search = Search(config, hydra_context.config_loader, launcher)

    def sweep(self, arguments: list[str]) -> None:
        """Run the search with the overrides of the command line."""
        self.search.run(arguments)
