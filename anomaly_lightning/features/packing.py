"""A frozen network's convolutions with oneDNN's own layout of the weights, and the activation behind them in one pass.

For inference on a CPU alone: the packed weights can't be moved, saved or exported.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node


class PackedConvolution(nn.Module):
    """A convolution and the activation behind it.

    Args:
        convolution: In evaluation mode, float32, with zero padding.
        activation: `nn.ReLU`, `nn.ReLU6`, or None.
    """

    def __init__(self, convolution: nn.Conv2d, activation: nn.Module | None) -> None:
        super().__init__()
        shape: list[Any] = [convolution.padding, convolution.stride, convolution.dilation, convolution.groups]
        packed = torch._C._nn.mkldnn_reorder_conv2d_weight(convolution.weight.detach().to_mkldnn(), *shape)
        bias = None if convolution.bias is None else convolution.bias.detach()
        self._arguments = (packed, bias, *shape, *_words(activation), "")

    def forward(self, images: Tensor) -> Tensor:
        """Features (B, C', h', w') float32 of (B, C, h, w) float32, in the memory format of the input."""
        found: Tensor = torch.ops.mkldnn._convolution_pointwise(images, *self._arguments)
        return found


def can_pack() -> bool:
    """Whether this torch has oneDNN and the operator; it is not among those that torch promises to keep."""
    known = hasattr(torch.ops.mkldnn, "_convolution_pointwise"), hasattr(torch._C._nn, "mkldnn_reorder_conv2d_weight")
    onednn: Any = torch.backends.mkldnn
    return all(known) and bool(onednn.is_available() and onednn.enabled)


def packed(body: GraphModule) -> GraphModule:
    """Copy of a traced network with packed convolutions; outputs agree with the original's to float32 rounding.

    Args:
        body: On the CPU; left alone. Convolutions that are called twice or pad in another way stay as they are.
    """
    twin = copy.deepcopy(body)
    calls = [node for node in twin.graph.nodes if node.op == "call_module"]
    targets = [str(node.target) for node in calls]
    for node in calls:
        convolution = twin.get_submodule(str(node.target))
        if type(convolution) is not nn.Conv2d or targets.count(str(node.target)) > 1:
            continue
        if convolution.padding_mode != "zeros" or isinstance(convolution.padding, str):
            continue
        behind = _activation(twin, node)
        if behind is not None and targets.count(behind) == 1:
            activation = _parts(twin.get_submodule(behind))[0]
            twin.set_submodule(behind, nn.Identity())
        else:
            activation = None
        twin.set_submodule(str(node.target), PackedConvolution(convolution, activation))
    return twin


def _activation(body: GraphModule, node: Node) -> str | None:
    """Name of the module behind a call, where nothing else sees its output and it is an activation that is known."""
    users = list(node.users)
    if len(users) != 1 or users[0].op != "call_module":
        return None
    name = str(users[0].target)
    parts = _parts(body.get_submodule(name))
    return name if len(parts) == 1 and type(parts[0]) in (nn.ReLU, nn.ReLU6) else None


def _parts(module: nn.Module) -> list[nn.Module]:
    """What a module does, one step after the other, without those that do nothing."""
    steps = list(module) if type(module) is nn.Sequential else [module]
    return [step for step in steps if not isinstance(step, nn.Identity)]


def _words(activation: nn.Module | None) -> tuple[str, list[Any]]:
    """What oneDNN calls an activation, and its numbers."""
    if activation is None:
        return "none", []
    return ("hardtanh", [0.0, 6.0]) if isinstance(activation, nn.ReLU6) else ("relu", [])
