"""Batch scoring: rows that were not scored yet, exactly once, into a Delta table."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shoal.errors import ModelError
from shoal.lake import Progress, staged_files
from shoal.store import path_in, write_parquet
from shoal.workspace.report import ScoreReport

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa

    from shoal.lake import Lake, Table
    from shoal.models import Fleet, ModelDeclaration
    from shoal.tracking import ModelVersion
    from shoal.workspace.remote import RemoteFleet

__all__ = ["predictions_table", "score"]

_BATCH = 500_000


def predictions_table(declaration: ModelDeclaration, lake: Lake) -> Table:
    """Where a model's predictions go: ``<model>_predictions`` beside the table it learns from."""
    schema = lake.name(declaration.table).schema
    return lake.table(f"{schema}.{declaration.name}_predictions")


@dataclass(frozen=True, kw_only=True)
class _Todo:
    """Which rows to score.

    Args:
        rows: The rows; None when there is nothing to do.
        overwrite: The predictions are replaced, not appended to.
        reason: Which rows, and why.
    """

    rows: pl.LazyFrame | None
    overwrite: bool
    reason: str


def score(
    declaration: ModelDeclaration,
    fleet: Fleet | RemoteFleet,
    version: ModelVersion,
    lake: Lake,
    *,
    everything: bool = False,
    progress: Callable[[int], None] | None = None,
) -> ScoreReport:
    """Scores the rows of a model's table that its predictions table does not have yet.

    The rows, their keys, the model's version and how far the table was read are committed in one
    Delta transaction.

    Args:
        declaration: The model.
        fleet: Its opened version.
        version: That version, for the rows.
        lake: Where the tables are.
        everything: Score all rows again and replace the predictions.
        progress: Called with the number of rows scored so far.

    Raises:
        TableNotFound: The model's table does not exist.
        ModelError: A key column is missing in the table.
    """
    import pyarrow.compute as pc

    begun = time.perf_counter()
    source = lake.existing(declaration.table)
    target = predictions_table(declaration, lake)
    pinned, identity = source.version(), source.id()
    columns = source.schema(pinned).names
    kept = _kept(declaration, columns)
    before = target.progress(f"score:{declaration.name}")
    todo = _todo(declaration, source, target, before, pinned, everything=everything)
    if todo.rows is None:
        return ScoreReport(
            model=declaration.name,
            status="current",
            reason=todo.reason,
            version=version.version,
            table=target.name,
            table_version=target.version(),
            seconds=time.perf_counter() - begun,
        )
    needed = list(
        dict.fromkeys([*kept, *fleet.header.by, *(f.name for f in fleet.header.features)])
    )
    missing = [name for name in needed if name not in columns]
    if missing:
        raise ModelError(
            f"{source.name} has no column '{missing[0]}', which {version.uri} needs.",
            hint=f"Train it on the table as it is now: shoal train {declaration.name}",
        )
    rows = fallbacks = 0
    scored_at = dt.datetime.now(dt.UTC)
    with target.staging() as folder:
        schema = None
        for number, batch in enumerate(_batches(todo.rows.select(needed))):
            scored = _score(batch, fleet, version, kept, scored_at)
            schema = scored.schema
            _write(scored, path_in(folder, f"{number:05}.parquet"))
            rows += scored.num_rows
            fallbacks += pc.sum(scored.column("fallback")).as_py() or 0
            if progress is not None:
                progress(rows)
        assert schema is not None
        after = Progress(
            flow=before.flow,
            number=before.number + 1,
            versions={source.name: (identity, pinned)},
            definition=version.uri,
        )
        made = target.commit(
            staged_files(folder),
            schema,
            overwrite=todo.overwrite and target.exists(),
            progress=[(before, after)],
            comment=f"Predictions of {declaration.name}",
            metadata={"shoal.model": version.uri, "shoal.inputs": f"{source.name}@{pinned}"},
        )
    return ScoreReport(
        model=declaration.name,
        status="scored",
        reason=todo.reason,
        version=version.version,
        table=target.name,
        table_version=made,
        rows=rows,
        fallbacks=fallbacks,
        seconds=time.perf_counter() - begun,
    )


