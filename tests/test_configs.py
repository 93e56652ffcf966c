"""Every config file that exists composes, and says exactly the arguments of what it makes."""

import inspect

import pytest
import pytorch_lightning as pl
from hydra.errors import HydraException
from hydra.utils import get_object, instantiate
from omegaconf import OmegaConf
from toy import composed

from anomaly_lightning.calibration import Rule
from anomaly_lightning.data.synthetic import generate
from anomaly_lightning.features.backbone import Backbone
from anomaly_lightning.features.extractor import FeatureExtractor
from anomaly_lightning.features.weights import PREFERRED, PREFERRED_WEIGHTS
from anomaly_lightning.places import CONFIG_DIR
from anomaly_lightning.scoring import Scoring
from anomaly_lightning.training import compose

EXTRAS = ("autoencoder_size",)  # need a plugin of an extra; tests/test_sweep_configs.py has them
FILES = sorted(
    f"{path.parent.name}/{path.stem}"
    for path in CONFIG_DIR.glob("*/*.yaml")
    if path.parent.name not in ("hydra", "download", "source", "sink") and path.stem not in EXTRAS
)
# What a file leaves to its user: ??? in the file itself.
GIVEN = {
    "category/custom": ["category.name=widgets", "data.root=/images"],
    "data/folder": ["category.name=widgets", "data.normal=/images/good"],
    "data/manifest": ["category.name=widgets", "data.manifest=/images/parts.csv"],
    "backbone/torchvision": ["backbone.architecture=resnet18", "backbone.layers=[layer2]"],
    "backbone/vit": ["backbone.architecture=test_vit", "backbone.layers=[1,3]", "backbone.pretrained=r160_in1k"],
    "backbone/timm": ["backbone.architecture=resnet18", "backbone.layers=[layer2]", "backbone.pretrained=a1_in1k"],
}
APPENDED = ("sweep",)  # no default in train.yaml


def choose(name):
    group, _, choice = name.partition("/")
    return f"{'+' if group in APPENDED else ''}{group}={choice}"


def values(config):
    """The whole config with interpolations resolved; raises where one can't be, or where ??? is left."""
    config = config.copy()
    if "hydra" in config:
        OmegaConf.set_struct(config, False)
        del config["hydra"]
    config.run_dir = "somewhere"
    return OmegaConf.to_container(config, resolve=True, throw_on_missing=True)


def targets(node):
    """All plain dicts with a `_target_`, at any depth."""
    if isinstance(node, dict):
        if "_target_" in node:
            yield node
        for value in node.values():
            yield from targets(value)


def arguments(function):
    return {name for name, value in inspect.signature(function).parameters.items() if name != "self"}


@pytest.mark.parametrize("name", FILES)
def test_composes_and_leaves_nothing_open(name):
    config = composed(choose(name), *GIVEN.get(name, []))
    found = values(config)
    assert found["category"]["name"]
    group, _, choice = name.partition("/")
    if group == "category" and choice != "custom":
        assert found["category"]["name"] == choice


@pytest.mark.parametrize("name", [name for name in FILES if name in GIVEN])
def test_what_a_file_leaves_open_has_to_be_stated(name):
    with pytest.raises(Exception, match=r"(?i)missing"):
        values(composed(choose(name)))


@pytest.mark.parametrize("name", FILES)
def test_every_target_takes_exactly_the_keys_of_its_yaml(name):
    for node in targets(values(composed(choose(name), *GIVEN.get(name, [])))):
        made = get_object(node["_target_"])
        keys = {key for key in node if not key.startswith("_")}
        if node["_target_"].startswith("anomaly_lightning."):
            assert keys == arguments(made), node["_target_"]
        else:  # other people's classes have more arguments than are worth a line
            assert keys <= arguments(made), node["_target_"]


@pytest.mark.parametrize("name", [name for name in FILES if name.startswith("backbone/") and not name.endswith("auto")])
def test_a_backbone_states_all_the_arguments_of_backbone(name):
    assert set(composed(choose(name), *GIVEN.get(name, [])).backbone) == arguments(Backbone)


def test_sections_without_a_target_state_all_arguments_of_what_they_become():
    config = composed()
    assert set(config.scoring) - {"mask_share"} == arguments(Scoring) - {"grid", "size", "region"}
    assert set(config.features) == arguments(FeatureExtractor) - {"backbone"}
    assert set(config.data.generate) == arguments(generate) - {"root", "category"}


@pytest.mark.parametrize("name", [name for name in FILES if name.startswith("threshold/")])
def test_thresholds_are_rules(name):
    config = composed(choose(name), f"threshold@pixel_threshold={name.split('/')[1]}")
    assert isinstance(instantiate(config.threshold), Rule)
    assert instantiate(config.threshold) == instantiate(config.pixel_threshold)


