"""Vision Transformers, and whatever else of timm gives its blocks' outputs as grids (`forward_intermediates`)."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from anomaly_lightning.errors import UserError

Size = tuple[int, int]


def block_numbers(model: nn.Module, layers: Sequence[int | float], architecture: str) -> list[int]:
    """Numbers of the blocks that `layers` names, from 0 upwards, each once and shallow to deep.

    Args:
        model: Of timm.
        layers: Numbers of blocks, negative ones from the end; or shares of the depth in (0, 1], written with a point:
            0.5 = behind half of the blocks. Shares mean the same for networks of any depth; two that fall on one block
            are that block.
        architecture: The model's name.

    Raises:
        UserError: The model has no such block, or can't give its blocks' outputs.
    """
    name = f"backbone.layers={list(layers)}: {architecture}"
    if not all(hasattr(model, method) for method in ("forward_intermediates", "prune_intermediate_layers")):
        raise UserError(f"{name} does not number its blocks. Give the names of its layers, as for backbone=timm.")
    depth = len(model.feature_info)  # type: ignore[arg-type]
    found = set()
    for layer in layers:
        share = isinstance(layer, float)
        number = max(round(layer * depth), 1) - 1 if share else int(layer)
        if not (0 < layer <= 1 if share else -depth <= number < depth):
            raise UserError(
                f"{name} has {depth} blocks. Expected numbers from 0 to {depth - 1} (or from -{depth} to -1, counted "
                f"from the end), or shares of its depth such as 0.5; got {layer}."
            )
        found.add(number % depth)
    return sorted(found)


class Blocks(nn.Module):
    """The outputs of some blocks of a timm model as grids; what lies behind the last of them is cut off.

    Class and register tokens are dropped. Position embeddings are resampled by timm once, to the images' size, and not
    in every forward: it is quicker, and an exported graph holds none of it.

    Args:
        model: Of timm, with its weights; pruned in place.
        numbers: Of the blocks, ascending; see `block_numbers`.
        architecture: The model's name.
    """

    def __init__(self, model: nn.Module, numbers: Sequence[int], architecture: str) -> None:
        super().__init__()
        info: Any = model.feature_info
        self.numbers, self.architecture = list(numbers), architecture
        self.stride = int(max(info[number]["reduction"] for number in numbers))
        prune: Any = model.prune_intermediate_layers
        prune(self.numbers, prune_norm=True, prune_head=True)
        self.model = model
        self.size: Size | None = None

    def fit_to(self, size: Size) -> None:
        """Prepare for images of `size` (H, W) pixels, once.

        Raises:
            UserError: A side is no multiple of the patch, or the network was prepared for another size.
        """
        if size == self.size:
            return
        given = f"data.image_size={list(size)}: {self.architecture}"
        if self.size is not None:
            raise UserError(f"{given} was prepared for images of {list(self.size)} and can't take others as well.")
        if any(side % self.stride for side in size):
            nearest = [[_multiple(side, self.stride, up) for side in size] for up in (False, True)]
            sizes = " or ".join(str(one) for one in nearest if min(one) > 0)
            raise UserError(
                f"{given} cuts images into squares of {self.stride} x {self.stride} pixels. Expected a height and a "
                f"width that are multiples of {self.stride}; the nearest are {sizes}."
            )
        resize: Any = getattr(self.model, "set_input_size", None)
        if resize is not None:
            # Its new tensors must be ordinary ones, whoever asks: a checkpoint could not be loaded into others.
            with torch.inference_mode(False), torch.no_grad():
                resize(img_size=size)
        self.size = size

    def forward(self, images: Tensor) -> list[Tensor]:
        """Grids (B, C_i, h_i, w_i) float, shallow to deep, of images (B, 3, H, W) float.

        Raises:
            UserError: The images have another size than the network was prepared for.
        """
        self.fit_to((images.shape[-2], images.shape[-1]))
        forward: Any = self.model.forward_intermediates
        grids: list[Tensor] = forward(
            images, indices=self.numbers, stop_early=True, output_fmt="NCHW", intermediates_only=True
        )
        return grids


def _multiple(side: int, step: int, up: bool) -> int:
    """The nearest multiple of `step` not above `side`, or not below it."""
    return (side // step + (1 if up and side % step else 0)) * step
