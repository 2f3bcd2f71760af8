"""Which members of the last training still hold, and which segments must be fitted again."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from shoal.errors import TableError, TrainingError, nearest
from shoal.models import ModelDeclaration
from shoal.training.base import Base
from shoal.training.hashing import row_marks, segment_hashes
from shoal.training.rows import read_rows
from shoal.training.sorting import BUDGET, sort_rows
from shoal.training.source import Segments, Source, find_segments, segments_of

if TYPE_CHECKING:
    import polars as pl

__all__ = ["Refit", "compare", "named_segments", "rows_of", "touched_keys"]

_MOST_ROWS = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Refit:
    """What to fit again.

    Attributes:
        segments: All segments as they are now; their offsets are those of a file of all rows.
        keys: Their canonical keys.
        stale: Positions of those to fit.
        offsets: Offsets of those in the file of sorted rows, shape (stale, 2).
        gone: How many segments have no rows any more.
    """

    segments: Segments
    keys: list[str]
    stale: np.ndarray[Any, Any]
    offsets: np.ndarray[Any, Any]
    gone: int


def touched_keys(declaration: ModelDeclaration, source: Source, base: Base) -> pl.DataFrame | None:
    """The ``by`` values in all files that the table gained or lost since the base.

    Returns:
        One row per value; none when no row changed; None when the log does not tell, so that any
        row may have.
    """
    import polars as pl

    if base.table_id != source.table.id():
        return None
    after = base.table_version
    if source.version < after:  # pinned to an older one
        return None
    try:
        changes = source.table.changes(after=after, until=source.version)
    except TableError:
        return None
    if not declaration.by:
        return None if changes.files or changes.removed else pl.DataFrame()
    by = list(declaration.by)
    schema = source.scan().select(by).collect_schema()
    found = [pl.DataFrame(schema=schema)]
    if source.table.gone(file.path for file in (*changes.files, *changes.removed)):
        return None
    for file in (*changes.files, *changes.removed):
        inside = [name for name in by if name not in file.partition]
        frame = (
            pl.scan_parquet(file.path, credential_provider=None).select(inside).unique().collect()
        )
        values = [
            pl.lit(file.partition[name]).cast(schema[name]).alias(name)
            for name in by
            if name in file.partition
        ]
        frame = frame.with_columns(values) if inside else pl.select(values)
        found.append(frame.select(by).cast(dict(schema)))  # type: ignore[arg-type]
    return pl.concat(found).unique()


def rows_of(
    declaration: ModelDeclaration, source: Source, base: Base, keys: pl.DataFrame
) -> Source:
    """The rows of some segments, read at once where they are few enough to be held.

    Args:
        declaration: The model's declaration.
        source: Its table.
        base: The last training, which knows how many rows the segments had.
        keys: Values of the key columns.
    """
    part = replace(source, keys=keys)
    columns = [*declaration.by, *(f.name for f in source.features), declaration.target]
    columns += [name for name in (declaration.weight, declaration.time) if name]
    old = base.segments.select(*declaration.by, "rows").cast(dict(keys.schema))  # type: ignore[arg-type]
    rows = old.join(keys, on=keys.columns, how="semi", nulls_equal=True)["rows"].sum()
    most = BUDGET // (8 * len(columns))
    if rows > most:
        return part
    held = part.scan().select(list(dict.fromkeys(columns))).head(most + 1).collect()
    return part if held.height > most else replace(part, held=held)


def compare(
    declaration: ModelDeclaration,
    source: Source,
    base: Base,
    *,
    part: Source,
    forced: Collection[str] | None,
    file: Path,
) -> Refit:
    """Compare the rows of touched segments with those that their members were fitted on.

    Args:
        declaration: The model's declaration.
        source: Its table.
        base: The last training.
        part: The same table's rows of the segments that may have changed; all of it compares all.
        forced: Keys of segments to fit whatever their rows are; None for all that are touched.
        file: Where the sorted rows of the touched segments go.
    """
    import polars as pl

    by = list(declaration.by)
    now = part.scan().group_by(by).agg(rows=pl.len()).sort(by).collect()
    offsets = np.concatenate([[0], np.cumsum(now["rows"].to_numpy().astype(np.int64))])
    found_now = segments_of(source, now.select(by), offsets)
    keys = found_now.keys if now.height else []
    hashes: list[str] = []
    if keys:
        sort_rows(declaration, part, base.target, file, segments=found_now)
        hashes = _hashes(file, offsets)
    old = base.segments.select("segment", "rows", "rows_hash", *by)
    known = dict(zip(old["segment"].to_list(), old["rows_hash"].to_list(), strict=True))
    forced = keys if forced is None else forced
    same = {k for k, h in zip(keys, hashes, strict=True) if known.get(k) == h} - set(forced)
    found = now.with_columns(segment=pl.Series(keys, dtype=pl.String), at=pl.int_range(pl.len()))
    kept = old.drop("rows_hash").with_columns(at=pl.lit(-1, pl.Int64))
    touched = part.keys
    if touched is None:
        kept = kept.clear()
    else:
        kept = kept.cast(dict(now.select(by).schema))  # type: ignore[arg-type]
        kept = kept.join(touched, on=by, how="anti", nulls_equal=True)
    names = [*by, "rows", "segment", "at"]
    both = [f.select(names).cast({"rows": pl.Int64, "at": pl.Int64}) for f in (kept, found)]
    whole = pl.concat(both).sort(by)
    at = whole["at"].to_numpy()
    stale = [i for i, k in enumerate(whole["segment"].to_list()) if at[i] >= 0 and k not in same]
    bounds = np.concatenate([[0], np.cumsum(whole["rows"].to_numpy())]).astype(np.int64)
    return Refit(
        segments=segments_of(source, whole.select(by), bounds),
        keys=whole["segment"].to_list(),
        stale=np.array(stale, dtype=np.int64),
        offsets=np.stack([offsets[at[stale]], offsets[at[stale] + 1]], axis=1),
        gone=old.height + len(set(keys) - set(known)) - whole.height,
    )


def _hashes(file: Path, offsets: np.ndarray[Any, Any]) -> list[str]:
    """The hash of each segment, some million rows at a time."""
    found: list[str] = []
    with pa.memory_map(str(file)) as mapped:
        rows = pa.ipc.open_file(mapped).read_all()
        first = 0
        while first < len(offsets) - 1:
            end = int(np.searchsorted(offsets, offsets[first] + _MOST_ROWS, side="right")) - 1
            bounds = offsets[first : max(end, first + 1) + 1]
            part = rows.slice(bounds[0], bounds[-1] - bounds[0])
            found += segment_hashes(row_marks(read_rows(part).columns()), bounds - bounds[0])
            first += len(bounds) - 1
    return found


def named_segments(
    declaration: ModelDeclaration, source: Source, texts: Collection[str]
) -> pl.DataFrame:
    """The ``by`` values of segments as a person names them: ``UA,IAH`` or ``["UA","IAH"]``.

    Raises:
        TrainingError: The table has no such segment.
    """
    import polars as pl

    segments = find_segments(declaration, source)
    at = {key: i for i, key in enumerate(segments.keys)}
    at |= {",".join(t or "null" for t in text): i for i, text in enumerate(segments.texts)}
    for text in texts:
        if text not in at:
            close = nearest(text, at)
            raise TrainingError(
                f"{source.table.name} version {source.version} has no segment {text} "
                f"(by {', '.join(declaration.by)}).",
                hint=f"did you mean --segment '{close}'?" if close else None,
            )
    chosen = segments.values.take(pa.array(sorted({at[text] for text in texts})))
    frame = pl.from_arrow(chosen)
    assert isinstance(frame, pl.DataFrame)
    return frame.cast(dict(source.scan().select(declaration.by).collect_schema()))  # type: ignore[arg-type]
