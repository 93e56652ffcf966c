"""The model that scores a large set: what its rows call it, and a copy that travels to other machines."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from anomaly_lightning.errors import CheckpointError, UserError
from anomaly_lightning.runtime.bundle import MANIFEST, Bundle, read_bundle
from anomaly_lightning.runtime.files import content_hash
from anomaly_lightning.runtime.inspector import Inspector


@dataclass(frozen=True)
class Travelling:
    """A bundle in memory, and how it is to be run; what makes an inspector without a file, and without torch.

    Attributes:
        bundle: Its files, held against their hashes.
        device: "cpu", "cuda", ... as of `Inspector.load`.
        validity: Whether images of another kind are INVALID.
        threads: For one forward on the CPU.
    """

    bundle: Bundle
    device: str
    validity: bool
    threads: int

    def inspector(self) -> Inspector:
        """An inspector with an engine of its own."""
        return Inspector.of_bundle(self.bundle, self.device, self.validity, self.threads)


def model_id(checkpoint: Path, validity: bool) -> str:
    """What tells a model from any other by what it says of an image: hex sha256.

    Of a bundle's bundle.json, which has the hashes of all its files, or of a checkpoint; and of the check for images of
    another kind, where that is off.

    Raises:
        CheckpointError: There is no such model.
    """
    file = checkpoint / MANIFEST if checkpoint.is_dir() else checkpoint
    if not file.is_file():
        raise CheckpointError(f"There is no model {checkpoint}: expected the folder of a bundle, or a .ckpt file.")
    known = content_hash(file)
    return known if validity else hashlib.sha256(f"{known} validity=false".encode()).hexdigest()


def travelling(checkpoint: Path, device: str, validity: bool, threads: int) -> Travelling:
    """Read a bundle for workers elsewhere.

    Raises:
        UserError: It is a checkpoint, which would need torch there.
        BundleError: It is not whole.
    """
    if not checkpoint.is_dir():
        raise UserError(
            f"engine=ray takes an exported bundle, which needs no torch in its workers, got {checkpoint}. Make one: "
            f"python -m anomaly_lightning.export checkpoint={checkpoint} output=<folder>."
        )
    return Travelling(read_bundle(checkpoint), device, validity, threads)
