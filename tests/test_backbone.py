"""The frozen backbone: torchvision's and timm's own features, nothing past the last layer, weights that are checked."""

import hashlib

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from PIL import Image
from toy import composed

from anomaly_lightning.errors import UserError, WeightsError
from anomaly_lightning.features import folding, weights
from anomaly_lightning.features.backbone import Backbone
from anomaly_lightning.features.extractor import FeatureExtractor
from anomaly_lightning.features.packing import PackedConvolution, PackedSameConvolution, can_pack, packed
from anomaly_lightning.training.compose import build_backbone, build_extractor

SIZE = (96, 64)  # height, width


def images(count=2, seed=0):
    return torch.randn(count, 3, *SIZE, generator=torch.Generator().manual_seed(seed))


def lively(model, seed=3):
    """A model whose BatchNorm statistics are not those of a fresh one, so that ignoring them shows."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.copy_(0.3 * torch.randn(module.num_features, generator=generator))
            module.running_var.copy_(0.5 + torch.rand(module.num_features, generator=generator))
    return model.eval()


def outputs_of(model, names, x):
    """What the layers of a full model put out, caught by hooks: no feature extractor is involved."""
    caught, modules = {}, dict(model.named_modules())
    hooks = [modules[n].register_forward_hook(lambda m, i, o, n=n: caught.__setitem__(n, o)) for n in names]
    with torch.no_grad():
        model(x)
    for hook in hooks:
        hook.remove()
    return [caught[name] for name in names]


@pytest.fixture(scope="module")
def resnet50(tmp_path_factory):
    """A full torchvision ResNet-50 with random weights, and the file of its state dict."""
    torch.manual_seed(0)
    model = lively(torchvision.models.resnet50(weights=None))
    file = tmp_path_factory.mktemp("weights") / "resnet50.pth"
    torch.save(model.state_dict(), file)
    return model, file


@pytest.fixture(scope="module")
def ours(resnet50):
    return build_backbone(composed("backbone=resnet50", f"backbone.weights={resnet50[1]}"))


def test_resnet50_gives_torchvisions_own_layer2_and_layer3(resnet50, ours):
    x = images()
    wanted = outputs_of(resnet50[0], ["layer2", "layer3"], x)
    with torch.no_grad():
        found = ours(x)
    assert [tuple(layer.shape) for layer in found] == [(2, 512, 12, 8), (2, 1024, 6, 4)]
    for layer, want in zip(found, wanted, strict=True):
        # Another memory layout means another order of sums, hence relative to the largest value.
        assert (layer - want).abs().max() < 1e-5 * want.abs().max()


def test_the_taps_are_pooled_to_one_grid_as_by_hand(resnet50, ours):
    x = images(1)
    layers = outputs_of(resnet50[0], ["layer2", "layer3"], x)
    with torch.no_grad():
        plain = FeatureExtractor(ours, grid=[4, 3], neighbourhood=1)(x)
        smooth = FeatureExtractor(ours, grid=[4, 3], neighbourhood=3)(x)
    assert plain.shape == (1, 1536, 4, 3)
    # 12 x 8 -> 4 x 3: rows are means of threes; columns overlap, as adaptive pooling cuts 8 into 3
    cell = layers[0][0, :, 3:6, 2:6].mean((1, 2))
    torch.testing.assert_close(plain[0, :512, 1, 1], cell, rtol=1e-4, atol=1e-5)
    padded = F.pad(layers[0], (1, 1, 1, 1))
    inside = F.pad(torch.ones_like(layers[0]), (1, 1, 1, 1))
    mean = padded.unfold(2, 3, 1).unfold(3, 3, 1).sum((-1, -2)) / inside.unfold(2, 3, 1).unfold(3, 3, 1).sum((-1, -2))
    torch.testing.assert_close(smooth[0, :512, 1, 1], mean[0, :, 3:6, 2:6].mean((1, 2)), rtol=1e-4, atol=1e-5)


class WholeModules(torch.fx.Tracer):
    """Calls modules without children, whoever wrote them, and does not look into them."""

    def is_leaf_module(self, m, module_qualified_name):
        return not list(m.children())


class TestFolding:
    """BatchNorm folded into the convolutions: the same features, and none of it in checkpoints."""

    @staticmethod
    def norms(module):
        return [name for name, part in module.named_modules() if isinstance(part, torch.nn.BatchNorm2d)]

    @pytest.mark.parametrize("name", ["efficientnet_lite0", "resnet50"])
    def test_nothing_but_rounding_changes(self, name, ours):
        backbone = ours if name == "resnet50" else build_backbone(composed(f"backbone={name}"))
        assert self.norms(backbone.body)
        assert not self.norms(backbone.folded)
        with torch.no_grad():
            for layer, want in zip(backbone(images()), backbone.body(images()).values(), strict=True):
                assert (layer - want).abs().max() < 1e-5 * want.abs().max()

    def test_checkpoints_and_parameters_are_those_of_the_network_as_it_came(self, resnet50, ours):
        held, whole = ours.state_dict(), resnet50[0].state_dict()
        assert held.keys() <= {f"body.{name}" for name in whole}
        assert all(torch.equal(value, whole[name.removeprefix("body.")]) for name, value in held.items())
        assert all(name.startswith("body.") for name, _ in ours.named_parameters())

    def test_weights_that_are_loaded_later_are_folded_too(self):
        first, second = (Backbone("tiny", "tiny", ["layer2", "layer3"], weights="random") for _ in range(2))
        lively(second.body)
        holder = torch.nn.ModuleDict({"backbone": first})
        holder.load_state_dict({f"backbone.{name}": value for name, value in second.state_dict().items()})
        x = images()
        with torch.no_grad():
            for layer, want in zip(first(x), second.body(x).values(), strict=True):
                torch.testing.assert_close(layer, want, rtol=1e-5, atol=1e-6)

    @pytest.mark.skipif(not can_pack(), reason="this torch has no oneDNN, or not its operator")
    @pytest.mark.parametrize("name", ["efficientnet_lite0", "resnet50"])
    def test_packed_weights_change_nothing_but_rounding_and_are_in_no_state(self, name):
        backbone = build_backbone(composed(f"backbone={name}", "backbone.weights=random"))
        lively(backbone.body)
        backbone.pack(False)
        x, held = images(), {key: value.clone() for key, value in backbone.state_dict().items()}
        with torch.inference_mode():
            plain = backbone(x)
            backbone.pack()
            assert [part for part in backbone.folded.modules() if isinstance(part, PackedConvolution)]
            for layer, want in zip(backbone(x), plain, strict=True):
                assert (layer - want).abs().max() < 1e-5 * want.abs().max()
            assert all(torch.equal(value, held[key]) for key, value in backbone.state_dict().items())
            backbone.pack(False)
            assert all(torch.equal(layer, want) for layer, want in zip(backbone(x), plain, strict=True))

    @pytest.mark.skipif(not can_pack(), reason="this torch has no oneDNN, or not its operator")
    @pytest.mark.parametrize(("kernel", "stride"), [(3, 2), (5, 2), (3, 1), (4, 3), (2, 2)])
    @pytest.mark.parametrize("size", [(12, 24), (13, 24), (13, 23), (14, 25)])
    def test_padding_as_tensorflow_has_it_costs_no_copy_and_changes_nothing(self, kernel, stride, size):
        torch.manual_seed(0)
        convolution = timm.layers.Conv2dSame(6, 6, kernel, stride, groups=3)
        network = torch.fx.GraphModule(
            model := torch.nn.Sequential(convolution, torch.nn.ReLU()), WholeModules().trace(model)
        )
        with torch.inference_mode():
            x = torch.randn(2, 6, *size).contiguous(memory_format=torch.channels_last)
            twin = packed(network)
            assert isinstance(twin.get_submodule("0"), PackedSameConvolution)
            torch.testing.assert_close(twin(x), network(x), rtol=1e-5, atol=1e-6)

    @pytest.mark.skipif(not can_pack(), reason="this torch has no oneDNN, or not its operator")
    def test_activations_are_packed_where_nothing_else_sees_what_they_take(self):
        class Two(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.first, self.second, self.third = (torch.nn.Conv2d(3, 3, 1) for _ in range(3))
                self.six, self.relu = torch.nn.ReLU6(), torch.nn.ReLU()

            def forward(self, x):
                seen = self.second(self.six(10 * self.first(x)) + self.six(self.first(x)))
                return self.relu(seen), seen, self.relu(self.third(seen))

        body = torch.fx.symbolic_trace(Two().eval())
        single = torch.fx.symbolic_trace(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, 2), torch.nn.ReLU6()).eval())
        with torch.inference_mode():
            x = 9 * torch.randn(2, 3, 7, 8).contiguous(memory_format=torch.channels_last)
            for network, modules in ((body, 2), (single, 1)):
                twin = packed(network)
                assert sum(isinstance(part, PackedConvolution) for part in twin.modules()) == modules
                torch.testing.assert_close(twin(x), network(x))
            assert not [part for part in packed(single).modules() if isinstance(part, torch.nn.ReLU6)]
            assert single(x).max() == 6

    def test_all_of_it_moves_to_another_device(self):
        backbone = Backbone("tiny", "tiny", ["layer2", "layer3"], weights="random").to("meta")
        assert {layer.device.type for layer in backbone(images().to("meta"))} == {"meta"}

    def test_a_tap_on_a_convolution_is_what_it_puts_out(self, resnet50):
        layers = ["conv1", "layer1.0.conv2", "layer1"]
        backbone = build_backbone(
            composed("backbone=resnet50", f"backbone.weights={resnet50[1]}", f"backbone.layers={layers}")
        )
        with torch.no_grad():
            for layer, want in zip(backbone(images()), outputs_of(resnet50[0], layers, images()), strict=True):
                assert (layer - want).abs().max() < 1e-5 * want.abs().max()

    def test_the_image_itself_can_be_a_layer(self):
        backbone = Backbone("tiny", "tiny", ["image", "layer2"], weights="random")
        image, layer = backbone(images())
        assert torch.equal(image, images())
        assert torch.equal(layer, Backbone("tiny", "tiny", ["layer2"], weights="random")(images())[0])
        with pytest.raises(UserError, match=r"backbone\.layers=\['image'\]: expected a layer of the network besides"):
            Backbone("tiny", "tiny", ["image"], weights="random")

    def test_what_is_used_twice_or_computes_its_own_weights_is_left_alone(self):
        shared = torch.nn.Conv2d(3, 3, 1)
        norms = [torch.nn.BatchNorm2d(3), torch.nn.BatchNorm2d(3), torch.nn.BatchNorm2d(8)]
        model = torch.nn.Sequential(shared, norms[0], shared, norms[1], timm.layers.StdConv2d(3, 8, 3), norms[2])
        graph = WholeModules().trace(lively(model))
        twin = folding.folded(torch.fx.GraphModule(model, graph))
        assert len(self.norms(twin)) == 3
        with torch.no_grad():
            torch.testing.assert_close(twin(images()), model(images()))


def test_nothing_is_kept_or_computed_past_the_last_tap(ours):
    names = [name for name, _ in ours.named_parameters()]
    assert any("layer3" in name for name in names)
    assert not [name for name in names if "layer4" in name or "fc" in name]
    assert "layer4" not in str(ours.body.graph if hasattr(ours.body, "graph") else list(ours.body.state_dict()))


def test_it_is_frozen_whatever_is_asked_of_it(ours):
    assert not any(parameter.requires_grad for parameter in ours.parameters())
    before = {name: value.clone() for name, value in ours.state_dict().items()}
    extractor = FeatureExtractor(ours, 4)
    extractor.train()
    ours.train()
    assert not any(module.training for module in extractor.modules())
    with torch.no_grad():
        extractor(images(seed=1))
    assert all(torch.equal(value, before[name]) for name, value in ours.state_dict().items())


def test_what_was_loaded_is_on_record(resnet50, ours):
    assert ours.weights_sha256 == hashlib.sha256(resnet50[1].read_bytes()).hexdigest()
    assert ours.weights_source == str(resnet50[1])


def test_the_grid_may_be_the_shallowest_taps_own(ours):
    assert FeatureExtractor(ours).shape(SIZE) == (1536, 12, 8)
    assert FeatureExtractor(ours, grid=5).shape(SIZE) == (1536, 5, 5)
    with pytest.raises(UserError, match=r"features\.neighbourhood=2"):
        FeatureExtractor(ours, neighbourhood=2)


def test_lite0_carries_the_packages_weights_in_the_right_places():
    """A photograph of a temple's roof is known for one: a mix-up of names or of the normalisation would not know it."""
    from sklearn.datasets import load_sample_image
    from torchvision.models._meta import _IMAGENET_CATEGORIES

    model = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    file = weights.packaged_file()
    model.load_state_dict(weights.in_order_of(weights.read_state_dict(file), model.state_dict(), file), strict=True)
    backbone = build_backbone(composed("backbone=efficientnet_lite0"))
    image = Image.fromarray(load_sample_image("china.jpg")).resize((256, 224))
    scaled = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255
    x = (scaled - torch.tensor(backbone.mean).view(3, 1, 1)) / torch.tensor(backbone.std).view(3, 1, 1)
    with torch.no_grad():
        best = model(x).topk(4).indices[0].tolist()
        found = backbone(x)
    assert {"bell cote", "palace", "monastery"} <= {_IMAGENET_CATEGORIES[i] for i in best}
    for layer, want in zip(found, outputs_of(model, backbone.layers, x), strict=True):
        assert (layer - want).abs().max() < 1e-5 * want.abs().max()  # folded against apart: rounding, and no more


