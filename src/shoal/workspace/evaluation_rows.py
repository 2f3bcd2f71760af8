"""The rows that two versions are compared on, and which of the versions saw them in training."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from shoal.errors import ModelError, TableError
from shoal.lake import pinned_version, split_pin

if TYPE_CHECKING:
    import polars as pl

    from shoal.lake import Lake, Table
    from shoal.models import ModelDeclaration
    from shoal.tracking import ModelVersion

__all__ = ["ChosenRows", "choose_rows", "new_rows"]

Versions = Mapping[str, "ModelVersion"]


@dataclass(frozen=True, kw_only=True)
class ChosenRows:
    """Rows of one version of a table.

    Attributes:
        frame: The rows.
        table: The table.
        version: Its version.
        which: Which rows, for a person.
        seen: Which of the versions saw some of them in training: ``neither``, ``challenger``,
            ``champion``, ``both`` or ``unknown``.
    """

    frame: pl.LazyFrame
    table: Table
    version: int
    which: str
    seen: str


def choose_rows(
    declaration: ModelDeclaration,
    lake: Lake,
    versions: Versions,
    *,
    rows: str | None = None,
    since: str | None = None,
) -> ChosenRows:
    """Chooses the rows: by default those that no version has seen, else the last of each segment.

    Args:
        declaration: The model.
        lake: Where its table is.
        versions: ``challenger`` and ``champion``.
        rows: All rows of this table, such as ``gold.test`` or ``gold.test@4``.
        since: Only rows of this time or later, as ISO text or a number.

    Raises:
        TableNotFound: There is no such table.
        TableError: The table has no such version, or its files are gone.
        ModelError: ``since`` is no value of the model's time column.
    """
    import polars as pl

    name, pin = split_pin(rows or declaration.table)
    table = lake.existing(name)
    version = table.version() if pin is None else pinned_version(lake, table, pin)
    frame = table.scan(version)
    if since is not None:
        moment = _moment(declaration, frame, since)
        later = pl.col(declaration.time or "") >= moment
        return ChosenRows(
            frame=frame.filter(later),
            table=table,
            version=version,
            which=f"{declaration.time} >= {since}",
            seen=_seen({n: _saw(v, table, later) for n, v in versions.items()}),
        )
    if rows is not None:
        return ChosenRows(
            frame=frame,
            table=table,
            version=version,
            which="all rows",
            seen=_seen({n: _saw(v, table, None) for n, v in versions.items()}),
        )
    trained = [_trained_on(v, table) for v in versions.values()]
    if None not in trained:
        last = max(found for found in trained if found is not None)
        fresh = new_rows(declaration, table, last, version)
        if fresh is not None and fresh[0].select(pl.len()).collect().item():
            return ChosenRows(
                frame=fresh[0], table=table, version=version, which=fresh[1], seen="neither"
            )
    return _last(declaration, frame, table, version, versions)


def _last(
    declaration: ModelDeclaration,
    frame: pl.LazyFrame,
    table: Table,
    version: int,
    versions: Versions,
) -> ChosenRows:
    import polars as pl

    seen = _seen({n: _saw(v, table, None) for n, v in versions.items()})
    if declaration.time is None or not declaration.holdout:
        return ChosenRows(frame=frame, table=table, version=version, which="all rows", seen=seen)
    rank = pl.col(declaration.time).rank("max", descending=True)
    if declaration.by:
        by = list(declaration.by)
        rank, count = rank.over(by), pl.len().over(by)
    else:
        count = pl.len()
    kept = frame.filter(rank <= (count * declaration.holdout).ceil())
    which = f"the last {declaration.holdout:.0%} of each segment by {declaration.time}"
    return ChosenRows(frame=kept, table=table, version=version, which=which, seen=seen)


def new_rows(
    declaration: ModelDeclaration, table: Table, last: int, version: int
) -> tuple[pl.LazyFrame, str] | None:
    """Rows that the table got after a version: by its log, else by key, else by time."""
    import polars as pl

    if last >= version:
        return None
    try:
        changes = table.changes(after=last, until=version)
        if changes.append_only and not table.partitions():
            if not changes.files:
                return None
            files = [file.path for file in changes.files]
            frame = pl.scan_parquet(
                files, missing_columns="insert", extra_columns="ignore", credential_provider=None
            )
            return frame, f"added in versions {last + 1} to {version}"
    except TableError:
        pass
    frame = table.scan(version)
    try:
        before = table.scan(last)
        if declaration.key:
            keys = list(declaration.key)
            fresh = frame.join(before.select(keys), on=keys, how="anti", nulls_equal=True)
            fresh.select(pl.len()).collect()
            return fresh, f"keys that version {last} did not have"
        if declaration.time:
            newest = before.select(pl.col(declaration.time).max()).collect().item()
            if newest is not None:
                return frame.filter(pl.col(declaration.time) > newest), f"later than {newest}"
    except (TableError, OSError, pl.exceptions.PolarsError):
        return None  # that version's files were deleted
    return None


def _trained_on(version: ModelVersion, table: Table) -> int | None:
    """The version of the table that a model version learned from; None when from another."""
    tags = version.tags
    number = tags.get("shoal.table_version", "")
    same = (tags.get("shoal.table"), tags.get("shoal.table_id")) == (table.name, table.id())
    return int(number) if same and number.isdigit() else None


def _saw(version: ModelVersion, table: Table, wanted: pl.Expr | None) -> bool | None:
    """Whether a training read such rows; None when nobody knows."""
    import polars as pl

    trained = _trained_on(version, table)
    if trained is None:
        return None
    if wanted is None:
        return True
    try:
        found = table.scan(trained).filter(wanted).select(pl.len()).collect().item()
    except (TableError, OSError, pl.exceptions.PolarsError):
        return None
    return bool(found)


def _seen(saw: Mapping[str, bool | None]) -> str:
    if None in saw.values():
        return "unknown"
    names = [name for name, did in saw.items() if did]
    return "both" if len(names) == 2 else names[0] if names else "neither"


def _moment(declaration: ModelDeclaration, frame: pl.LazyFrame, since: str) -> Any:
    import polars as pl

    if declaration.time is None:
        raise ModelError(
            f"Model '{declaration.name}' ({declaration.location}) declares no time column, so "
            f"'{since}' chooses no rows.",
            hint='Declare it: @shoal.model(time="day")',
        )
    kind = frame.collect_schema().get(declaration.time)
    try:
        if isinstance(kind, pl.Date):
            return dt.date.fromisoformat(since)
        if isinstance(kind, pl.Datetime):
            found = dt.datetime.fromisoformat(since)
            if kind.time_zone is None:
                return found.replace(tzinfo=None)
            return found if found.tzinfo else found.replace(tzinfo=dt.UTC)
        return float(since) if kind is not None and kind.is_numeric() else since
    except ValueError:
        raise ModelError(
            f"'{since}' is no value of {declaration.table}.{declaration.time}, which is {kind}.",
            hint="Such as --since 2026-01-31",
        ) from None
