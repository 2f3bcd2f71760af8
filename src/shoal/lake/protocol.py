"""What a table's protocol and columns ask of a writer, and what Shoal can keep.

Source: Delta protocol, "Table Features" and "Requirements for Writers". Only what Shoal's commits
of ready-made Parquet files keep is written; anything else is refused by its name, before a file is
committed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shoal.errors import TableError

if TYPE_CHECKING:
    from deltalake import DeltaTable

__all__ = [
    "CHECK",
    "FEED",
    "Constraint",
    "constraints_of",
    "refuse_unwritable",
    "settings_of",
    "unreadable_files",
]

CHECK = "delta.constraints."
FEED = "delta.enableChangeDataFeed"
_MAPPING = "delta.columnMapping.mode"
# What adding and removing whole files leaves in order. Deletion vectors go with their file's
# removal; change data need no file of their own when a commit only appends or replaces everything.
_KEPT = {
    "appendOnly",
    "changeDataFeed",
    "checkConstraints",
    "columnMapping",
    "deletionVectors",
    "generatedColumns",
    "identityColumns",
    "invariants",
    "timestampNtz",
    "v2Checkpoint",
}
_COLUMN_FEATURES = {
    "delta.generationExpression": "a generated column",
    "delta.identity.start": "an identity column",
    "CURRENT_DEFAULT": "a default value",
}


@dataclass(frozen=True, kw_only=True)
class Constraint:
    """A condition that every row of a table meets.

    Args:
        name: Its name in the table, or ``NOT NULL column``.
        condition: SQL; a row for which it is false or null breaks it, as in Delta.
        column: The column, for NOT NULL.
    """

    name: str
    condition: str
    column: str | None = None


def settings_of(table: DeltaTable) -> Mapping[str, str]:
    """The table's properties."""
    return dict(table.metadata().configuration)


def constraints_of(table: DeltaTable) -> tuple[Constraint, ...]:
    """NOT NULL columns, CHECK constraints and column invariants of a table."""
    found = []
    for column in json.loads(table.schema().to_json())["fields"]:
        name = column["name"]
        if not column["nullable"]:
            quoted = name.replace("`", "``")
            found.append(
                Constraint(
                    name=f"NOT NULL {name}", condition=f"`{quoted}` IS NOT NULL", column=name
                )
            )
        if rule := column["metadata"].get("delta.invariants"):
            text = json.loads(rule)["expression"]["expression"]
            found.append(Constraint(name=f"invariant of {name}", condition=text))
    for key, condition in sorted(settings_of(table).items()):
        if key.startswith(CHECK):
            found.append(Constraint(name=key.removeprefix(CHECK), condition=condition))
    return tuple(found)


def unreadable_files(table: DeltaTable) -> str | None:
    """Why the table's data files cannot be read by themselves; None when they can.

    With column mapping the files' columns have names of their own.
    """
    mode = settings_of(table).get(_MAPPING, "none")
    return None if mode == "none" else f"column mapping by {mode}"


def refuse_unwritable(table: DeltaTable, name: str, *, overwrite: bool) -> None:
    """Refuses a commit of files whose rules Shoal cannot keep.

    Raises:
        TableError: The message names the feature; nothing was changed.
    """
    asks = sorted(set(table.protocol().writer_features or ()) - _KEPT)
    if mapped := unreadable_files(table):
        asks.append(mapped)
    for column in json.loads(table.schema().to_json())["fields"]:
        asks += [
            f"{what} ('{column['name']}')"
            for key, what in _COLUMN_FEATURES.items()
            if key in column["metadata"]
        ]
        if column["type"] == "variant":
            asks.append(f"a VARIANT column ('{column['name']}')")
    if asks:
        raise TableError(
            f"{name} uses {', '.join(asks)}, which Shoal reads but does not write; nothing was "
            "committed.",
            hint="Write it with the engine that made it, or let the pipeline fill a table of "
            "another name.",
        )
    if overwrite and settings_of(table).get("delta.appendOnly", "").lower() == "true":
        raise TableError(
            f"{name} takes appended rows only (delta.appendOnly); this refresh replaces rows.",
            hint="Take the property off with the writer that set it, or fill another table.",
        )
