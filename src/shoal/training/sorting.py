"""Rows sorted by segment and time, as one Arrow file; in bounded memory, however large the table.

A table of at most ``budget`` bytes is sorted at once. A larger one is first written apart into
buckets of whole segments, of about that size each, and then each bucket is sorted by itself: no
more than a few times the budget is held, and the rows are written to disk twice.
"""

from __future__ import annotations

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from shoal.models import ModelDeclaration
from shoal.training.rows import TARGET, TIME, WEIGHT
from shoal.training.source import Segments, Source, Target, find_segments

if TYPE_CHECKING:
    import polars as pl

Array = np.ndarray[Any, Any]

__all__ = ["BUDGET", "NO_TIME", "sort_rows"]

# Bytes of rows that are sorted at once; the environment variable SHOAL_SORT_MEMORY says otherwise.
BUDGET = 256_000_000

# Rows that are gathered and written at once.
_BLOCK = 131_072

# What a missing moment is stored as: it sorts first.
NO_TIME = -(2**63)


def sort_rows(
    declaration: ModelDeclaration,
    source: Source,
    target: Target,
    file: Path,
    *,
    segments: Segments | None = None,
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
        segments: The source's segments; counted by default.
        budget: Bytes of rows to sort at once; default `BUDGET`.
    """
    import polars as pl

    budget = budget or int(os.environ.get("SHOAL_SORT_MEMORY", "0")) or BUDGET
    by, scan = list(declaration.by), source.scan()
    columns, kinds = _columns(declaration, source, target, scan)
    if not by:
        rows = scan.select(columns)
        order = [pl.col(TIME)] if declaration.time else []
        rows = rows.sort(order) if order else rows
        rows.sink_ipc(file, compression="uncompressed")
        return
    if segments is None:
        segments = find_segments(declaration, source)
    names = [f"by{i}" for i in range(len(by))]
    keys = [pl.col(name).alias(new) for name, new in zip(by, names, strict=True)]
    ends = segments.offsets[1:] * (8 * (len(columns) + 1))
    buckets = (ends - 1) // budget
    # Segments by number: sorting long rows by text keys would take twice as long.
    values = pl.from_arrow(segments.values)
    assert isinstance(values, pl.DataFrame)
    numbers = values.cast(dict(scan.select(by).collect_schema())).select(keys)  # type: ignore[arg-type]
    numbers = numbers.with_row_index("segment").cast({"segment": pl.Int64})
    numbers = numbers.with_columns(bucket=pl.Series(buckets, dtype=pl.UInt32))
    frame = scan.select(*keys, *columns).join(
        numbers.lazy(), on=names, how="left", nulls_equal=True, maintain_order="left"
    )
    frame = frame.drop(names)
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, pa.schema(kinds)) as writer:
        if ends[-1] <= budget:
            _write_sorted(frame.drop("bucket").collect(), writer)
        else:
            _sort_buckets(frame, np.unique(buckets).tolist(), file, writer)


def _sort_buckets(
    rows: pl.LazyFrame, buckets: list[int], file: Path, writer: pa.ipc.RecordBatchWriter
) -> None:
    import polars as pl

    folder = file.with_suffix(".buckets")
    folder.mkdir()
    rows.sink_ipc(
        pl.PartitionBy(folder, key="bucket", include_key=False),
        compression="uncompressed",
        mkdir=True,
        record_batch_size=65_536,
    )
    for bucket in buckets:
        part = folder / f"bucket={bucket}"
        _write_sorted(pl.scan_ipc(sorted(part.glob("*"))).collect(), writer)
        shutil.rmtree(part)
    folder.rmdir()


def _write_sorted(rows: pl.DataFrame, writer: pa.ipc.RecordBatchWriter) -> None:
    """Write rows in the order of segment and time, a block at a time."""
    names = [name for name in rows.columns if name != "segment"]
    columns = {name: rows[name].to_numpy() for name in names}
    order = _order(rows["segment"].to_numpy(), columns.get(TIME))
    # What a block is gathered into is used again for the next: no memory is asked for anew.
    size = min(_BLOCK, max(len(order), 1))
    blocks = {name: np.empty(size, dtype=column.dtype) for name, column in columns.items()}
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        for start in range(0, len(order), size):
            at = order[start : start + size]

            def gather(name: str, at: Array = at) -> pa.Array:
                taken = np.take(columns[name], at, out=blocks[name][: len(at)], mode="clip")
                return pa.array(taken)

            arrays = list(pool.map(gather, names))
            writer.write_batch(pa.record_batch(arrays, names=names))


def _order(segments: Array, moments: Array | None) -> Array:
    """The positions of rows by segment and moment; rows of one moment in any order."""
    import polars as pl

    count = len(segments)
    if not count:
        return np.empty(0, dtype=np.int64)
    key, bits = segments, _bits(int(segments.max()))
    if moments is not None:
        known = moments[moments != NO_TIME]
        least = int(known.min()) if len(known) else 0
        span = int(known.max()) - least + 1 if len(known) else 0
        bits += _bits(span)
        if bits >= 63:  # one number cannot hold both
            both = pl.DataFrame({"segment": segments, "moment": moments})
            return both.select(pl.arg_sort_by("segment", "moment")).to_series().to_numpy()
        # A missing moment is before all others.
        key = (segments << _bits(span)) | np.maximum(moments, least - 1) - (least - 1)
    places = _bits(count - 1)
    if bits + places >= 63:
        return pl.Series(key).arg_sort().to_numpy()
    # Numbers that hold their own place: sorting them is twice as fast as sorting places by them.
    packed = (key << places) | np.arange(count)
    packed.sort()
    packed &= (1 << places) - 1
    return packed


def _bits(most: int) -> int:
    """How many bits hold the numbers from 0 to some number."""
    return most.bit_length()


def _columns(
    declaration: ModelDeclaration, source: Source, target: Target, scan: pl.LazyFrame
) -> tuple[list[pl.Expr], list[tuple[str, pa.DataType]]]:
    """The columns of the sorted rows, and their names and types."""
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
    names = [column.meta.output_name() for column in columns]
    return columns, [(n, pa.int64() if n == TIME else pa.float64()) for n in names]


def _number(column: pl.Expr, kind: pl.DataType) -> pl.Expr:
    """A feature; of a moment its seconds, as `feature_columns` has it."""
    import polars as pl

    if not kind.is_temporal():
        return column.cast(pl.Float64)
    return column.cast(pl.Datetime("us")).to_physical().cast(pl.Float64) / 1e6


def _original(label: Any, source: Source, declaration: ModelDeclaration) -> Any:
    # A whole float's label is an integer; the column holds the float.
    kind = source.schema.field(declaration.target).type
    return float(label) if pa.types.is_floating(kind) else label
