"""Vision Transformers as backbones: timm's own outputs as grids, at the run's image size, and nothing behind them."""

import csv
import json
import urllib.request
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from toy import BARE, command, composed, flat, make_category

from anomaly_lightning.errors import UserError, WeightsError
from anomaly_lightning.features import weights
from anomaly_lightning.features.backbone import Backbone
from anomaly_lightning.features.extractor import FeatureExtractor
from anomaly_lightning.features.vit import block_numbers
from anomaly_lightning.training.compose import build_backbone

TINY = "test_vit"  # timm's own for tests: 6 blocks of 64 channels, patches of 16, class token, embeddings for 160 x 160
SIZE = (64, 96)  # not square


def images(size=SIZE, count=2):
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(0))


def random_state(architecture, seed=1):
    """State of a timm model in which every tensor is random, class tokens and position embeddings as well."""
    model = timm.create_model(architecture, pretrained=False)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model.state_dict()


def timms_blocks(architecture, state, x, numbers):
    """Outputs of timm's blocks by hooks, in a model that timm itself makes for images of any size; no pruning."""
    model = timm.create_model(architecture, pretrained=False, dynamic_img_size=True).eval()
    model.load_state_dict(state)
    caught = {}
    hooks = [
        model.blocks[n].register_forward_hook(lambda module, given, out, n=n: caught.__setitem__(n, out))
        for n in numbers
    ]
    with torch.no_grad():
        model(x)
    for hook in hooks:
        hook.remove()
    return [caught[n] for n in numbers]


def as_grid(tokens, prefix, size, patch):
    """(B, prefix + h w, C) as (B, C, h, w), position by position."""
    height, width = size[0] // patch, size[1] // patch
    grid = torch.empty(len(tokens), tokens.shape[2], height, width)
    for row in range(height):
        for column in range(width):
            grid[:, :, row, column] = tokens[:, prefix + row * width + column]
    return grid


def compare(architecture, size, numbers, prefix, patch, tmp_path):
    state, x = random_state(architecture), images(size)
    torch.save(state, tmp_path / "state.pth")
    backbone = Backbone("timm", architecture, numbers, weights=str(tmp_path / "state.pth"))
    with torch.no_grad():
        found = backbone(x)
    for grid, tokens in zip(found, timms_blocks(architecture, state, x, numbers), strict=True):
        wanted = as_grid(tokens, prefix, size, patch)
        assert grid.shape == wanted.shape
        assert (grid - wanted).abs().max() < 1e-5 * wanted.abs().max()


@pytest.mark.parametrize("size", [SIZE, (160, 160), (224, 64)], ids=str)
def test_a_small_vit_gives_timms_own_tokens_without_the_class_token(size, tmp_path):
    compare(TINY, size, [1, 4], prefix=1, patch=16, tmp_path=tmp_path)


def test_registers_are_dropped_too(tmp_path):
    compare("vit_small_patch14_reg4_dinov2", (42, 56), [2], prefix=5, patch=14, tmp_path=tmp_path)


