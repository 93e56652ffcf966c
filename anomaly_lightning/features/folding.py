"""Convolution and BatchNorm of a frozen network in one: the same features with fewer passes over memory."""

import copy
from collections import Counter

from timm.layers import BatchNormAct2d, Conv2dSame
from torch import nn
from torch.fx import GraphModule, Node
from torch.nn.utils.fusion import fuse_conv_bn_eval

# These very classes: a subclass may make something of its weights in forward (weight standardisation).
CONVOLUTIONS, NORMS = (nn.Conv2d, Conv2dSame), (nn.BatchNorm2d, BatchNormAct2d)


def folded(body: GraphModule) -> GraphModule:
    """Copy of a network in evaluation mode whose BatchNorms are folded into the convolutions before them.

    The copy's tensors are buffers outside its state dict: they follow the module that holds it to another device and
    leave that module's parameters and checkpoints as they are. Outputs agree with the original's to float32 rounding.
    A BatchNorm that follows anything else, or a convolution that is used elsewhere too, stays as it is.

    Args:
        body: A traced network; left alone.
    """
    twin = copy.deepcopy(body).eval()
    for node in _foldable(twin):
        before, norm = str(node.args[0].target), twin.get_submodule(str(node.target))  # type: ignore[union-attr]
        convolution = twin.get_submodule(before)
        twin.set_submodule(before, fuse_conv_bn_eval(convolution, norm))  # type: ignore[arg-type, type-var]
        rest = nn.Sequential(norm.drop, norm.act) if isinstance(norm, BatchNormAct2d) else nn.Identity()
        twin.set_submodule(str(node.target), rest)
    for module in twin.modules():
        _keep_out_of_state(module)
    return twin.eval()


def _foldable(body: GraphModule) -> list[Node]:
    """Calls of a BatchNorm on the output of a convolution that nothing else uses."""
    calls = Counter(str(node.target) for node in body.graph.nodes if node.op == "call_module")

    def once(node: object, kinds: tuple[type, ...]) -> bool:
        if not isinstance(node, Node) or node.op != "call_module":
            return False
        return calls[str(node.target)] == 1 and type(body.get_submodule(str(node.target))) in kinds

    def statistics(node: Node) -> bool:
        return body.get_submodule(str(node.target)).running_mean is not None

    pairs = [node for node in body.graph.nodes if once(node, NORMS) and once(node.args[0], CONVOLUTIONS)]
    return [node for node in pairs if statistics(node) and len(node.args[0].users) == 1]


def _keep_out_of_state(module: nn.Module) -> None:
    """Turn a module's own parameters and buffers into buffers that no state dict holds."""
    tensors = {**dict(module.named_parameters(recurse=False)), **dict(module.named_buffers(recurse=False))}
    for name, tensor in tensors.items():
        delattr(module, name)
        module.register_buffer(name, tensor.detach(), persistent=False)