def test_lite0_taps_are_those_of_timms_own_feature_list():
    backbone = build_backbone(composed("backbone=efficientnet_lite0", "backbone.layers=[blocks.2,blocks.4]"))
    full = timm.create_model("tf_efficientnet_lite0", pretrained=False, features_only=True, out_indices=(2, 3)).eval()
    file = weights.packaged_file()
    classifier = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    state = weights.in_order_of(weights.read_state_dict(file), classifier.state_dict(), file)
    full.load_state_dict(state, strict=False)
    x = images(1)
    with torch.no_grad():
        for layer, want, stride in zip(backbone(x), full(x), (8, 16), strict=True):
            assert layer.shape[-2:] == (SIZE[0] // stride, SIZE[1] // stride)
            torch.testing.assert_close(layer, want, rtol=1e-4, atol=1e-4)


def test_any_cnn_of_timm_or_torchvision_by_config():
    timm_one = ("backbone=timm", "backbone.architecture=resnet10t", "backbone.layers=[layer1,layer2]")
    torchvision_one = ("backbone=torchvision", "backbone.architecture=resnet18", "backbone.layers=[layer1]")
    one = build_extractor(composed(*timm_one, "backbone.pretrained=null", "backbone.weights=random"))
    two = build_extractor(composed(*torchvision_one, "backbone.weights=random"))
    assert one.shape(SIZE)[0] == 64 + 128
    assert two.shape(SIZE)[0] == 64
    assert (one.backbone.name, two.backbone.name) == ("resnet10t", "resnet18")


def test_random_weights_are_the_same_every_time_and_leave_torchs_seed_alone():
    before = torch.random.get_rng_state()
    first, second = (Backbone("tiny", "tiny", ["layer2"], weights="random") for _ in range(2))
    assert torch.equal(before, torch.random.get_rng_state())
    assert first.weights_sha256 == second.weights_sha256
    assert first.weights_source == "random"
    with torch.no_grad():
        assert torch.equal(first(images())[0], second(images())[0])


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        (("tiny", "tiny", ["layer9"]), r"backbone\.layers=\['layer9'\]: tiny consists of layer1, layer2, layer3"),
        (("torchvision", "resnet5000", ["layer2"]), r"architecture=resnet5000: torchvision has no such model"),
        (("timm", "resnet5000", ["layer2"]), r"backbone\.architecture=resnet5000: timm has no such model"),
        (("keras", "resnet50", ["layer2"]), r"backbone\.library=keras: expected torchvision, timm or tiny"),
    ],
)
def test_what_does_not_exist_is_named(settings, named):
    with pytest.raises(UserError, match=named):
        Backbone(*settings, weights="random")