def _kept(declaration: ModelDeclaration, columns: list[str]) -> list[str]:
    """Columns that are copied to the predictions, so that a person can join them back."""
    wanted = [*declaration.key, *declaration.by, *([declaration.time] if declaration.time else [])]
    for name in wanted:
        if name not in columns:
            raise ModelError(
                f"{declaration.location}: '{declaration.name}' names the column '{name}', which "
                f"{declaration.table} does not have.",
                hint=f"Its columns are {', '.join(columns)}.",
            )
    return list(dict.fromkeys(wanted))


def _todo(
    declaration: ModelDeclaration,
    source: Table,
    target: Table,
    before: Progress,
    pinned: int,
    *,
    everything: bool,
) -> _Todo:
    import polars as pl

    seen = before.versions.get(source.name)
    if everything or seen is None or not target.exists():
        reason = "all rows were asked for" if everything else "the first scoring"
        return _Todo(rows=source.scan(pinned), overwrite=everything, reason=reason)
    if seen == (source.id(), pinned):
        return _Todo(rows=None, overwrite=False, reason="no row is new")
    if seen[0] == source.id():
        changes = source.changes(after=seen[1], until=pinned)
        if changes.append_only and not source.partitions():
            if not changes.rows:
                return _Todo(rows=None, overwrite=False, reason="no row is new")
            files = [file.path for file in changes.files]
            new = pl.scan_parquet(files, missing_columns="insert", credential_provider=None)
            return _Todo(
                rows=new, overwrite=False, reason=f"new in versions {seen[1] + 1} to {pinned}"
            )
    return _by_key(declaration, source, target, pinned)


def _by_key(declaration: ModelDeclaration, source: Table, target: Table, pinned: int) -> _Todo:
    """What to score of a table that was rewritten, so that its log does not tell new rows."""
    import polars as pl

    if declaration.key:
        done = target.scan(columns=declaration.key)
        fresh = source.scan(pinned).join(
            done, on=list(declaration.key), how="anti", nulls_equal=True
        )
        if fresh.select(pl.len()).collect().item() == 0:
            return _Todo(rows=None, overwrite=False, reason="no key is new")
        return _Todo(rows=fresh, overwrite=False, reason="rows whose key has no prediction yet")
    return _Todo(
        rows=source.scan(pinned),
        overwrite=True,
        reason=f"{source.name} was rewritten and the model declares no key: all rows again",
    )


def _batches(rows: pl.LazyFrame) -> Iterator[pa.Table]:
    empty = True
    for frame in rows.collect_batches(chunk_size=_BATCH, maintain_order=True):
        if frame.height:
            empty = False
            yield frame.to_arrow()
    if empty:
        yield rows.collect().to_arrow()


def _score(
    batch: pa.Table,
    fleet: Fleet | RemoteFleet,
    version: ModelVersion,
    kept: list[str],
    at: dt.datetime,
) -> pa.Table:
    import pyarrow as pa

    told = fleet.predict(batch, explain=True, interval=fleet.header.interval is not None)
    rows = batch.num_rows
    bounds = [name for name in told.column_names if name.startswith("prediction_")]
    return pa.table(
        {
            **{name: batch.column(name) for name in kept},
            **{name: told.column(name) for name in ("prediction", *bounds)},
            "model_used": told.column("model_used"),
            "fallback": told.column("fallback"),
            "model": pa.repeat(pa.scalar(version.name), rows),
            "model_version": pa.repeat(pa.scalar(version.version, pa.int64()), rows),
            "scored_at": pa.repeat(pa.scalar(at, pa.timestamp("us", tz="UTC")), rows),
        }
    )


def _write(rows: pa.Table, path: str) -> None:
    from shoal.lake import delta_schema

    write_parquet(rows.cast(delta_schema(rows.schema)), path, compression="zstd")
