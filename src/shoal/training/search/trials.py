"""The table of trials: ``shoal.trials_<model>``, written as a search goes."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pyarrow as pa

from shoal.errors import Conflict
from shoal.lake import Table

if TYPE_CHECKING:
    import polars as pl

__all__ = ["StudyId", "Trial", "TrialLog", "read_trials"]

# Seconds of trials that a crash may cost.
_LOST = 2.0

# What a key column's name may not hide.
_COLUMNS = frozenset(
    {"study", "scope", "number", "params", "value", "state", "steps", "error", "rows", "point"}
    | {"core_seconds", "table", "table_version", "fingerprint", "recorded_at"}
)


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One choice of parameters and how good it was.

    Attributes:
        scope: The key of the segments it is for: ``[]`` for all, ``["UA"]`` for one or a group.
        number: Its number in its scope, from 0.
        params: The function's arguments, as JSON for people.
        point: What the sampler chose, as JSON.
        state: ``complete``, ``pruned`` or ``failed``.
        value: The metric on the validation rows; a pruned trial's last; None for a failed one.
        steps: The metric by the percentage of the scope's segments that were measured.
        rows: How many validation rows.
        error: Why it failed.
        seconds: Processor seconds of its fits.
    """

    scope: str
    number: int
    params: str
    point: str
    state: str
    value: float | None = None
    steps: Mapping[int, float] = field(default_factory=dict)
    rows: int = 0
    error: str | None = None
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class StudyId:
    """Which search a trial belongs to.

    Attributes:
        name: Its name.
        fingerprint: Of the definition and the space.
        table: The table that it learns from.
        table_version: Its version.
    """

    name: str
    fingerprint: str
    table: str
    table_version: int


class TrialLog:
    """Writes one study's trials in batches, each one commit.

    Args:
        table: The table of trials.
        study: The study.
        keys: The ``by`` columns, one row per scope; null where a scope has all values. One that
            is named as a column of the table, such as ``state``, becomes ``by_state``.
        scopes: Position in ``keys`` by scope.
        recorded: How many of the study's trials the table holds.
    """

    def __init__(
        self, table: Table, study: StudyId, keys: pa.Table, scopes: dict[str, int], recorded: int
    ) -> None:
        self._table, self._study, self._keys, self._scopes = table, study, keys, scopes
        self._names = {n: f"by_{n}" if n in _COLUMNS else n for n in keys.column_names}
        self._waiting: list[Trial] = []
        self._recorded = recorded
        self._since = time.monotonic()
        # A search of which every trial failed leaves nothing.
        self._good = recorded > 0
        self._applications = [f"shoal-{what}-{study.name}" for what in ("study", "finished")]
        self._seen = self._numbers()

    def add(self, trials: Iterable[Trial]) -> None:
        """Take trials; those before them are committed when the last commit is a while ago.

        Raises:
            Conflict: Another search of the same study committed first.
        """
        found = list(trials)
        due = time.monotonic() - self._since > _LOST
        # The newest wait: the last commit of a search also says that it is finished.
        if due and self._good and self._waiting:
            self._commit(self._applications[0], self._recorded + len(self._waiting))
        self._good = self._good or any(t.state == "complete" for t in found)
        self._waiting += found

    def finish(self, wanted: int) -> None:
        """Commit what is left, and that this many trials of each scope are all there."""
        if self._good:
            self._commit(self._applications[1], wanted)

    def close(self) -> None:
        """Commit what is left of a search that was interrupted."""
        if self._good and self._waiting:
            self._commit(self._applications[0], self._recorded + len(self._waiting))

    def _numbers(self) -> list[int | None]:
        if not self._table.exists():
            return [None, None]
        return [self._table.transaction(application) for application in self._applications]

    def _commit(self, application: str, number: int) -> None:
        rows, study = self._waiting, self._study
        if self._numbers() != self._seen:
            raise Conflict(
                f"Another search of {study.table} version {study.table_version} writes the same "
                f"trials into {self._table.name}.",
                hint="Run again when it has ended: its trials are taken over.",
            )
        at = pa.array([self._scopes[t.scope] for t in rows], pa.int64())
        count = len(rows)
        text, real, whole = pa.string(), pa.float64(), pa.int64()
        columns = {
            "study": pa.array([study.name] * count, text),
            **{new: self._keys.column(name).take(at) for name, new in self._names.items()},
            "scope": pa.array([t.scope for t in rows], text),
            "number": pa.array([t.number for t in rows], whole),
            "params": pa.array([t.params for t in rows], text),
            "value": pa.array([t.value for t in rows], real),
            "state": pa.array([t.state for t in rows], text),
            "steps": pa.array([json.dumps(dict(t.steps)) if t.steps else None for t in rows], text),
            "error": pa.array([t.error for t in rows], text),
            "rows": pa.array([t.rows for t in rows], whole),
            "core_seconds": pa.array([t.seconds for t in rows], real),
            "point": pa.array([t.point for t in rows], text),
            "table": pa.array([study.table] * count, text),
            "table_version": pa.array([study.table_version] * count, whole),
            "fingerprint": pa.array([study.fingerprint] * count, text),
            "recorded_at": pa.array([datetime.now(UTC)] * count, pa.timestamp("us", tz="UTC")),
        }
        self._table.append(pa.table(columns), app=(application, number))
        self._recorded += count
        self._seen = self._numbers()
        self._waiting = []
        self._since = time.monotonic()


def read_trials(frame: pl.DataFrame) -> list[Trial]:
    """Trials of rows of the table, in the order of their numbers."""
    import polars as pl

    names = ("scope", "number", "params", "point", "state", "value", "rows", "error")
    found = frame.sort("number").select(*names, pl.col("core_seconds").alias("seconds"), "steps")
    return [
        Trial(
            **{name: value for name, value in row.items() if name != "steps"},
            steps={int(k): v for k, v in json.loads(row["steps"] or "{}").items()},
        )
        for row in found.iter_rows(named=True)
    ]
