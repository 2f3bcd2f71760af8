"""Rows sorted by segment and time, as one Arrow file; in bounded memory, however large the table.

A table of at most ``budget`` bytes is sorted at once. A larger one is first written apart into
buckets of whole segments, of about that size each, and then each bucket is sorted by itself: no
more than a few times the budget is held, and the rows are written to disk twice.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from shoal.models import ModelDeclaration
from shoal.training.rows import TARGET, TIME, WEIGHT
from shoal.training.source import Source, Target

if TYPE_CHECKING:
    import polars as pl

__all__ = ["BUDGET", "NO_TIME", "sort_rows"]

# Bytes of rows that are sorted at once; the environment variable SHOAL_SORT_MEMORY says otherwise.
BUDGET = 256_000_000

# What a missing moment is stored as: it sorts first.
NO_TIME = -(2**63)


@dataclass(frozen=True, kw_only=True)
class _Rows:
    """What to sort.

    Attributes:
        frame: The rows, with their segment's number as ``segment`` when there are segments.
        order: What to sort by.
        kept: The columns of the sorted rows.
    """

    frame: pl.LazyFrame
    order: list[pl.Expr]
    kept: list[str]

    def sorted(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        return (frame.sort(self.order) if self.order else frame).select(self.kept)


def sort_rows(
    declaration: ModelDeclaration,
    source: Source,
    target: Target,
    file: Path,
    *,
    budget: int | None = None,
) -> None:
    """Write features, target and time, sorted by segment and time, as one Arrow file.

    Rows of one moment, or without a time column all rows of a segment, come in any order: the
    kernel gives them their own.

    Args:
        declaration: The model's declaration.
        source: Its table.
        target: What is known of the target column.
        file: Where the rows go; buckets lie beside it for a while.
        budget: Bytes of rows to sort at once; default `BUDGET`.
    """
    import polars as pl

    budget = budget or int(os.environ.get("SHOAL_SORT_MEMORY", "0")) or BUDGET
    by, scan = list(declaration.by), source.scan()
    columns, order = _columns(declaration, source, target, scan)
    kept = [str(i) for i in range(len(source.features))] + [TARGET]
    kept += [WEIGHT] if declaration.weight else []
    kept += [TIME] if declaration.time else []
    if not by:
        rows = scan.select(columns)
        sorting = _Rows(frame=rows, order=order, kept=kept)
        sorting.sorted(rows).sink_ipc(file, compression="uncompressed")
        return
    # Segments by number: sorting long rows by text keys would take twice as long.
    keys = [pl.col(name).alias(f"by{i}") for i, name in enumerate(by)]
    names = [f"by{i}" for i in range(len(by))]
    counts = scan.select(keys).group_by(names).agg(rows=pl.len()).sort(names).collect()
    row_bytes = 8 * (len(columns) + 1)
    ends = np.cumsum(counts["rows"].to_numpy().astype(np.int64)) * row_bytes
    buckets = (ends - 1) // budget if len(ends) else ends
    numbers = counts.select(names).with_row_index("segment")
    numbers = numbers.with_columns(bucket=pl.Series(buckets, dtype=pl.UInt32))
    rows = scan.select(*keys, *columns).join(numbers.lazy(), on=names, how="left", nulls_equal=True)
    rows = rows.drop(names)
    if order:
        order = _one_key(scan.select(columns), len(numbers))
    sorting = _Rows(frame=rows, order=order or [pl.col("segment")], kept=kept)
    if len(ends) and ends[-1] > budget:
        _sort_buckets(sorting, np.unique(buckets).tolist(), file)
    else:
        sorting.sorted(rows.drop("bucket")).sink_ipc(file, compression="uncompressed")


def _sort_buckets(rows: _Rows, buckets: list[int], file: Path) -> None:
    import polars as pl

    folder = file.with_suffix(".buckets")
    folder.mkdir()
    rows.frame.sink_ipc(
        pl.PartitionBy(folder, key="bucket", include_key=False),
        compression="uncompressed",
        mkdir=True,
        record_batch_size=65_536,
    )
    kinds = [(n, pa.int64() if n == TIME else pa.float64()) for n in rows.kept]
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, pa.schema(kinds)) as writer:
        for bucket in buckets:
            part = folder / f"bucket={bucket}"
            frame = rows.sorted(pl.scan_ipc(sorted(part.glob("*")))).collect()
            writer.write_table(frame.to_arrow())
            shutil.rmtree(part)
    folder.rmdir()


def _columns(
    declaration: ModelDeclaration, source: Source, target: Target, scan: pl.LazyFrame
) -> tuple[list[pl.Expr], list[pl.Expr]]:
    """The columns of the sorted rows, and what orders a segment's rows, if anything."""
    import polars as pl

    nan = float("nan")
    kinds = scan.collect_schema()
    columns = [
        _number(pl.col(f.name), kinds[f.name]).fill_null(nan).alias(str(i))
        for i, f in enumerate(source.features)
    ]
    goal = pl.col(declaration.target)
    if target.classes is not None:
        codes = {_original(v, source, declaration): float(i) for i, v in enumerate(target.classes)}
        goal = goal.replace_strict(
            pl.Series(list(codes), dtype=kinds[declaration.target]),
            pl.Series(list(codes.values())),
            default=nan,
        )
    columns.append(goal.cast(pl.Float64).fill_null(nan).alias(TARGET))
    if declaration.weight:
        weight = pl.col(declaration.weight).cast(pl.Float64).fill_null(nan)
        columns.append(weight.alias(WEIGHT))
    if declaration.time:
        moment, kind = pl.col(declaration.time), kinds[declaration.time]
        if kind.is_temporal():
            moment = moment.to_physical()
        elif not kind.is_integer():
            moment = moment.rank("dense")
        columns.append(moment.cast(pl.Int64).fill_null(NO_TIME).alias(TIME))
        return columns, [pl.col(TIME)]
    return columns, []


def _number(column: pl.Expr, kind: pl.DataType) -> pl.Expr:
    """A feature; of a moment its seconds, as `feature_columns` has it."""
    import polars as pl

    if not kind.is_temporal():
        return column.cast(pl.Float64)
    return column.cast(pl.Datetime("us")).to_physical().cast(pl.Float64) / 1e6


def _one_key(columns: pl.LazyFrame, segments: int) -> list[pl.Expr]:
    """What to sort by: one number for segment and moment when it fits, which is twice as fast."""
    import polars as pl

    both = [pl.col("segment"), pl.col(TIME)]
    known = pl.col(TIME).filter(pl.col(TIME) != NO_TIME)
    least, most = columns.select(least=known.min(), most=known.max()).collect().row(0)
    if least is None or (most - least + 2) * segments >= 2**62:
        return both
    # A missing moment is before all others.
    moment = pl.max_horizontal(pl.col(TIME), pl.lit(least - 1)) - (least - 1)
    return [pl.col("segment").cast(pl.Int64) * (most - least + 2) + moment]


def _original(label: Any, source: Source, declaration: ModelDeclaration) -> Any:
    # A whole float's label is an integer; the column holds the float.
    kind = source.schema.field(declaration.target).type
    return float(label) if pa.types.is_floating(kind) else label
