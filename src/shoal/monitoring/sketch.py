"""Sketches of columns, segment by segment: small, and enough to compare two windows by.

A column of numbers keeps the values at evenly spaced ranks, so that its empirical distribution is
known to within half of 1 / `POINTS` (exactly, when a segment has no more values than that). A
column of categories keeps the counts of its most frequent values.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

if TYPE_CHECKING:
    import polars as pl

__all__ = ["LABELS", "OTHER", "POINTS", "PROFILE", "profile"]

Array = np.ndarray[Any, Any]

# Values kept of a column of numbers, and counts kept of a column of categories.
POINTS = 100
LABELS = 20

# The category of all values beyond the most frequent.
OTHER = "(other)"

PROFILE = pa.schema(
    [
        ("segment", pa.string()),
        ("column", pa.string()),
        ("kind", pa.string()),
        ("rows", pa.int64()),
        ("missing", pa.int64()),
        ("mean", pa.float64()),
        ("std", pa.float64()),
        ("low", pa.float64()),
        ("high", pa.float64()),
        ("points", pa.list_(pa.float64())),
        ("labels", pa.list_(pa.string())),
        ("counts", pa.list_(pa.int64())),
    ]
)


def profile(rows: pl.LazyFrame, by: Sequence[str], columns: Sequence[str]) -> pa.Table:
    """Sketches columns, segment by segment.

    One column is held in memory at a time, with a number per row for its segment.

    Args:
        rows: The rows.
        by: Key columns; empty makes one segment of all rows.
        columns: Columns of numbers, moments (seconds since 1970), booleans or text; each once.

    Returns:
        A table of schema `PROFILE`, one row per segment and column; none without rows. Nulls and
        NaN are missing; infinities are values.
    """
    from shoal.models.segments import segment_codes, segment_key

    keys = rows.select([*by] or [next(iter(columns))]).collect().to_arrow()
    codes, texts = segment_codes(keys, by)
    names = [segment_key(text) for text in texts] if keys.num_rows else []
    if not names:
        return PROFILE.empty_table()
    parts = [_column(rows, name, codes, names) for name in columns]
    return pa.concat_tables(parts)


def _column(rows: pl.LazyFrame, name: str, codes: Array, segments: list[str]) -> pa.Table:
    from shoal.models.columns import is_feature_type, is_moment_type, seconds_of

    column = rows.select(name).collect().to_arrow().column(0)
    kind = column.type
    if is_moment_type(kind):
        values = seconds_of(column)
    elif is_feature_type(kind) and not pa.types.is_boolean(kind):
        values = column.cast(pa.float64(), safe=False)
    else:
        return _categories(name, column, codes, segments)
    return _numbers(name, np.asarray(pc.fill_null(values, np.nan)), codes, segments)


def _numbers(name: str, values: Array, codes: Array, segments: list[str]) -> pa.Table:
    known = ~np.isnan(values)
    rows = np.bincount(codes, minlength=len(segments))
    order = np.lexsort((values, codes))
    order = order[known[order]]
    values, codes = values[order], codes[order]
    count = np.bincount(codes, minlength=len(segments))
    start = np.cumsum(count) - count
    kept = np.minimum(count, POINTS)
    within = np.arange(kept.sum()) - np.repeat(np.cumsum(kept) - kept, kept)
    share = np.repeat(count, kept) / np.repeat(np.maximum(kept, 1), kept)
    at = np.repeat(start, kept) + ((within + 0.5) * share).astype(np.int64)
    held = count > 0
    low, high = np.full(len(segments), np.nan), np.full(len(segments), np.nan)
    low[held], high[held] = values[start[held]], values[start[held] + count[held] - 1]
    mean, std = _moments(values, codes, count)
    return pa.table(
        {
            **_same(name, "number", rows, rows - count, segments),
            "mean": _floats(mean),
            "std": _floats(std),
            "low": _floats(low),
            "high": _floats(high),
            "points": pa.ListArray.from_arrays(_offsets(kept), values[at]),
            "labels": pa.nulls(len(segments), PROFILE.field("labels").type),
            "counts": pa.nulls(len(segments), PROFILE.field("counts").type),
        },
        schema=PROFILE,
    )


def _moments(values: Array, codes: Array, count: Array) -> tuple[Array, Array]:
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = np.bincount(codes, weights=values, minlength=len(count)) / count
        square = np.bincount(codes, weights=(values - mean[codes]) ** 2, minlength=len(count))
        return mean, np.sqrt(square / (count - 1))


def _categories(name: str, column: pa.ChunkedArray, codes: Array, segments: list[str]) -> pa.Table:
    encoded = pc.dictionary_encode(column.cast(pa.string()).combine_chunks())
    words = encoded.dictionary.to_pylist()
    value = np.asarray(encoded.indices.fill_null(-1), dtype=np.int64)
    known = value >= 0
    rows = np.bincount(codes, minlength=len(segments))
    count = np.bincount(codes[known], minlength=len(segments))
    pairs, times = np.unique(codes[known] * max(len(words), 1) + value[known], return_counts=True)
    owner, which = np.divmod(pairs, max(len(words), 1))
    order = np.lexsort((which, -times, owner))
    owner, which, times = owner[order], which[order], times[order]
    labels: list[list[str]] = [[] for _ in segments]
    counts: list[list[int]] = [[] for _ in segments]
    for segment, word, number in zip(owner.tolist(), which.tolist(), times.tolist(), strict=True):
        if len(labels[segment]) < LABELS:
            labels[segment].append(words[word])
            counts[segment].append(number)
        elif len(labels[segment]) == LABELS:
            labels[segment].append(OTHER)
            counts[segment].append(number)
        else:
            counts[segment][-1] += number
    nothing = pa.nulls(len(segments), pa.float64())
    return pa.table(
        {
            **_same(name, "category", rows, rows - count, segments),
            **dict.fromkeys(("mean", "std", "low", "high"), nothing),
            "points": pa.nulls(len(segments), PROFILE.field("points").type),
            "labels": pa.array(labels, PROFILE.field("labels").type),
            "counts": pa.array(counts, PROFILE.field("counts").type),
        },
        schema=PROFILE,
    )


def _same(name: str, kind: str, rows: Array, missing: Array, segments: list[str]) -> dict[str, Any]:
    many = len(segments)
    return {
        "segment": pa.array(segments, pa.string()),
        "column": pa.array([name] * many, pa.string()),
        "kind": pa.array([kind] * many, pa.string()),
        "rows": pa.array(rows, pa.int64()),
        "missing": pa.array(missing, pa.int64()),
    }


def _floats(values: Array) -> pa.Array:
    return pa.array(values, pa.float64(), from_pandas=True)


def _offsets(counts: Array) -> pa.Array:
    return pa.array(np.concatenate([[0], np.cumsum(counts)]).astype(np.int32))
