"""Rows of the database as what they stand for."""

import json
import sqlite3
from dataclasses import fields
from datetime import datetime
from typing import Any

from anomaly_lightning.review.marks import MarkEntry, NoDecisionError
from anomaly_lightning.review.records import Decision


def as_decision(row: sqlite3.Row) -> Decision:
    """A decision of its row."""
    values: dict[str, Any] = {field.name: row[field.name] for field in fields(Decision)}
    values["regions"] = json.loads(row["regions"])
    values["time"] = datetime.fromisoformat(row["time"])
    values["removed"] = None if row["removed"] is None else datetime.fromisoformat(row["removed"])
    return Decision(**values)


def decision_of(connection: sqlite3.Connection, number: int) -> Decision:
    """The decision of a number; raises `NoDecisionError` where there is none."""
    row = connection.execute("SELECT * FROM decisions WHERE id = ?", (number,)).fetchone()
    if row is None:
        raise NoDecisionError(f"There is no decision {number} in this store.")
    return as_decision(row)


def history_of(connection: sqlite3.Connection, number: int) -> tuple[MarkEntry, ...]:
    """Marks of a decision, oldest first."""
    query = "SELECT id, decision, mark, who, time FROM marks WHERE decision = ? ORDER BY id"
    rows = connection.execute(query, (number,)).fetchall()
    return tuple(MarkEntry(row[0], row[1], row[2], row[3], datetime.fromisoformat(row[4])) for row in rows)