def test_rotary_embeddings_fit_the_size_too(tmp_path):
    compare("vit_small_patch16_dinov3", (48, 64), [2], prefix=5, patch=16, tmp_path=tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("side", [224, 392, 518])
def test_dinov2_small_gives_timms_own_tokens(side, tmp_path):
    compare("vit_small_patch14_dinov2", (side, side), [2, 5, 8, 11], prefix=1, patch=14, tmp_path=tmp_path)


def test_blocks_behind_the_last_layer_are_neither_kept_nor_computed():
    backbone = Backbone("timm", TINY, [1, 3], weights="random")
    assert len(backbone.body.model.blocks) == 4
    names = " ".join(backbone.state_dict())
    assert "blocks.3." in names
    assert "blocks.4." not in names
    assert "head" not in names


def test_it_is_frozen_whatever_is_asked_of_it():
    backbone = Backbone("timm", TINY, [1], weights="random")
    backbone.fit_to(SIZE)
    backbone.train()
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    assert not any(module.training for module in backbone.modules())


def test_a_checkpoint_can_be_loaded_into_it_once_the_shape_was_asked_for():
    """As the best weights of a training are; the embeddings were resampled meanwhile."""
    x, states, grids = images(), [], []
    for seed in (1, 2):
        backbone = Backbone("timm", TINY, [1, 3], weights="random")
        backbone.fit_to(SIZE)
        generator = torch.Generator().manual_seed(seed)
        states.append({k: torch.randn(v.shape, generator=generator) / 5 for k, v in backbone.state_dict().items()})
        backbone.load_state_dict(states[-1])
        with torch.no_grad():
            grids.append(backbone(x))
    extractor = FeatureExtractor(Backbone("timm", TINY, [1, 3], weights="random"))
    assert extractor.shape(SIZE) == (2 * 64, 4, 6)
    assert not any(value.is_inference() for value in extractor.state_dict().values())
    for state, wanted in zip(states, grids, strict=True):
        extractor.backbone.load_state_dict(state)
        with torch.no_grad():
            assert all(torch.equal(*pair) for pair in zip(extractor.layers(x), wanted, strict=True))


class TestLayers:
    """Numbers of blocks, from either end, or shares of the depth."""

    @pytest.mark.parametrize(
        ("given", "numbers"),
        [
            ([4, 1, 4], (1, 4)),
            ([-1, 0], (0, 5)),
            ([0.5], (2,)),
            ([0.01, 1.0], (0, 5)),
            ([0.6, 0.65, 0.8], (3, 4)),
            ([0.5, 4], (2, 4)),
        ],
    )
    def test_are_blocks_from_shallow_to_deep(self, given, numbers):
        assert Backbone("timm", TINY, given, weights="random").layers == numbers

    @pytest.mark.parametrize("given", [[6], [-7], [0.0], [1.2]])
    def test_outside_the_network_are_refused(self, given):
        with pytest.raises(UserError, match=r"backbone\.layers=.*test_vit has 6 blocks.*from 0 to 5"):
            Backbone("timm", TINY, given, weights="random")

    @pytest.mark.parametrize("given", [[], [1, "blocks.2"]])
    def test_are_of_one_kind(self, given):
        with pytest.raises(UserError, match="names of layers or numbers of blocks, of one kind"):
            Backbone("timm", TINY, given, weights="random")

    def test_have_names_in_other_libraries(self):
        with pytest.raises(UserError, match="resnet18 does not number its blocks"):
            Backbone("torchvision", "resnet18", [1], weights="random")


class TestSize:
    """Images have a side that patches fill."""

    def test_another_side_is_refused_with_the_nearest_ones(self):
        extractor = FeatureExtractor(Backbone("timm", TINY, [1], weights="random"))
        with pytest.raises(
            UserError, match=r"data\.image_size=\[100, 96\].*16 x 16.*nearest are \[96, 96\] or \[112, 96\]"
        ):
            extractor.shape((100, 96))

    def test_a_second_one_is_refused(self):
        backbone = Backbone("timm", TINY, [1], weights="random")
        backbone(images())
        with pytest.raises(UserError, match=r"\[32, 32\].*prepared for images of \[64, 96\]"):
            backbone(images((32, 32)))


class TestGroups:
    """Layers averaged in runs of consecutive ones, or each for itself."""

    @staticmethod
    def made(groups, layers=(0, 1, 2, 3, 4)):
        return FeatureExtractor(Backbone("timm", TINY, layers, weights="random"), groups=groups)

    def test_are_means_of_consecutive_layers(self):
        single = self.made(None)(images()).unflatten(1, (5, 64))
        one, two = self.made(1)(images()), self.made(2)(images()).unflatten(1, (2, 64))
        torch.testing.assert_close(one, single.mean(1))
        torch.testing.assert_close(two[:, 0], single[:, :2].mean(1))
        torch.testing.assert_close(two[:, 1], single[:, 2:].mean(1))

    @pytest.mark.parametrize("groups", [0, 6])
    def test_are_at_most_as_many_as_layers(self, groups):
        with pytest.raises(UserError, match=rf"features\.groups={groups}: expected null or 1 to 5"):
            self.made(groups)

    def test_need_layers_of_as_many_channels(self):
        extractor = FeatureExtractor(Backbone("tiny", "tiny", ["layer2", "layer3"], weights="random"), groups=1)
        with pytest.raises(UserError, match=r"features\.groups=1: .* \[12, 16\] channels"):
            extractor.shape(SIZE)


def test_swin_and_pvt_give_their_stages():
    swin = FeatureExtractor(Backbone("timm", "swin_tiny_patch4_window7_224", [0, 1], weights="random"))
    assert swin.shape((64, 96)) == (96 + 192, 16, 24)
    assert FeatureExtractor(Backbone("timm", "pvt_v2_b0", [1], weights="random")).shape((64, 96)) == (64, 8, 12)


class TestWeights:
    """A local file first, then timm's cache, then the network; licences are named."""

    @pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
    def test_from_a_file(self, tmp_path, suffix):
        state, file = random_state(TINY), tmp_path / f"weights{suffix}"
        save_file(state, file) if suffix == ".safetensors" else torch.save(state, file)
        backbone = Backbone("timm", TINY, [1], weights=str(file))
        assert torch.equal(
            backbone.state_dict()["body.model.blocks.1.mlp.fc1.weight"], state["blocks.1.mlp.fc1.weight"]
        )
        assert backbone.weights_sha256 == weights.sha256_of_file(file)

    def test_from_a_file_with_the_authors_own_names(self, tmp_path):
        """DINOv2 as Meta publishes it: a mask token, registers and scales under other names."""
        state = random_state("vit_small_patch14_reg4_dinov2")
        theirs = {name.replace("reg_token", "register_tokens"): value for name, value in state.items()}
        theirs |= {"cls_token": state["cls_token"], "mask_token": torch.zeros(1, 384)}
        # Meta adds the class token's own position embedding; timm folds it into the token.
        theirs["pos_embed"] = torch.cat([torch.zeros(1, 1, 384), state["pos_embed"]], 1)
        torch.save(theirs, tmp_path / "theirs.pth")
        backbone = Backbone("timm", "vit_small_patch14_reg4_dinov2", [0], weights=str(tmp_path / "theirs.pth"))
        for name in ("reg_token", "pos_embed"):
            assert torch.equal(backbone.state_dict()[f"body.model.{name}"], state[name])

    def test_of_another_model_are_refused(self, tmp_path):
        torch.save(random_state("test_vit2"), tmp_path / "other.pth")
        with pytest.raises(WeightsError, match=r"other\.pth does not fit vit_small_patch16_dinov3"):
            Backbone("timm", "vit_small_patch16_dinov3", [0], weights=str(tmp_path / "other.pth"))

    @pytest.mark.parametrize("name", ["dinov2_small", "dinov3_base"])
    def test_that_can_not_be_had_are_an_error_that_says_what_to_do(self, name):
        with pytest.raises(WeightsError) as caught:
            build_backbone(composed(f"backbone={name}"))
        text = str(caught.value)
        assert "backbone.weights=/path/to/file.pth" in text
        gated = "licence is dinov3-license" in text and "huggingface.co/timm/vit_base_patch16_dinov3.lvd1689m" in text
        assert gated == (name == "dinov3_base")

    def test_in_the_cache_are_taken_without_asking_the_network(self, monkeypatch):
        from huggingface_hub import constants

        asked, offline = [], []

        def cached(name, pretrained):
            offline.append(constants.HF_HUB_OFFLINE)
            return name

        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(urllib.request, "urlopen", lambda *given, **options: asked.append(given))
        monkeypatch.setattr(timm, "create_model", cached)
        assert weights.timm_model("x.y") == "x.y"
        assert (asked, offline, constants.HF_HUB_OFFLINE) == ([], [True], False)

    def test_name_the_normalisation(self):
        given = ("backbone=vit", f"backbone.architecture={TINY}", "backbone.layers=[1]", "backbone.weights=random")
        backbone = build_backbone(composed(*given, "backbone.pretrained=r160_in1k"))
        assert (backbone.mean, backbone.std) == ((0.5,) * 3, (0.5,) * 3)
        assert backbone.arguments["mean"] == [0.5, 0.5, 0.5]
        with pytest.raises(UserError, match=r"backbone\.mean and backbone\.std are not set"):
            build_backbone(composed(*given, "backbone.pretrained=null"))


RUN = (
    "debug=fast",
    "backbone=vit",
    f"backbone.architecture={TINY}",
    "backbone.layers=[0.5,1.0]",
    "backbone.pretrained=r160_in1k",
    "backbone.weights=random",
    "data.image_size=[64,96]",
    "features.grid=null",
    "trainer.accelerator=cpu",
)


def test_train_evaluate_and_predict_agree_on_scores(tmp_path):
    """The position embeddings that a checkpoint holds are those of the run's size, and are not resampled again."""
    make_category(tmp_path / "images")
    where = ("category=custom", "category.name=widget", f"data.root={tmp_path / 'images'}")
    ran = command("train", *RUN, *where, "model=pca", *BARE, f"hydra.run.dir={tmp_path / 'run'}", cwd=tmp_path)
    assert ran.code == 0, ran.out
    checkpoint = f"checkpoint={tmp_path / 'run' / 'checkpoints' / 'best.ckpt'}"
    assert command("evaluate", checkpoint, f"hydra.run.dir={tmp_path / 'again'}", cwd=tmp_path).code == 0
    source = tmp_path / "images" / "widget" / "test" / "spot"
    assert command("predict", checkpoint, f"input={source}", f"output={tmp_path / 'new'}", cwd=tmp_path).code == 0
    trained, evaluated = (scores_of(tmp_path / folder / "predictions.csv") for folder in ("run", "again"))
    predicted = scores_of(tmp_path / "new" / "decisions.csv")
    assert evaluated == pytest.approx(trained, rel=1e-4)
    assert len(predicted) == 4
    assert predicted == pytest.approx({name: trained[name] for name in predicted}, rel=1e-4)


def scores_of(table):
    """Score by folder and name of the image."""
    with table.open(newline="", encoding="utf-8") as stream:
        return {"/".join(Path(row["path"]).parts[-2:]): float(row["score"]) for row in csv.DictReader(stream)}


def test_a_side_that_patches_do_not_fill_stops_the_command_in_words(tmp_path):
    ran = command("train", *RUN, "data.image_size=100", "model=pca", "category=leather", cwd=tmp_path)
    assert ran.code == 1
    assert "the nearest are [96, 96] or [112, 112]" in flat(ran.out)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "size"),
    [(TINY, SIZE), ("vit_small_patch14_reg4_dinov2", (42, 56)), ("vit_small_patch16_dinov3", SIZE)],
)
def test_the_exported_graph_gives_the_same_grids(architecture, size, tmp_path):
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    backbone = Backbone("timm", architecture, [0, 1], weights="random")
    backbone.fit_to(size)
    x, batch = images(size), torch.export.Dim("batch")
    file = tmp_path / "backbone.onnx"
    torch.onnx.export(backbone, (x,), str(file), dynamo=True, dynamic_shapes=({0: batch},), verbose=False)
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    for given in (x, images(size, count=3)):
        with torch.no_grad():
            wanted = backbone(given)
        found = session.run(None, {session.get_inputs()[0].name: given.numpy()})
        for grid, want in zip(found, wanted, strict=True):
            assert abs(grid - want.numpy()).max() < 1e-4 * want.abs().max()


