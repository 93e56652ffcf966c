"""The multirun presets compose and expand to the jobs that their words promise."""

import importlib.util

import pytest
from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.utils import create_config_search_path
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import MissingConfigException
from hydra.types import RunMode
from omegaconf import OmegaConf

from anomaly_lightning.data import synthetic
from anomaly_lightning.places import CONFIG_DIR

CATEGORIES = sorted(file.stem for file in (CONFIG_DIR / "category").glob("*.yaml") if file.stem != "custom")
LAUNCHERS = {
    "cores": "hydra_joblib_launcher",
    "processes": "hydra_submitit_launcher",
    "slurm": "hydra_submitit_launcher",
}
LOADER = ConfigLoaderImpl(create_config_search_path(str(CONFIG_DIR)))  # a glob over choices asks it


def composed(*overrides):
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        return compose("train", list(overrides), return_hydra_config=True)


def jobs(*overrides: str) -> list[dict[str, str]]:
    """What each job of the sweep states, as Hydra's own sweeper splits it."""
    cfg = composed(*(text for text in overrides if "," not in text or text.startswith("+sweep")))
    assert cfg.hydra.mode == RunMode.MULTIRUN
    given = [f"{name}={value}" for name, value in cfg.hydra.sweeper.params.items()]
    given += [text for text in overrides if not text.startswith("+sweep")]
    (batch,) = BasicSweeper.split_arguments(OverridesParser.create(LOADER).parse_overrides(given), None)
    return [dict(text.split("=", 1) for text in job) for job in batch]


def installed(plugin: str) -> bool:
    spec = importlib.util.find_spec("hydra_plugins")
    return spec is not None and importlib.util.find_spec(f"hydra_plugins.{plugin}") is not None


def test_every_preset_has_a_test():
    tested = {"all_categories", "synthetic", "seeds", "shots", "autoencoder_size"}
    assert {file.stem for file in (CONFIG_DIR / "sweep").glob("*.yaml")} == tested
    assert {file.stem for file in (CONFIG_DIR / "hydra" / "launcher").glob("*.yaml")} == set(LAUNCHERS)


def test_all_categories_are_one_job_each():
    assert len(CATEGORIES) == 15
    assert sorted(job["category"] for job in jobs("+sweep=all_categories")) == CATEGORIES


def test_synthetic_is_every_category_that_can_be_generated_and_generates():
    assert sorted(job["category"] for job in jobs("+sweep=synthetic")) == sorted(synthetic.CATEGORIES)
    assert composed("+sweep=synthetic").data.layout == "synthetic"


def test_seeds_are_three_and_multiply_with_what_is_stated():
    assert jobs("+sweep=seeds") == [{"seed": seed} for seed in "012"]
    both = jobs("+sweep=seeds", "category=leather,tile")
    assert sorted((job["category"], job["seed"]) for job in both) == [
        (c, s) for c in ("leather", "tile") for s in "012"
    ]


def test_shots_are_drawn_by_three_seeds_each():
    found = sorted((job["data.shots"], job["seed"]) for job in jobs("+sweep=shots"))
    assert found == [(shots, seed) for shots in "124" for seed in "012"]


def test_two_presets_at_once_multiply():
    assert len(jobs("+sweep=[seeds,synthetic]")) == 3 * len(synthetic.CATEGORIES)


@pytest.mark.parametrize("job", range(15))
def test_each_job_of_all_categories_composes(job):
    given = jobs("+sweep=all_categories")[job]
    cfg = composed("+sweep=all_categories", *(f"{key}={value}" for key, value in given.items()))
    assert cfg.category.name == given["category"]


@pytest.mark.parametrize("name", LAUNCHERS)
def test_a_launcher_composes_with_its_plugin_and_names_it_without(name):
    if installed(LAUNCHERS[name]):
        launcher = composed(f"hydra/launcher={name}").hydra.launcher
        ours = "hydra_plugins.anomaly_lightning.launchers."
        assert launcher._target_.startswith(ours if name != "cores" else f"hydra_plugins.{LAUNCHERS[name]}.")
    else:
        with pytest.raises(MissingConfigException, match=r"joblib|submitit"):
            composed(f"hydra/launcher={name}")


def test_the_search_minimises_a_loss_of_normals_and_never_sees_the_test_set():
    cfg = composed("+sweep=autoencoder_size")
    assert cfg.test is False
    assert cfg.callbacks.best.monitor == "val/loss"
    assert cfg.hydra.sweeper.sampler.seed == 0
    assert all(name.startswith("model.") for name in cfg.hydra.sweeper.params)
    for name in cfg.hydra.sweeper.params:
        assert OmegaConf.select(cfg, name) is not None, "an option that there is"
