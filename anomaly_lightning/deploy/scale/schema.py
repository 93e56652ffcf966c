"""The table of a large set: what a row says, and how rows become a Parquet file."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from anomaly_lightning.runtime.inspection import Inspection

REGION = pa.struct(
    [
        pa.field("left", pa.int32()),  # of the box, in pixels of the image
        pa.field("top", pa.int32()),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("area", pa.int64()),  # pixels
        pa.field("peak", pa.float64()),  # raw error
    ]
)
ROWS = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),  # absolute, or an address
        pa.field("content_hash", pa.string()),  # hex sha256 of the file's bytes; null: it could not be opened
        pa.field("score", pa.float64()),  # raw error; null: no image
        pa.field("threshold", pa.float64()),
        pa.field("verdict", pa.string()),  # OK, REVIEW, NG, INVALID; null: no image
        pa.field("regions", pa.list_(REGION)),  # those with the largest peak first; null: no image
        pa.field("reason", pa.string()),  # why INVALID
        pa.field("error", pa.string()),  # why no image
        pa.field("heatmap", pa.string()),  # of the file, relative to the output; null: none was asked for
        pa.field("model_id", pa.string(), nullable=False),  # hex sha256, see `scoring_model`
    ]
)
EMPTY: Mapping[str, Any] = dict.fromkeys(ROWS.names)


def shown(path: str) -> str:
    """A path as text: bytes of a name that are no UTF-8 become question marks."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def scored(path: str, content_hash: str, said: Inspection, heatmap: str | None, model_id: str) -> dict[str, Any]:
    """Row of an image that was scored."""
    regions = [dict(zip(REGION.names, (*region.box, region.area, region.peak), strict=True)) for region in said.regions]
    return {
        **EMPTY,
        "path": shown(path),
        "content_hash": content_hash,
        "score": said.score,
        "threshold": said.threshold,
        "verdict": said.verdict,
        "regions": regions,
        "reason": said.reason,
        "heatmap": heatmap,
        "model_id": model_id,
    }


def unreadable(path: str, content_hash: str | None, error: str, model_id: str) -> dict[str, Any]:
    """Row of a file that is no image, or could not be opened: then it has no hash."""
    return {
        **EMPTY,
        "path": shown(path),
        "content_hash": content_hash,
        "error": shown(error),
        "model_id": model_id,
    }


def parquet_bytes(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """A Parquet file of rows."""
    stream = io.BytesIO()
    parquet.write_table(pa.Table.from_pylist(list(rows), ROWS), stream, compression="zstd")
    return stream.getvalue()
