"""Composing the configs of conf/: the names that they call as ${name:...}, and a config without a command line."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from anomaly_lightning.errors import UserError
from anomaly_lightning.places import CONFIG_DIR, cache_dir
from anomaly_lightning.reports.used_folder import claim
from anomaly_lightning.runtime.names import folder_name
from anomaly_lightning.words import as_typed


def in_sweep() -> bool:
    """Whether this is a job of a multirun."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


@contextmanager
def known_to_hydra(cfg: DictConfig) -> Iterator[None]:
    """Within it ${hydra:...} reads this config, which holds `hydra`; Hydra itself sets that only when a job starts."""
    known = HydraConfig.instance()
    before = known.cfg
    known.set_config(cfg)
    try:
        yield
    finally:
        known.cfg = before


def run_names(cfg: DictConfig, chosen: Mapping[str, object]) -> dict[str, str]:
    """Category, model, backbone and seed of a run of train, as far as its config tells before it starts.

    Args:
        cfg: The run's config.
        chosen: File of conf/ by group, as Hydra has it in hydra.runtime.choices.
    """
    names = {name: str(chosen.get(name, "")) for name in ("category", "model", "backbone")}
    given = cfg.category.get("name", default_value=None)  # None where `category=custom` was left without one
    return names | {"category": str(given or names["category"]), "seed": str(cfg.seed)}


def _backbone_name(name: str) -> str:
    """Name of the backbone that `auto` stands for on this machine, any other name as it is."""
    from anomaly_lightning.features.weights import resolve_backbone

    return folder_name(resolve_backbone(name))


def _local_folder(output: str) -> str:
    """Folder for what Hydra writes: that of the outputs, or, where they have an address, one of the same name here."""
    _, separator, rest = output.partition("://")
    return f"outputs/predict/{folder_name(rest)}" if separator else output


def choices(group: str) -> str:
    """The files of a group of conf/, which are what can be chosen of it."""
    return ", ".join(sorted(path.stem for path in (CONFIG_DIR / group).glob("*.yaml")))


def groups(*names: str) -> str:
    """A line for each group, for --help: Hydra's own list has the groups of all commands."""
    return "\n".join(f"{name}: {choices(name)}" for name in names)


def register_resolvers() -> None:
    """Make the names known that the configs call as ${name:...}."""
    OmegaConf.register_new_resolver("backbone_name", _backbone_name, replace=True, use_cache=True)
    OmegaConf.register_new_resolver("in_sweep", in_sweep, replace=True)
    OmegaConf.register_new_resolver("cache_dir", cache_dir, replace=True)
    OmegaConf.register_new_resolver("choices", choices, replace=True)
    OmegaConf.register_new_resolver("groups", groups, replace=True)
    OmegaConf.register_new_resolver("folder_name", folder_name, replace=True)
    OmegaConf.register_new_resolver("local_folder", _local_folder, replace=True)


def claim_folders(cfg: DictConfig, folder: Path, command: str) -> None:
    """Make sure that a command may write into its folders.

    Args:
        cfg: Composed, not resolved; its `overwrite` and `ckpt` have a say where it has them.
        folder: What hydra.run.dir names; `run_dir` may name another.
        command: Name of the primary config.

    Raises:
        UserError: Outputs lie there that would be mixed up with the new ones.
    """
    folders = [folder]
    if "run_dir" in cfg and not OmegaConf.is_interpolation(cfg, "run_dir"):
        folders.append(Path(str(cfg.run_dir)))
    ckpt = cfg.get("ckpt")
    for place in folders:
        claim(place, command, bool(cfg.get("overwrite")), None if ckpt is None else Path(str(ckpt)))


# On import, because a launcher's worker process imports this file and never runs a command.
register_resolvers()


def composed(name: str, overrides: Sequence[str]) -> DictConfig:
    """The config that a command would run with, everything resolved; its run's folder holds it where a command's does.

    Inside of a command, too: what Hydra knows of that one is put back.

    Args:
        name: Of the primary config, "train" say.
        overrides: As on the command line: "category=leather".

    Raises:
        UserError: An override that there is none of, an option without a default that was not set, or a folder that
            holds the outputs of an earlier run.
    """
    known, outer = HydraConfig.instance(), GlobalHydra.instance()
    before, outside = known.cfg, outer.hydra
    outer.clear()
    try:
        with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
            cfg = compose(name, overrides=as_typed(name, overrides), return_hydra_config=True)
        known.set_config(cfg)  # which the folder's name asks for
        folder = Path(cfg.hydra.run.dir).absolute()
        claim_folders(cfg, folder, name)
        with read_write(cfg.hydra.runtime):
            cfg.hydra.runtime.output_dir = str(folder)
        known.set_config(cfg)
        keeps = cfg.hydra.output_subdir is not None
        with open_dict(cfg):
            del cfg.hydra
        if missing := sorted(OmegaConf.missing_keys(cfg)):
            raise UserError(f"There is no default for {', '.join(missing)}: set {missing[0]}=... .")
        OmegaConf.resolve(cfg)
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(str(error)) from error
    finally:
        known.cfg = before
        GlobalHydra.instance().hydra = outside
    if keeps:
        (folder / ".hydra").mkdir(parents=True, exist_ok=True)
        OmegaConf.save(cfg, folder / ".hydra" / "config.yaml")
        OmegaConf.save(OmegaConf.create(list(overrides)), folder / ".hydra" / "overrides.yaml")
    return cfg
