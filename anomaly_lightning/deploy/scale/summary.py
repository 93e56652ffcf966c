"""What a table of rows holds in all, by one pass over its files: counts per verdict and per error."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import ArrowInvalid, parquet

from anomaly_lightning.deploy.scale.place import Place
from anomaly_lightning.errors import DataError
from anomaly_lightning.runtime.decision import VERDICTS

SUMMARY = "scoring.json"  # below the output: what was asked for, and what came out
KINDS = 30  # of errors that are told apart


@dataclass
class Counts:
    """Rows of one model.

    Attributes:
        verdicts: How many of each.
        errors: How many of each kind; numbers in an error make no further kind.
    """

    verdicts: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)

    @property
    def rows(self) -> int:
        """All of them."""
        return self.verdicts.total() + self.errors.total()

    def words(self) -> str:
        """Counts per verdict, and of what can't be read."""
        counted = ", ".join(f"{self.verdicts[verdict]:,} {verdict}" for verdict in VERDICTS if self.verdicts[verdict])
        return f"{self.rows:,} images: {counted or 'none scored'}, {self.errors.total():,} unreadable"


def tables(rows: Place, columns: Sequence[str], model_id: str | None = None) -> Iterator[pa.Table]:
    """Some columns of all rows, a file at a time; of one model, or of all.

    Raises:
        DataError: A file is no Parquet file of this schema.
    """
    wanted = list(dict.fromkeys([*columns, "model_id"]))
    for file in rows.files(".parquet"):
        try:
            with file.system.open(file.path, "rb") as stream:
                table = parquet.read_table(stream, columns=wanted)
        except (ArrowInvalid, OSError) as error:
            raise DataError(f"{file.address} can't be read as Parquet: {error}") from error
        if set(wanted) - set(table.column_names):
            raise DataError(f"{file.address}: expected the columns {', '.join(wanted)}; it was not written by predict.")
        yield table if model_id is None else table.filter(pc.equal(table["model_id"], model_id))


def count(rows: Place, model_id: str) -> Counts:
    """Counts over all rows of a model."""
    counts = Counts()
    for table in tables(rows, ["verdict", "error"], model_id):
        counts.verdicts.update(_values(table["verdict"]))
        for error, number in _values(table["error"]).items():
            kind = re.sub(r"\d+", "N", error)
            known = kind in counts.errors or len(counts.errors) < KINDS
            counts.errors[kind if known else "other errors"] += number
    return counts


def _values(column: Any) -> dict[str, int]:
    """How often each value occurs that is not null."""
    found = pc.value_counts(column.drop_null()).to_pylist()
    return {str(each["values"]): int(each["counts"]) for each in found}