@pytest.mark.parametrize("experiment", ["subspace_vit", "anomaly_dino"])
def test_the_few_shot_recipes_run_on_one_image(experiment, root, tmp_path):
    """Random weights and 56 x 70 pixels; all else as the file says."""
    given = ("backbone.weights=random", "data.image_size=[56,70]", "data.shots=1", "data.workers=0", "bootstrap=0")
    where = ("category=custom", "category.name=widget", f"data.root={root}", "trainer.accelerator=cpu")
    folder = tmp_path / "run"
    ran = command("train", f"experiment={experiment}", *given, *where, *BARE, f"hydra.run.dir={folder}", cwd=tmp_path)
    assert ran.code == 0, ran.out
    found = json.loads((folder / "run.json").read_text(encoding="utf-8"))["card"]
    assert found["features"]["shape"] == [384, 4, 5]
    assert found["backbone"]["arguments"]["architecture"] == "vit_small_patch14_reg4_dinov2"
    assert len(scores_of(folder / "predictions.csv")) == 12


def test_the_recipes_look_at_the_papers_blocks_whatever_the_depth():
    layers = list(composed("experiment=subspace_vit").backbone.layers)
    deep = timm.create_model("test_vit", depth=40)
    assert block_numbers(deep, layers, "forty") == list(range(22, 29))  # hidden states 23 to 29, the first is no block
    assert block_numbers(timm.create_model("test_vit", depth=12), layers, "twelve") == [6, 7, 8]
    assert list(composed("experiment=anomaly_dino").backbone.layers) == layers
