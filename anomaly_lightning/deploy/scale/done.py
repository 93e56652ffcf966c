"""What an earlier start has done already, as keys of the rows that it left: 16 bytes each, however long the paths."""

import hashlib

import numpy as np
from numpy.typing import NDArray
from pyarrow import parquet

from anomaly_lightning.deploy.scale.place import Place
from anomaly_lightning.deploy.scale.schema import shown

Keys = NDArray[np.bytes_]  # (n,) of 16 bytes, sorted
SIZE = 16
ROWS, UNOPENED = "part-", "unopened-"  # begin the names of the files of rows


def key(path: str, content_hash: str, model_id: str) -> bytes:
    """What tells a row from any other: where the image lies, its content, and the model."""
    text = "\0".join((shown(path), content_hash, model_id))
    return hashlib.blake2b(text.encode(), digest_size=SIZE).digest()


def read_done(rows: Place) -> Keys:
    """Keys of all rows in a folder, sorted.

    Files that could not be opened are not among them: their rows are removed, for they are tried again.
    """
    found = []
    for file in rows.files(".parquet"):
        if file.path.rpartition("/")[2].startswith(UNOPENED):
            file.remove()
            continue
        with file.system.open(file.path, "rb") as stream:
            table = parquet.read_table(stream, columns=["path", "content_hash", "model_id"])
        columns = (table.column(name).to_pylist() for name in table.column_names)
        found.append(np.array([key(*row) for row in zip(*columns, strict=True)], f"S{SIZE}"))
    return np.sort(np.concatenate(found)) if found else np.array([], f"S{SIZE}")


def is_done(keys: Keys, wanted: bytes) -> bool:
    """Whether a key is among them."""
    sought = np.array([wanted], f"S{SIZE}")
    at = int(np.searchsorted(keys, sought)[0])
    return at < len(keys) and bool(keys[at] == sought[0])


def part_name(keys: list[bytes], opened: bool = True) -> str:
    """Name of the file of rows with these keys: the same rows have the same name, and so are never there twice."""
    return f"{ROWS if opened else UNOPENED}{hashlib.blake2b(b''.join(keys), digest_size=SIZE).hexdigest()}.parquet"
