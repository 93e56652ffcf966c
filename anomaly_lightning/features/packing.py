"""A frozen network's convolutions with oneDNN's own layout of the weights, and the activation behind them in one pass.

For inference on a CPU alone: the packed weights can't be moved, saved or exported.
"""

import copy
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import Conv2dSame
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torch.nn.utils.fusion import fuse_conv_bn_eval


class PackedConvolution(nn.Module):
    """A convolution and the activation behind it.

    The weights are packed for the size of the first input, and again whenever it changes: packed for another size,
    or for none in particular, some convolutions take twenty times as long.

    Args:
        convolution: In evaluation mode, float32, with zero padding.
        activation: `nn.ReLU`, `nn.ReLU6`, or None.
    """

    def __init__(self, convolution: nn.Conv2d, activation: nn.Module | None) -> None:
        super().__init__()
        self._shape: list[Any] = [convolution.padding, convolution.stride, convolution.dilation, convolution.groups]
        self._weight = convolution.weight.detach().to_mkldnn()
        self._bias = None if convolution.bias is None else convolution.bias.detach()
        self._words = _words(activation)
        self._size: list[int] = []

    def forward(self, images: Tensor) -> Tensor:
        """Features (B, C', h', w') float32 of (B, C, h, w) float32, in the memory format of the input."""
        if self._size != [*images.shape[1:]]:
            self._pack([*images.shape[1:]])
        found: Tensor = torch.ops.mkldnn._convolution_pointwise(images, *self._arguments)
        return found

    def _pack(self, size: list[int]) -> None:
        reordered: Any = torch._C._nn.mkldnn_reorder_conv2d_weight
        packed = reordered(self._weight, *self._shape, [1, *size])
        self._arguments = (packed, self._bias, *self._shape, *self._words, "")
        self._size = size


class PackedSameConvolution(nn.Module):
    """The same of a convolution that pads as TensorFlow does, one row and column more behind than before.

    Padding of one's own is a copy of the input. Where the stride divides the input, a kernel with leading zeros
    and even padding computes the same without.

    Args:
        convolution: In evaluation mode, float32, kernel at least as large as the stride, no dilation.
        activation: `nn.ReLU`, `nn.ReLU6`, or None.
    """

    def __init__(self, convolution: nn.Conv2d, activation: nn.Module | None) -> None:
        super().__init__()
        self.kernel, self.stride = convolution.kernel_size, convolution.stride
        rows, columns = (_uneven(*sides) for sides in zip(self.kernel, self.stride, strict=True))
        twins = [copy.deepcopy(convolution) for _ in range(2)]
        for twin, padding in zip(twins, ((0, 0), (rows[1], columns[1])), strict=True):
            twin.padding = padding
        lead = (columns[1] - columns[0], 0, rows[1] - rows[0], 0)
        twins[1].weight = nn.Parameter(F.pad(convolution.weight.detach(), lead), requires_grad=False)
        self.bare, self.widened = (PackedConvolution(twin, activation) for twin in twins)

    def forward(self, images: Tensor) -> Tensor:
        """Features (B, C', h', w') float32 of (B, C, h, w) float32, in the memory format of the input."""
        sides = list(zip(images.shape[-2:], self.kernel, self.stride, strict=True))
        if all(side % stride == 0 for side, _, stride in sides):
            return self.widened(images)
        missing = [max(0, (-(-side // stride) - 1) * stride + kernel - side) for side, kernel, stride in sides]
        (top, bottom), (left, right) = ((total // 2, total - total // 2) for total in missing)
        return self.bare(F.pad(images, (left, right, top, bottom)))


def _uneven(kernel: int, stride: int) -> tuple[int, int]:
    """Padding before and behind of an input that the stride divides."""
    return (kernel - stride) // 2, kernel - stride - (kernel - stride) // 2


PACKS: dict[type, Any] = {nn.Conv2d: PackedConvolution, Conv2dSame: PackedSameConvolution}


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
        if not _packable(convolution) or targets.count(str(node.target)) > 1:
            continue
        behind = _activation(twin, node)
        if behind is not None and targets.count(behind) == 1:
            activation = _parts(twin.get_submodule(behind))[0]
            twin.set_submodule(behind, nn.Identity())
        else:
            activation = None
        twin.set_submodule(str(node.target), PACKS[type(convolution)](convolution, activation))
    return twin


def packed_steps(steps: nn.Module) -> nn.Module:
    """What a convolution, or a sequence of convolutions, each with BatchNorm and ReLU behind it, computes, packed.

    Args:
        steps: In evaluation mode, on the CPU; left alone. Zero padding.
    """
    if isinstance(steps, nn.Conv2d):
        return PackedConvolution(steps, None)
    blocks = [steps] if isinstance(steps[0], nn.Conv2d) else steps  # type: ignore[index]
    return nn.Sequential(*(PackedConvolution(fuse_conv_bn_eval(block[0], block[1]), block[2]) for block in blocks))  # type: ignore[index, union-attr]


def _packable(module: nn.Module) -> bool:
    """Whether a module is a convolution that one of the two above computes."""
    if not isinstance(module, nn.Conv2d) or type(module) not in PACKS:
        return False
    if isinstance(module, Conv2dSame):
        fits = all(kernel >= stride for kernel, stride in zip(module.kernel_size, module.stride, strict=True))
        return fits and module.dilation == (1, 1)
    return module.padding_mode == "zeros" and not isinstance(module.padding, str)


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
