"""Which marked images can teach: one for each content, by its latest mark."""

import sqlite3
from collections.abc import Iterator

from anomaly_lightning.review.marks import MEANING

# One image may have been decided upon several times; the latest mark of any of them is what is known of it.
_LATEST = """
SELECT decisions.* FROM marks JOIN decisions ON decisions.id = marks.decision WHERE marks.id IN
    (SELECT max(mark_id) FROM decisions INDEXED BY decisions_marked WHERE mark IS NOT NULL GROUP BY content)
"""


def marked_images(connection: sqlite3.Connection, model: str | None) -> Iterator[sqlite3.Row]:
    """Rows of the latest marked decision on each content whose image is kept, oldest first; None = of any model."""
    restricted = "decisions.image IS NOT NULL AND decisions.model = coalesce(?, decisions.model)"
    yield from connection.execute(f"{_LATEST} AND {restricted} ORDER BY decisions.id", (model,))


def marked_models(connection: sqlite3.Connection) -> list[str]:
    """Names of the models on whose decisions there are marks."""
    query = "SELECT DISTINCT decisions.model FROM marks JOIN decisions ON decisions.id = marks.decision ORDER BY 1"
    return [row[0] for row in connection.execute(query)]


def without_image(connection: sqlite3.Connection) -> int:
    """How many of them say normal or defect, but have no image."""
    telling = [key for key, truth in MEANING.items() if truth is not None]
    pairs = " OR ".join("(verdict = ? AND mark = ?)" for _ in telling)
    values = [value for pair in telling for value in pair]
    query = f"SELECT count(*) FROM ({_LATEST}) WHERE image IS NULL AND ({pairs})"
    count: int = connection.execute(query, values).fetchone()[0]
    return count
