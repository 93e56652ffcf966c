"""Where pretrained weights come from when nothing is given, with torch's cache and the network played by the test."""

import hashlib
import io
import urllib.error
import urllib.request

import pytest
import torch
import torchvision
from toy import composed

from anomaly_lightning.errors import WeightsError
from anomaly_lightning.features import weights
from anomaly_lightning.training.compose import build_backbone


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty torch cache, and a network that is down; what was asked of it is listed."""
    asked = []

    def down(url, timeout=None):
        asked.append((getattr(url, "full_url", url), timeout))
        raise urllib.error.URLError("Network is unreachable")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(urllib.request, "urlopen", down)
    weights.resolve_backbone.cache_clear()
    yield tmp_path / "hub" / "checkpoints", asked
    weights.resolve_backbone.cache_clear()


def answer(monkeypatch, content):
    monkeypatch.setattr(urllib.request, "urlopen", lambda url, timeout=None: io.BytesIO(content))


def test_a_stated_backbone_is_never_replaced(hub):
    with pytest.raises(WeightsError) as caught:
        build_backbone(composed("backbone=resnet50"))
    text = str(caught.value)
    assert "resnet50" in text
    assert "Network is unreachable" in text
    assert "backbone.weights=/path/to/resnet50.pth" in text
    assert "backbone=efficientnet_lite0" in text
    assert [timeout for _, timeout in hub[1]] == [weights.CONNECT_TIMEOUT_S]
    assert not list(hub[0].glob("*")), "a failed download leaves nothing"


def test_auto_becomes_lite0_where_resnet50_can_not_be_had(hub):
    backbone = build_backbone(composed("backbone=auto"))
    assert backbone.name == "efficientnet_lite0"
    assert backbone.weights_sha256 == hashlib.sha256(weights.packaged_file().read_bytes()).hexdigest()
    assert len(hub[1]) == 1
    assert weights.resolve_backbone("auto") == "efficientnet_lite0"
    assert len(hub[1]) == 1, "the network is asked once a process"


def test_auto_is_resnet50_where_its_weights_are_in_the_cache(hub):
    folder, asked = hub
    folder.mkdir(parents=True)
    (folder / "resnet50-0676ba61.pth").write_bytes(b"whatever")
    assert weights.resolve_backbone("auto") == "resnet50"
    assert asked == []


def test_weights_in_the_cache_are_loaded_without_asking_anybody(hub):
    folder, asked = hub
    folder.mkdir(parents=True)
    torch.manual_seed(4)
    model = torchvision.models.resnet18(weights=None)
    url = torchvision.models.get_model_weights("resnet18")["IMAGENET1K_V1"].url
    torch.save(model.state_dict(), folder / url.rsplit("/", 1)[-1])
    backbone = build_backbone(composed("backbone=resnet18"))
    assert torch.equal(backbone.state_dict()["body.conv1.weight"], model.state_dict()["conv1.weight"])
    assert asked == []


def test_any_other_name_stands_for_itself(hub):
    assert weights.resolve_backbone("wide_resnet50_2") == "wide_resnet50_2"
    assert hub[1] == []


def test_a_download_is_whole_and_has_the_hash_that_its_name_states(tmp_path, monkeypatch):
    content = b"weights" * 1000
    name = f"model-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    answer(monkeypatch, content)
    file = weights.fetch(f"https://example.org/{name}", tmp_path / "new" / name)
    assert file.read_bytes() == content
    assert [path.name for path in file.parent.iterdir()] == [name]


def test_a_download_with_another_hash_is_refused_and_removed(tmp_path, monkeypatch):
    answer(monkeypatch, b"an error page")
    with pytest.raises(WeightsError, match="does not have the hash 0676ba61"):
        weights.fetch("https://example.org/resnet50-0676ba61.pth", tmp_path / "resnet50-0676ba61.pth")
    assert list(tmp_path.iterdir()) == []


def test_weights_that_torchvision_does_not_have_are_named():
    with pytest.raises(WeightsError, match="torchvision has no weights 'IMAGENET9K'"):
        weights.torchvision_file("resnet50", "IMAGENET9K")


def test_timms_weights_that_can_not_be_had_are_named(hub):
    given = ("backbone=timm", "backbone.architecture=resnet10t", "backbone.layers=[layer2]")
    with pytest.raises(WeightsError, match=r"resnet10t\.c3_in1k.*backbone\.weights="):
        build_backbone(composed(*given, "backbone.pretrained=c3_in1k"))


def test_lite0_needs_no_network(hub):
    assert build_backbone(composed("backbone=efficientnet_lite0")).weights_source == str(weights.packaged_file())
    assert hub[1] == []


@pytest.mark.parametrize("change", ["fewer", "shape"])
def test_renaming_by_order_checks_number_and_shapes(change, tmp_path):
    model = {"a": torch.zeros(2, 3), "b": torch.zeros(4)}
    theirs = {"x": torch.ones(2, 3), "y": torch.full((4,), 2.0)}
    renamed = weights.in_order_of(theirs, model, tmp_path)
    assert renamed["b"].tolist() == [2, 2, 2, 2]
    theirs = {"x": theirs["x"]} if change == "fewer" else {"x": theirs["y"], "y": theirs["x"]}
    named = "Expected 2 tensors" if change == "fewer" else r"Expected shape \(2, 3\) for a"
    with pytest.raises(WeightsError, match=named):
        weights.in_order_of(theirs, model, tmp_path)


def test_the_hash_of_a_state_sees_names_shapes_and_values():
    base = {"a": torch.arange(6.0).view(2, 3)}
    others = [{"b": base["a"]}, {"a": base["a"].view(3, 2)}, {"a": base["a"] + 1e-6}, {"a": base["a"].double()}]
    hashes = [weights.sha256_of_state(state) for state in (base, *others)]
    assert len(set(hashes)) == 5
    assert weights.sha256_of_state({"a": base["a"].clone()}) == hashes[0]