@pytest.mark.parametrize("name", [name for name in FILES if name.split("/")[0] in ("trainer", "callbacks", "logger")])
def test_a_trainer_is_made_of_what_the_files_say(name, tmp_path):
    config = composed(choose(name), f"run_dir={tmp_path}", "trainer.accelerator=cpu")
    trainer = compose.build_trainer(config, players=1)
    assert isinstance(trainer, pl.Trainer)
    assert trainer.max_epochs == config.trainer.max_epochs
    kinds = {type(callback).__name__ for callback in trainer.callbacks}
    named = [node["_target_"].rpartition(".")[2] for node in values(config)["callbacks"].values() if node]
    assert set(named) <= kinds


def test_several_players_have_no_one_loss_to_watch(tmp_path):
    config = composed(f"run_dir={tmp_path}", "trainer.accelerator=cpu")
    trainer = compose.build_trainer(config, players=2)
    assert trainer.max_epochs == config.trainer.max_epochs
    assert [callback.monitor for callback in trainer.checkpoint_callbacks] == [None]
    assert not any(isinstance(callback, pl.callbacks.EarlyStopping) for callback in trainer.callbacks)


def test_methods_without_gradients_get_one_epoch_and_no_watched_loss(tmp_path):
    trainer = compose.build_trainer(composed(f"run_dir={tmp_path}", "trainer.accelerator=cpu"), players=0)
    assert trainer.max_epochs == 1
    assert [callback.monitor for callback in trainer.checkpoint_callbacks] == [None]


@pytest.mark.parametrize("name", [name for name in FILES if name.startswith("sweep/")])
def test_a_sweep_names_values_that_exist(name):
    sweep = composed(choose(name), with_hydra=True).hydra
    assert str(sweep.mode).endswith("MULTIRUN")
    known = {path.stem for path in (CONFIG_DIR / "category").glob("*.yaml")}
    assert sweep.sweeper.params
    for key, choices in sweep.sweeper.params.items():
        if str(choices).startswith("glob("):  # tests/test_sweep_configs.py expands it
            continue
        for choice in str(choices).split(","):
            assert key != "category" or choice in known
            composed(choose(name), f"{key}={choice}")


def test_all_categories_are_those_of_mvnet():
    mvnet = (
        "bottle cable capsule carpet grid hazelnut leather metal_nut pill screw tile toothbrush transistor wood zipper"
    )
    files = {path.stem for path in (CONFIG_DIR / "category").glob("*.yaml")}
    assert files == {*mvnet.split(), "custom"}


def test_the_seed_experiment_is_the_plain_recipe():
    config = composed("experiment=classic")
    backbone = (config.backbone.architecture, list(config.backbone.layers), config.backbone.pretrained)
    assert backbone == ("resnet50", ["layer2", "layer3"], "IMAGENET1K_V1")
    assert (config.optimizer._target_, config.optimizer.lr) == ("torch.optim.Adam", 0.001)
    assert (config.trainer.max_epochs, config.data.batch_size, config.data.split) == (100, 32, "pooled_80_20")
    assert config.model._target_.endswith("Autoencoder")
    assert (config.threshold._target_.rpartition(".")[2], config.threshold.k) == ("MeanStd", 3.0)


def test_what_auto_prefers_is_what_the_yaml_says():
    preferred = OmegaConf.load(CONFIG_DIR / "backbone" / f"{PREFERRED}.yaml")
    assert preferred.pretrained == PREFERRED_WEIGHTS


def test_the_threshold_of_a_debug_run_and_of_masks_can_differ():
    config = composed("debug=fast", "threshold=quantile", "threshold@pixel_threshold=robust")
    made = values(config)["callbacks"]["calibration"]
    assert made["rule"]["_target_"].endswith("Quantile")
    assert made["pixel_rule"]["_target_"].endswith("Robust")


@pytest.mark.parametrize("config", ["evaluate", "predict"])
def test_the_other_commands_compose(config):
    given = ["checkpoint=best.ckpt", *(["input=a.png", "output=out"] if config == "predict" else [])]
    composed_config = composed(*given, config=config, with_hydra=True)
    run = composed_config.hydra.run.dir
    assert "train" not in str(run)
    if config == "evaluate":
        assert values(composed_config)["checkpoint"] == "best.ckpt"
    with pytest.raises(HydraException, match="nonsense"):
        composed(*given, "nonsense=1", config=config)


@pytest.mark.parametrize("layout", ["folder", "manifest"])
def test_own_images_are_a_category_of_their_own(layout):
    config = composed(f"data={layout}", with_hydra=True)
    assert config.hydra.runtime.choices.category == "custom"
    assert composed(f"data={layout}", "category=custom", "category.name=bolts").category.name == "bolts"
    assert composed(f"data={layout}", "category=leather").category.name == "leather"
