"""What a search varies, in Hydra's words for it, and which options it may not vary."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from anomaly_lightning.sweeps.errors import SweepError

# Options that decide what the validation loss is a loss of, or of which images: over them it compares nothing.
INCOMPARABLE = (
    "backbone", "backbone.*", "cache", "cache.*", "category", "category.*", "data", "data.*", "debug", "experiment",
    "features", "features.*", "loading", "model", "model.components", "model.pool", "model.seed", "seed",
)  # fmt: skip
COMPARABLE = ("data.batch_size",)  # of those above
# Where things lie, and what is done with an outcome, changes no loss: a search may go on with others.
FREE = (
    "cache.dir", "cache.max_gb", "cache.mode", "callbacks.pruning", "data.root", "data.workers", "logger", "logger.*",
    "overwrite", "reuse", "run_dir", "test",
)  # fmt: skip


@dataclass(frozen=True)
class Space:
    """What the trials of a search have in common, and what differs.

    Attributes:
        varied: Distribution by option. A choice is the text of the value, as an override has it.
        fixed: Overrides that every trial gets.
    """

    varied: Mapping[str, BaseDistribution]
    fixed: tuple[str, ...]

    @classmethod
    def of(cls, params: Mapping[str, object], words: Sequence[str], loader: ConfigLoader) -> "Space":
        """Read the options of a search.

        Args:
            params: Those of hydra.sweeper.params; words for the same option come before them.
            words: Overrides of the command line.
            loader: Of Hydra, which knows what a glob stands for.

        Raises:
            SweepError: There is nothing to search, or an option over which losses don't compare.
        """
        parser = OverridesParser.create(config_loader=loader)
        parsed = parser.parse_overrides([*(f"{name}={value}" for name, value in params.items()), *words])
        overrides = {_key(one): one for one in parsed}
        varied = {key: _distribution(one) for key, one in overrides.items() if one.is_sweep_override()}
        fixed = [str(one.input_line) for one in overrides.values() if not one.is_sweep_override()]
        if not varied:
            raise SweepError(
                "hydra/sweeper=optuna: there is nothing to search. Give an option several values: "
                "'model.network.width=choice(64,128)', 'optimizer.learning_rate=tag(log,interval(1e-4,1e-2))' or "
                "'model.network.latent=range(16,65,16)'."
            )
        if refused := [key for key in varied if _is(key, INCOMPARABLE) and not _is(key, COMPARABLE)]:
            raise SweepError(
                f"hydra/sweeper=optuna: {', '.join(refused)} can't be searched. A search looks for the lowest "
                "validation loss, and with these options it is the loss of something else. Compare them by a sweep "
                "without it (--multirun and no hydra/sweeper), one search for each."
            )
        return cls(varied, tuple(fixed))

    def overrides(self, params: Mapping[str, object]) -> list[str]:
        """Overrides of the trial with these values."""
        return [*self.fixed, *assignments(params)]

    def content(self) -> dict[str, object]:
        """What two starts of one search have to agree on, as plain values."""
        fixed = sorted(text for text in self.fixed if not _is(_name(text), FREE))
        return {"varied": {key: repr(one) for key, one in sorted(self.varied.items())}, "fixed": fixed}


def assignments(params: Mapping[str, object]) -> list[str]:
    """Values of a trial as overrides."""
    return [f"{name}={value}" for name, value in params.items()]


def _key(override: Override) -> str:
    return str(override.key_or_group) if override.is_sweep_override() else str(override.get_key_element())


def _name(text: str) -> str:
    return text.lstrip("+~").partition("=")[0].partition("@")[0]


def _is(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _distribution(override: Override) -> BaseDistribution:
    """Distribution of a sweep override: an interval, evenly spaced whole numbers, or one of several texts."""
    value = override.value()
    if isinstance(value, IntervalSweep):
        low, high, log = value.start, value.end, "log" in value.tags
        if isinstance(low, int) and isinstance(high, int):
            return IntDistribution(low, high, log=log)
        return FloatDistribution(float(str(low)), float(str(high)), log=log)
    if isinstance(value, RangeSweep) and not value.shuffle and isinstance(numbers := value.range(), range) and numbers:
        low, high = sorted((numbers[0], numbers[-1]))
        return IntDistribution(low, high, step=abs(numbers.step))
    return CategoricalDistribution(list(override.sweep_string_iterator()))
