"""What a server was asked and answered, as windows: its log ``shoal.inferences_<model>``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from shoal.errors import ModelError, TableError
from shoal.workspace.watch.findings import PREDICTION
from shoal.workspace.watch.rows import Labelled, in_order, truth_columns

if TYPE_CHECKING:
    import polars as pl

    from shoal.lake import Lake, Table
    from shoal.models import ModelDeclaration

__all__ = ["answered", "inference_log", "served_truth"]

_ROW = ["request_id", "row", "model_version", "role"]


def inference_log(lake: Lake, model: str) -> Table:
    """The table that a server writes with ``--log``.

    Raises:
        ModelError: There is none.
    """
    table = lake.table(f"shoal.inferences_{model}")
    if not table.exists():
        raise ModelError(
            f"[monitor] watches what '{model}' was asked, and there is no {table.name}.",
            hint=f"shoal serve {model} --log",
        )
    return table


def answered(
    log: Table, since: int | None, now: int, version: int, columns: Sequence[str]
) -> tuple[pl.LazyFrame | None, str]:
    """Rows that were asked for after a version of the log, and which these are.

    Args:
        log: The log.
        since: Its version at the last window; None for all.
        now: Its version.
        version: The champion's; only its own predictions are taken, other rows have none.
        columns: Inputs to take; those that no request had are null.

    Returns:
        ``columns`` and ``prediction``, without what a shadow answered.
    """
    import polars as pl

    rows = log.scan(now) if since is None else _after(log, since, now)
    if rows is None:
        return None, f"version {since} of {log.name} cannot be told from version {now}"
    own = pl.when(pl.col("model_version") == version).then(pl.col("prediction"))
    inputs = _inputs(rows)
    found = [
        pl.col("inputs").struct.field(name) if name in inputs else pl.lit(None).alias(name)
        for name in columns
    ]
    rows = rows.filter(pl.col("role") != "shadow").select(*found, own.alias(PREDICTION))
    return rows, f"asked in versions {0 if since is None else since + 1} to {now}"


def _after(log: Table, since: int, now: int) -> pl.LazyFrame | None:
    import polars as pl

    if since >= now:
        return log.scan(now).head(0)  # truth may have come all the same
    try:
        changes = log.changes(after=since, until=now)
        if changes.append_only:
            if not changes.files:
                return log.scan(now).head(0)
            return pl.scan_parquet(
                [file.path for file in changes.files],
                missing_columns="insert",
                extra_columns="ignore",
                credential_provider=None,
            )
        before = log.scan(since).select(_ROW)
        return log.scan(now).join(before, on=_ROW, how="anti")  # compacted meanwhile
    except (TableError, OSError, pl.exceptions.PolarsError):
        return None


def _inputs(rows: pl.LazyFrame) -> dict[str, pl.DataType]:
    import polars as pl

    kind = rows.collect_schema()["inputs"]
    assert isinstance(kind, pl.Struct)
    return {field.name: field.dtype for field in kind.fields}  # type: ignore[misc]


def served_truth(
    declaration: ModelDeclaration, log: Table, table: Table, version: int, since: int, now: int
) -> Labelled | None:
    """The champion's answers whose truth a table got after a version, by the declared key.

    Args:
        declaration: The model.
        log: The server's log.
        table: The model's table, where the truth comes.
        version: The champion's.
        since: The table's version at the last window.
        now: Its version.

    Returns:
        Of several answers for one key the last; None where requests do not carry the key, or
        nobody knows any more what came.
    """
    import polars as pl

    target, key = declaration.target, list(declaration.key)
    said = log.scan()
    if not key or not set(key) <= _inputs(said).keys():
        return None
    try:
        truth = table.scan(now).filter(pl.col(target).is_not_null())
        before = table.scan(since).filter(pl.col(target).is_not_null()).select(key)
        come = truth.join(before, on=key, how="anti", nulls_equal=True)
        kinds = {name: kind for name, kind in come.collect_schema().items() if name in key}
        own = said.filter(pl.col("model_version") == version, pl.col("role") != "shadow")
        own = own.sort("received_at").select(
            *(pl.col("inputs").struct.field(name) for name in key), pl.col(PREDICTION)
        )
        last = own.cast(kinds).unique(key, keep="last", maintain_order=True)  # type: ignore[arg-type]
        rows = come.select(truth_columns(declaration)).join(
            last, on=key, how="inner", nulls_equal=True
        )
        return Labelled(frame=in_order(rows.collect(), declaration), which="answers given")
    except (TableError, OSError, pl.exceptions.PolarsError):
        return None
