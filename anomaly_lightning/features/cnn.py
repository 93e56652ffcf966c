"""Convolutional networks cut behind a layer that is named."""

from collections.abc import Sequence

from timm.models import create_feature_extractor
from torch import nn
from torch.fx import GraphModule

from anomaly_lightning.errors import UserError


def cut_behind(model: nn.Module, layers: Sequence[str], architecture: str) -> GraphModule:
    """Graph of the model that ends behind the last layer, with a dict of the layers' outputs.

    Raises:
        UserError: There is no such layer, or it is no convolutional network.
    """
    no_cnn = (
        f"{type(model).__name__} has self-attention: its layers have numbers, not names. Expected a convolutional "
        "network, say resnet50 or tf_efficientnet_lite0, or numbers of blocks: backbone=vit backbone.layers=[5,8] with "
        "timm's name of the architecture."
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
