"""The model card: everything that a trained model is, besides its weights, as one typed and versioned JSON document.

It is written once, by training, and travels in checkpoints, run.json and bundles. Whatever rebuilds a model, an
inspector or a report reads it, and nothing else.
"""

from typing import Any, Literal

import msgspec

from anomaly_lightning.errors import CheckpointError

SCHEMA = 1  # raise it with every change that an older reader would misread

Value = str | int | float | bool | list[Any] | dict[str, Any] | None


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A block of the card: immutable, and an unknown or mistyped key is an error."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(self))
        return plain


class TransformCard(Part, frozen=True):
    """How an image becomes network input; see `runtime.transform.ImageTransform`.

    Attributes:
        size: (height, width) of the network's input in pixels.
        mean: Mean of the red, green and blue channel, in [0, 1].
        std: Their standard deviations.
        resize: "stretch" or "letterbox".
        white: Grey level that counts as white in images of more than 8 bits; None = the largest of the file's form.
    """

    size: tuple[int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    resize: Literal["stretch", "letterbox"] = "stretch"
    white: int | None = None


class BackboneCard(Part, frozen=True):
    """The frozen network: what `features.backbone.Backbone` was made of, and which weights it got."""

    name: str
    arguments: dict[str, Value]
    weights_sha256: str
    weights_source: str


class FeaturesCard(Part, frozen=True):
    """How layers come to one grid.

    Attributes:
        arguments: What `FeatureExtractor` was made of.
        dtype: What features are rounded to, whether they were stored or not.
        shape: (C, h, w) of an image's features.
    """

    arguments: dict[str, Value]
    dtype: str
    shape: tuple[int, int, int]


class DetectorCard(Part, frozen=True):
    """The method: `target` names its class, `arguments` are its constructor's."""

    target: str
    arguments: dict[str, Value]

    @property
    def name(self) -> str:
        """Short name: that of the module the class lives in, "padim" say."""
        return self.target.split(".")[-2]


class LocaliserCard(Part, frozen=True):
    """The second detector, which sharpens maps; see `localiser.Localiser`."""

    detector: DetectorCard
    floor: float


class ScoringCard(Part, frozen=True):
    """From error map to score, see `scoring.Scoring`, and from map to mask, see `runtime.masks.predicted`."""

    sigma: float
    reduction: str
    share: float
    mask_share: float = 0.0


class RegionCard(Part, frozen=True):
    """Where to look; see `runtime.region.Region`."""

    size: tuple[int, int]
    polygon: tuple[tuple[float, float], ...] | None = None
    bits: str | None = None
    fixed: bool = True


class TilingCard(Part, frozen=True):
    """How large images are cut: (height, width) of a tile and the overlap, in pixels."""

    size: tuple[int, int]
    overlap: int


class ThresholdsCard(Part, frozen=True):
    """The calibrated thresholds and what they promise.

    Attributes:
        score: The decision is `runtime.decision.exceeds(score, threshold)`.
        pixel: Where the map exceeds it is a defect; which pixels show it, `runtime.masks` says.
        review: Lower end of the review band; None = no band.
        promise: Plain values of `calibration.Calibration`, with `rests_on`: what the normals behind it were used for.
        scores: Scores of the normals that it was fitted on.
    """

    score: float
    pixel: float
    review: float | None = None
    promise: dict[str, Value] = {}
    scores: tuple[float, ...] = ()


class ValidityCard(Part, frozen=True):
    """What images of this kind look like; see `runtime.validity.Validity`."""

    measures: tuple[str, ...]
    middle: tuple[float, ...]
    below: tuple[float, ...]
    above: tuple[float, ...]
    histogram: tuple[float, ...]
    limit: float
    normals: int


class DriftCard(Part, frozen=True):
    """What the normals looked like when the model was calibrated; see `runtime.drift.DriftMonitor`.

    Attributes:
        measures: Names, in the order of all that follows.
        middle: Median of each.
        scale: Standard deviation of each, robust; above 0.
        thumbnail: (16, 16) mean of the normals' thumbnails, row by row.
        normals: Values of the normals, by measure. Those of the map come from held-out normals alone, the others from
            all, so that they are more.
    """

    measures: tuple[str, ...]
    middle: tuple[float, ...]
    scale: tuple[float, ...]
    thumbnail: tuple[float, ...]
    normals: tuple[tuple[float, ...], ...]


class DataCard(Part, frozen=True):
    """Which images the model learned from, so that `evaluate` finds the same ones again.

    Attributes:
        fingerprint: Hex sha256 over roles, defect names and the content of every image and mask.
        places: `layout` and the folders or files that `data.sources.resolve` takes.
        split: Split policy.
        validation_share: Share of the training normals that were held out.
        selection_share: Share of those that chose the epoch and other settings, and gave no threshold.
        seed: Of the split.
        shots: Training normals that were kept, drawn by the seed; None = all.
    """

    fingerprint: str
    places: dict[str, Value]
    split: str
    validation_share: float
    seed: int
    selection_share: float = 0.0
    shots: int | None = None


class ChangeCard(Part, frozen=True):
    """What made this version of a model out of another one.

    Attributes:
        what: "recalibrate" or "update".
        parent: Hex sha256 of the bundle.json, or of the checkpoint, that it was made from.
        date: ISO 8601, in UTC.
        why: In the user's words; "" where none were given.
        normals: New images of good parts that it rests on.
        details: What else there is to know: thresholds before and after, what they were compared on.
    """

    what: str
    parent: str
    date: str
    why: str = ""
    normals: int = 0
    details: dict[str, Value] = {}


class ModelCard(Part, frozen=True):
    """Everything that a trained model is, besides its weights.

    Attributes:
        thresholds: None = not calibrated.
        localiser: None = maps are the detector's own.
        region: None = the whole image counts.
        tiling: None = images are scored whole.
        validity: None = images are not checked for being of the training's kind.
        drift: None = nobody watches whether the stream of images changes.
        seed: Of the run.
        versions: Of Python and the packages that computed.
        history: What was changed since the training, the oldest first.
    """

    schema: int
    version: str
    category: str
    seed: int
    transform: TransformCard
    backbone: BackboneCard
    features: FeaturesCard
    detector: DetectorCard
    scoring: ScoringCard
    data: DataCard
    localiser: LocaliserCard | None = None
    region: RegionCard | None = None
    tiling: TilingCard | None = None
    thresholds: ThresholdsCard | None = None
    validity: ValidityCard | None = None
    drift: DriftCard | None = None
    versions: dict[str, str | None] = {}
    history: tuple[ChangeCard, ...] = ()

    @classmethod
    def from_dict(cls, values: Any, where: str = "the model card") -> "ModelCard":
        """Read a card back.

        Raises:
            CheckpointError: Another schema, or a key that is missing, unknown or of the wrong type, which is named.
        """
        found = values.get("schema") if isinstance(values, dict) else None
        if found != SCHEMA:
            raise CheckpointError(
                f"{where}: expected a model card of schema {SCHEMA}, got {found!r}. It was written by another version "
                "of anomaly_lightning: train again with this one, or use the version that wrote it."
            )
        try:
            return msgspec.convert(values, cls)
        except msgspec.ValidationError as error:
            raise CheckpointError(f"{where}: the model card is damaged: {error}.") from error

    def replace(self, **changes: Any) -> "ModelCard":
        """The same card with some blocks changed."""
        return msgspec.structs.replace(self, **changes)
