"""The rows in which two versions of a table differ.

Only files that one version has and the other has not are read. Their rows are taken as multisets
(removed -1, added +1); what does not cancel out differs. Work goes bucket by bucket of a hash, so
that memory does not grow with the table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from shoal.errors import TableError, nearest
from shoal.lake.protocol import unreadable_files
from shoal.lake.reading import DataFile, data_files, scan

if TYPE_CHECKING:
    import polars as pl
    from deltalake import DeltaTable

    from shoal.lake.table import Table

__all__ = ["Change", "Difference", "diff", "differing"]

# Rows whose hashes are held in memory at once.
_BUCKET = 4_000_000
_NET = "__shoal_net"
_SIDE = "__shoal_side"


@dataclass(frozen=True, kw_only=True)
class Change:
    """One row that differs.

    Args:
        kind: ``added``, ``removed`` or ``changed``.
        row: The row; of a changed one its key.
        times: How often it was added or removed.
        columns: Of a changed row: column to ``(old, new)``.
    """

    kind: str
    row: Mapping[str, Any]
    times: int = 1
    columns: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How two versions of a table differ.

    Args:
        table: The table.
        before: The first version.
        after: The second.
        key: Columns by which rows were paired; empty when rows were compared whole.
        added: Rows only in the second.
        removed: Rows only in the first.
        changed: Keys in both whose other columns differ.
        columns: Changed rows per column.
        schema: Columns that came, left or changed type: name to ``(old, new)`` type, None for none.
        files: Files that were read.
        sample: Some of the rows, at most the limit of each kind.
    """

    table: str
    before: int
    after: int
    key: tuple[str, ...]
    added: int
    removed: int
    changed: int
    columns: Mapping[str, int]
    schema: Mapping[str, tuple[str | None, str | None]]
    files: int
    sample: tuple[Change, ...]


