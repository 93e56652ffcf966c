"""Pages of decisions: each reads about as many rows as it shows, however many decisions there are.

A page begins after a key, not after a count of rows. The decisions of each verdict and mark lie in order in an index;
a page takes the first of each and merges them. A filter on scores within an order by time (and the other way round)
walks on within the index, which holds both.
"""

import math
from itertools import product
from typing import Any

from anomaly_lightning.errors import ReviewError
from anomaly_lightning.review.marks import MARKS, UNMARKED, as_text
from anomaly_lightning.review.records import Filter, Order
from anomaly_lightning.runtime.decision import VERDICTS

# By order: the column, its index, its direction.
ORDERS: dict[Order, tuple[str, str, str]] = {
    "newest": ("time", "decisions_by_time", "DESC"),
    "oldest": ("time", "decisions_by_time", "ASC"),
    "highest": ("rank", "decisions_by_score", "DESC"),
    "lowest": ("rank", "decisions_by_score", "ASC"),
}


def page_query(wanted: Filter, order: Order, after: str | None, limit: int) -> tuple[str, dict[str, Any]]:
    """SQL of one page, and its values.

    Args:
        wanted: Which decisions.
        order: By time or by score.
        after: Cursor of the decision before the first; None = from the start.
        limit: Most rows.

    Raises:
        ReviewError: No such order, or a cursor that is none.
    """
    if order not in ORDERS:
        raise ReviewError(f"order={order}: expected one of {', '.join(ORDERS)}.")
    column, index, direction = ORDERS[order]
    conditions, values = _conditions(wanted)
    places = [""]
    if after is not None:
        # Not (column, id) < (:key, :last): SQLite would walk through all rows of that key.
        beyond = "<" if direction == "DESC" else ">"
        places = [f"{column} = :key AND id {beyond} :last", f"{column} {beyond} :key"]
        values["key"], values["last"] = _parsed(after, column)
        # Of two bounds on one side SQLite may walk from the wrong one: + hides the filter's from the index.
        conditions = [f"+{one}" if one.startswith(f"{column} {beyond}") else one for one in conditions]
    values["limit"] = limit
    tail = f"ORDER BY {column} {direction}, id {direction} LIMIT :limit"
    arms = []
    for verdict, mark, place in product(wanted.verdicts or VERDICTS, wanted.marks or (*MARKS, UNMARKED), places):
        marked = "mark IS NULL" if mark == UNMARKED else f"mark = '{mark}'"  # both were checked by the filter
        where = " AND ".join(filter(None, [f"verdict = '{verdict}'", marked, place, *conditions]))
        arms.append(f"SELECT * FROM (SELECT id, {column} FROM decisions INDEXED BY {index} WHERE {where} {tail})")
    merged = f"SELECT id FROM ({' UNION ALL '.join(arms)}) {tail}"
    return f"SELECT * FROM decisions WHERE id IN ({merged}) ORDER BY {column} {direction}, id {direction}", values


def cursor(row: Any, order: Order) -> str:
    """What `after` has to be for the page that follows a row."""
    return f"{row[ORDERS[order][0]]}~{row['id']}"


def _conditions(wanted: Filter) -> tuple[list[str], dict[str, Any]]:
    found: dict[str, tuple[str, Any]] = {
        "lowest": ("rank >= :lowest", wanted.lowest),
        "highest": ("rank <= :highest", wanted.highest),
        "since": ("time >= :since", None if wanted.since is None else as_text(wanted.since)),
        "until": ("time < :until", None if wanted.until is None else as_text(wanted.until)),
        "model": ("model = :model", wanted.model),
    }
    given = {name: value for name, (_, value) in found.items() if value is not None}
    return [found[name][0] for name in given], given


def _parsed(after: str, column: str) -> tuple[str | float, int]:
    key, _, last = after.rpartition("~")
    try:
        place = float(key) if column == "rank" else key
        if not key or (isinstance(place, float) and math.isnan(place)):
            raise ValueError("no key")
        return place, int(last)
    except ValueError as error:
        raise ReviewError(f"after={after}: expected the `next` of the page before, in the same order.") from error