@pytest.mark.parametrize(
    ("library", "architecture", "layer"),
    [
        ("timm", "vit_tiny_patch16_224", "blocks.3"),
        ("timm", "vit_tiny_patch16_224", "no_such_layer"),
        ("timm", "pvt_v2_b0", "stages.1"),
        ("torchvision", "swin_t", "features.1"),
    ],
)
def test_networks_with_self_attention_are_refused_by_name_before_weights_are_fetched(library, architecture, layer):
    with pytest.raises(UserError, match=rf"{architecture}.* \w+ has self-attention.* Expected a convolutional network"):
        Backbone(library, architecture, [layer], pretrained="none_such")


def test_attention_behind_the_last_layer_does_no_harm():
    assert FeatureExtractor(Backbone("timm", "resnet50_clip", ["stages.0"], weights="random")).shape((64, 96)) == (
        256,
        16,
        24,
    )


def test_layers_that_are_no_grids_and_sizes_that_do_not_fit_are_refused_by_name():
    mixer = FeatureExtractor(Backbone("timm", "mixer_s32_224", ["blocks.0"], weights="random"))
    with pytest.raises(
        UserError, match=r"backbone\.layers=\['blocks\.0'\]: expected grids of features .* \(1, 49, 512\)"
    ):
        mixer.shape((224, 224))
    with pytest.raises(UserError, match=r"data\.image_size=\[96, 96\]: mixer_s32_224 can't see images of this size"):
        mixer.shape((96, 96))