def diff(
    table: Table, before: int, after: int, *, key: Sequence[str] = (), limit: int = 20
) -> Difference:
    """Compares two versions.

    A column that one version lacks counts as null in it; NaN equals NaN.

    Args:
        table: The table.
        before: A version.
        after: Another one.
        key: Columns that name a row. Without them a changed row is a removed and an added one.
        limit: Sample rows of each kind.

    Raises:
        TableError: There is no such version or key column, files were vacuumed, or several rows
            that differ have one key.
    """
    import polars as pl

    old, new = table._open(before), table._open(after)
    left, right, files = _sides(table, old, new)
    schema, kinds = _schema(left, right)
    for column in key:
        if column not in kinds:
            close = nearest(column, kinds)
            raise TableError(
                f"{table.name} has no column '{column}' to be a key.",
                hint=f"Did you mean '{close}'?" if close else f"Columns: {', '.join(kinds)}.",
            )
    both = pl.concat([_aligned(left, kinds, -1), _aligned(right, kinds, 1)])
    tally = _Tally(table.name, tuple(key), tuple(kinds), limit)
    rows = sum(count or 1_000_000 for count in files)
    buckets = max(1, -(-rows // _BUCKET))
    by = list(key) or list(kinds)
    for bucket in range(buckets):
        part = both
        if buckets > 1:
            part = both.filter(pl.struct(by).hash(7) % buckets == bucket)
        net = part.group_by(list(kinds)).agg(pl.col(_SIDE).sum().alias(_NET))
        tally.take(net.filter(pl.col(_NET) != 0).collect(engine="streaming"))
    return Difference(
        table=table.name,
        before=before,
        after=after,
        key=tuple(key),
        added=tally.added,
        removed=tally.removed,
        changed=tally.changed,
        columns=dict(sorted(tally.columns.items(), key=lambda item: -item[1])),
        schema=schema,
        files=len(files),
        sample=tuple(change for kind in tally.sample.values() for change in kind),
    )


def differing(
    table: Table, before: int | None, after: int, columns: Sequence[str]
) -> tuple[pl.DataFrame, int]:
    """The values that some columns have in the rows in which two versions differ.

    Args:
        table: The table.
        before: A version; None for none, so that all rows of ``after`` count.
        after: A later one.
        columns: Columns of the table; a column that one of the versions lacks is null in it.

    Returns:
        One row per value, and how many rows were added or removed.

    Raises:
        TableError: There is no such version, or files of it were vacuumed.
    """
    import polars as pl

    new = table._open(after)
    if before is None:
        whole = scan(new, table.name)
        rows = whole.select(pl.len()).collect().item()
        return whole.select(columns).unique().collect(engine="streaming"), rows
    left, right, _ = _sides(table, table._open(before), new)
    kinds = _schema(left, right)[1]
    both = pl.concat([_aligned(left, kinds, -1), _aligned(right, kinds, 1)])
    net = both.group_by(list(kinds)).agg(pl.col(_SIDE).sum()).filter(pl.col(_SIDE) != 0)
    found = net.group_by(columns or [pl.lit(0).alias(_NET)]).agg(pl.col(_SIDE).abs().sum())
    values = found.collect(engine="streaming")
    return values.select(columns), int(values[_SIDE].sum())


def _sides(
    table: Table, old: DeltaTable, new: DeltaTable
) -> tuple[pl.LazyFrame, pl.LazyFrame, list[int | None]]:
    """The rows of the files that differ, of each version, and those files' row counts."""
    have, want = data_files(old), data_files(new)
    features = {*(old.protocol().reader_features or ()), *(new.protocol().reader_features or ())}
    whole = "deletionVectors" in features or unreadable_files(old) or unreadable_files(new)
    if whole:  # the same file may count other rows: both versions are read as they are
        return (
            scan(old, table.name),
            scan(new, table.name),
            [rows for _, rows, _ in (*have.values(), *want.values())],
        )
    gone = {path: file for path, file in have.items() if path not in want}
    come = {path: file for path, file in want.items() if path not in have}
    missing = table.gone(table.store.path(path) for path in (*gone, *come))
    if missing:
        raise TableError(
            f"The versions {old.version()} and {new.version()} of {table.name} cannot be compared: "
            f"{len(missing)} files are gone, for example {table.store.name(missing[0])}.",
            hint=f"They were vacuumed. shoal history {table.name} lists newer versions.",
        )
    counts = [rows for _, rows, _ in (*gone.values(), *come.values())]
    return _files(table, old, gone), _files(table, new, come), counts


def _files(table: Table, at: DeltaTable, files: Mapping[str, DataFile]) -> pl.LazyFrame:
    import polars as pl
    import pyarrow as pa

    empty = pl.from_arrow(pa.schema(at.schema().to_arrow()).empty_table())
    assert isinstance(empty, pl.DataFrame)
    frames = [empty.lazy()]
    by = at.metadata().partition_columns
    groups: dict[tuple[Any, ...], list[str]] = {}
    for path, (_, _, values) in files.items():
        key = tuple(values.get(name) for name in by)
        groups.setdefault(key, []).append(table.store.path(path))
    for key, paths in groups.items():
        frame = pl.scan_parquet(
            paths,
            hive_partitioning=False,
            credential_provider=None,
            glob=False,
            schema={n: kind for n, kind in empty.schema.items() if n not in by},
            missing_columns="insert",
            extra_columns="ignore",
            cast_options=pl.ScanCastOptions(
                integer_cast="upcast", float_cast="upcast", datetime_cast="forbid"
            ),
        )
        constants = [
            pl.lit(value).cast(empty.schema[name]).alias(name)
            for name, value in zip(by, key, strict=True)
        ]
        frames.append(frame.with_columns(constants).select(empty.columns))
    return pl.concat(frames)


def _schema(
    left: pl.LazyFrame, right: pl.LazyFrame
) -> tuple[dict[str, tuple[str | None, str | None]], dict[str, pl.DataType]]:
    """Columns that differ, and the columns in which rows of both are compared."""
    import polars as pl

    old, new = left.collect_schema(), right.collect_schema()
    differs = {
        name: (str(old[name]) if name in old else None, str(new[name]) if name in new else None)
        for name in (*new, *(name for name in old if name not in new))
        if old.get(name) != new.get(name)
    }
    kinds: dict[str, pl.DataType] = {}
    for name in (*new, *(name for name in old if name not in new)):
        kind = new.get(name) or old[name]
        if name in old and name in new and old[name] != new[name]:
            both = [pl.DataFrame(schema={name: schema[name]}) for schema in (old, new)]
            try:
                kind = pl.concat(both, how="vertical_relaxed").schema[name]
            except pl.exceptions.PolarsError:
                kind = pl.String()
        kinds[name] = kind
    return differs, kinds


def _aligned(frame: pl.LazyFrame, kinds: Mapping[str, pl.DataType], sign: int) -> pl.LazyFrame:
    import polars as pl

    have = frame.collect_schema()
    columns = [
        pl.col(name).cast(kind) if name in have else pl.lit(None, dtype=kind).alias(name)
        for name, kind in kinds.items()
    ]
    return frame.select(*columns, pl.lit(sign, dtype=pl.Int64).alias(_SIDE))


class _Tally:
    """Counts and samples of the rows that differ, bucket by bucket."""

    def __init__(
        self, table: str, key: tuple[str, ...], names: tuple[str, ...], limit: int
    ) -> None:
        self.table, self.key, self.names, self.limit = table, key, names, limit
        self.added = self.removed = self.changed = 0
        self.columns: dict[str, int] = {}
        self.sample: dict[str, list[Change]] = {"added": [], "removed": [], "changed": []}

    def take(self, net: pl.DataFrame) -> None:
        """Takes rows with how often they came (or, negative, left)."""
        import polars as pl

        gone, come = net.filter(pl.col(_NET) < 0), net.filter(pl.col(_NET) > 0)
        if self.key:
            key = list(self.key)
            self._single(net)
            pairs = gone.join(come, on=key, suffix="__new", nulls_equal=True)
            self._pairs(pairs)
            gone, come = (
                gone.join(come, on=key, how="anti", nulls_equal=True),
                come.join(gone, on=key, how="anti", nulls_equal=True),
            )
        self.removed -= int(gone[_NET].sum())
        self.added += int(come[_NET].sum())
        self._keep("removed", gone)
        self._keep("added", come)

    def _single(self, net: pl.DataFrame) -> None:
        import polars as pl

        sided = net.group_by(*self.key, pl.col(_NET) > 0).agg(pl.col(_NET).abs().sum().alias("n"))
        many = sided.filter(pl.col("n") > 1)
        if many.height:
            row = many.select(self.key).row(0, named=True)
            said = ", ".join(f"{name} = {value!r}" for name, value in row.items())
            raise TableError(
                f"{', '.join(self.key)} does not name a row of {self.table}: several rows that "
                f"differ have {said}.",
                hint="Give more key columns, or none to compare rows whole.",
            )

    def _pairs(self, pairs: pl.DataFrame) -> None:
        import polars as pl

        self.changed += pairs.height
        others = [name for name in self.names if name not in self.key]
        differs = pairs.select(
            ~pl.col(name).eq_missing(pl.col(f"{name}__new")).alias(name) for name in others
        )
        for name in others:
            count = int(differs[name].sum())
            if count:
                self.columns[name] = self.columns.get(name, 0) + count
        kept = self.sample["changed"]
        for row in pairs.head(self.limit - len(kept)).iter_rows(named=True):
            values = {name: (row[name], row[f"{name}__new"]) for name in others}
            kept.append(
                Change(
                    kind="changed",
                    row={name: row[name] for name in self.key},
                    columns={n: v for n, v in values.items() if not _same(*v)},
                )
            )

    def _keep(self, kind: str, rows: pl.DataFrame) -> None:
        kept = self.sample[kind]
        for row in rows.head(self.limit - len(kept)).iter_rows(named=True):
            times = abs(row.pop(_NET))
            kept.append(Change(kind=kind, row=row, times=times))


def _same(old: object, new: object) -> bool:
    return old == new or (old != old and new != new)  # noqa: PLR0124  (NaN)
