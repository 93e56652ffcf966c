"""Images that a table lists: manifest.csv or manifest.parquet, whose column `path` is read and nothing else."""

import csv
import io
from collections.abc import Iterator, Sequence

from pyarrow import ArrowInvalid, parquet

from anomaly_lightning.deploy.scale.place import Place, is_address
from anomaly_lightning.errors import DataError

SUFFIXES = (".csv", ".parquet")
COLUMN = "path"


def is_manifest(given: str) -> bool:
    """Whether an input is named like a table of images."""
    return given.lower().endswith(SUFFIXES)


def listed(manifest: Place) -> Iterator[str]:
    """Paths of the images, in the order of the table; relative ones begin at its folder.

    Raises:
        DataError: The table can't be read, has no column `path`, or a row has none.
    """
    read = _csv if manifest.path.lower().endswith(".csv") else _parquet
    folder = manifest.address.rpartition("/")[0]
    for number, path in enumerate(read(manifest), start=1):
        if not path:
            raise DataError(f"input={manifest.address}, row {number}: expected a path, but there is none.")
        yield path if is_address(path) or path.startswith("/") else f"{folder}/{path}"


def _csv(manifest: Place) -> Iterator[str]:
    with manifest.system.open(manifest.path, "rb") as stream:
        reader = csv.DictReader(io.TextIOWrapper(stream, encoding="utf-8-sig", newline=""), strict=True)
        try:
            _check(manifest, reader.fieldnames or [])
            for row in reader:
                yield (row[COLUMN] or "").strip()
        except (csv.Error, UnicodeDecodeError) as error:
            raise DataError(f"input={manifest.address}, line {reader.line_num}: {error}.") from error


def _parquet(manifest: Place) -> Iterator[str]:
    with manifest.system.open(manifest.path, "rb") as stream:
        try:
            file = parquet.ParquetFile(stream)
            _check(manifest, file.schema_arrow.names)
            for batch in file.iter_batches(columns=[COLUMN]):
                yield from ("" if path is None else str(path) for path in batch.column(0).to_pylist())
        except ArrowInvalid as error:
            raise DataError(f"input={manifest.address} is no Parquet file: {error}") from error


def _check(manifest: Place, columns: Sequence[str]) -> None:
    if COLUMN not in columns:
        there = ", ".join(columns) or "none"
        raise DataError(f"input={manifest.address}: expected a column {COLUMN}; there are {there}.")