class TestWeightsFiles:
    """Files that are not what they should be."""

    def refused(self, file, match):
        with pytest.raises(WeightsError, match=match) as caught:
            Backbone("torchvision", "resnet18", ["layer2"], weights=str(file))
        assert str(file) in str(caught.value)

    def test_of_another_model(self, tmp_path):
        torch.save(torchvision.models.resnet34(weights=None).layer1.state_dict(), tmp_path / "other.pth")
        self.refused(tmp_path / "other.pth", "does not fit resnet18.*conv1.weight")

    def test_with_one_tensor_of_another_shape(self, tmp_path):
        state = torchvision.models.resnet18(weights=None).state_dict()
        state["layer2.0.conv1.weight"] = state["layer2.0.conv1.weight"][:, :-1]
        torch.save(state, tmp_path / "shape.pth")
        self.refused(tmp_path / "shape.pth", r"1 of its 122 tensors .*layer2\.0\.conv1\.weight")

    def test_truncated(self, tmp_path):
        torch.save(torchvision.models.resnet18(weights=None).state_dict(), tmp_path / "whole.pth")
        (tmp_path / "cut.pth").write_bytes((tmp_path / "whole.pth").read_bytes()[:1_000_000])
        self.refused(tmp_path / "cut.pth", "no state dict that can be loaded")

    @pytest.mark.parametrize("content", [b"", b"hello, this is text", b"\x00" * 4096], ids=["empty", "text", "zeros"])
    def test_that_is_no_weights_file(self, tmp_path, content):
        (tmp_path / "odd.pth").write_bytes(content)
        self.refused(tmp_path / "odd.pth", "no state dict that can be loaded")

    def test_missing(self, tmp_path):
        self.refused(tmp_path / "nowhere.pth", r"(?s)There is no weights file .*nowhere\.pth")

    def test_holding_something_else(self, tmp_path):
        torch.save([1, 2, 3], tmp_path / "list.pth")
        self.refused(tmp_path / "list.pth", "Expected a state dict .*got list")

    def test_that_would_run_code(self, tmp_path):
        marker = tmp_path / "marker"

        class Evil:
            def __reduce__(self):
                return (open, (str(marker), "w"))

        torch.save({"conv1.weight": Evil()}, tmp_path / "evil.pth")
        self.refused(tmp_path / "evil.pth", "without running code")
        assert not marker.exists()

    @pytest.mark.parametrize("key", ["state_dict", "model"])
    def test_wrapped_and_without_a_classifier_is_fine(self, tmp_path, key):
        state = lively(torchvision.models.resnet18(weights=None)).state_dict()
        bare = {name: value for name, value in state.items() if not name.startswith("fc.")}
        torch.save({key: bare}, tmp_path / "wrapped.pth")
        backbone = Backbone("torchvision", "resnet18", ["layer2"], weights=str(tmp_path / "wrapped.pth"))
        assert torch.equal(backbone.state_dict()["body.conv1.weight"], state["conv1.weight"])
