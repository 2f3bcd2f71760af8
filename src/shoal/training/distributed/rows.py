"""The rows of a distributed training: one Arrow file, a row's features side by side."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from shoal.training.hashing import own_order, row_marks, segment_hashes
from shoal.training.job import FitJob
from shoal.training.rows import TARGET, TIME

__all__ = ["Block", "MappedRows", "write_rows"]

Array = np.ndarray[Any, Any]

# Rows of one record batch of the file.
_ROWS = 65_536


@dataclass(frozen=True, kw_only=True)
class Block:
    """What is known of the rows that were written.

    Attributes:
        rows: How many.
        dropped: How many were left out, for missing or infinite values.
        hashes: The hash of all rows as they came, in a list.
        moments: Their times, int64, shape (rows,), or None.
    """

    rows: int
    dropped: int
    hashes: list[str]
    moments: Array | None


def write_rows(sorted_file: Path, file: Path, job: FitJob) -> Block:
    """Write sorted rows in their own order, without those that cannot be fitted.

    Some bytes a row are held in memory for the order; the features are not.

    Args:
        sorted_file: What `sort_rows` wrote.
        file: Where the rows go: ``features`` (a list of float64 a row) and ``target``.
        job: What is fitted.
    """
    table = pa.ipc.open_file(pa.memory_map(str(sorted_file))).read_all()
    columns = [_Column(table.column(str(i))) for i in range(job.features)]
    target = table.column(TARGET).to_numpy()
    moments = table.column(TIME).to_numpy() if job.timed else None
    marks = row_marks([*columns, target, *([] if moments is None else [moments])])  # type: ignore[list-item]
    offsets = np.array([0, len(target)])
    order = own_order(moments, marks if job.timed else row_marks([marks], job.seed), offsets)
    keep = np.isfinite(target)
    for start in range(0, len(target), _ROWS):
        part = slice(start, start + _ROWS)
        for column in columns:
            values = column[part]
            keep[part] &= ~np.isinf(values) if job.nan_ok else np.isfinite(values)
    at = np.flatnonzero(keep) if order is None else order[keep[order]]
    schema = pa.schema([("features", pa.list_(pa.float64(), job.features)), (TARGET, pa.float64())])
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        for start in range(0, len(at), _ROWS):
            rows = at[start : start + _ROWS]
            matrix = np.empty((len(rows), job.features))
            for i, column in enumerate(columns):
                column.take(rows, matrix[:, i])
            lists = pa.FixedSizeListArray.from_arrays(pa.array(matrix.reshape(-1)), job.features)
            writer.write_batch(pa.record_batch([lists, pa.array(target[rows])], schema))
    return Block(
        rows=len(at),
        dropped=len(target) - len(at),
        hashes=segment_hashes(marks, offsets),
        moments=None if moments is None else moments[at],
    )


class _Column:
    """A column of a mapped file: views of its chunks, copied where they are read."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        self._chunks = [chunk.to_numpy() for chunk in column.chunks]
        self._starts = np.cumsum([0, *map(len, self._chunks)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, part: slice) -> Array:
        start, end, _ = part.indices(len(self))
        found = np.empty(end - start)
        self.take(np.arange(start, end), found)
        return found

    def take(self, rows: Array, out: Array) -> None:
        """Copy some rows' values."""
        chunks = np.searchsorted(self._starts, rows, side="right") - 1
        for chunk in np.unique(chunks):
            here = chunks == chunk
            out[here] = self._chunks[chunk][rows[here] - self._starts[chunk]]


class MappedRows:
    """The first rows of a file that `write_rows` wrote, mapped into memory.

    It is what estimators take for a matrix: slices of it are views, and only what is asked for as
    an array is read.

    Args:
        file: The file.
        start: The first row.
        end: The row after the last; None for all.
    """

    def __init__(self, file: Path, start: int = 0, end: int | None = None) -> None:
        self.file = Path(file)
        reader = pa.ipc.open_file(pa.memory_map(str(file)))
        self._matrices: list[Array] = []
        self._targets: list[Array] = []
        for i in range(reader.num_record_batches):
            batch = reader.get_batch(i)
            lists = batch.column(0)
            flat = lists.flatten().to_numpy()
            self._matrices.append(flat.reshape(len(batch), -1))
            self._targets.append(batch.column(1).to_numpy())
        total = sum(map(len, self._targets))
        self.start, self.end = start, total if end is None else min(end, total)
        self.width = self._matrices[0].shape[1] if self._matrices else 0

    def __len__(self) -> int:
        return self.end - self.start

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and features."""
        return len(self), self.width

    def slice(self, start: int, end: int) -> MappedRows:
        """Some adjacent rows, still in the file."""
        found = object.__new__(MappedRows)
        vars(found).update(vars(self))
        found.start = self.start + start
        found.end = min(self.start + end, self.end)
        return found

    def take(self, at: Array) -> tuple[Array, Array]:
        """Some rows.

        Args:
            at: Their positions, int64, shape (n,).

        Returns:
            Features, float64 of shape (n, features), and targets, float64 of shape (n,).
        """
        at = at + self.start
        features, target = np.empty((len(at), self.width)), np.empty(len(at))
        chunks, inside = at // _ROWS, at % _ROWS
        for chunk in np.unique(chunks):
            here = chunks == chunk
            features[here] = self._matrices[chunk][inside[here]]
            target[here] = self._targets[chunk][inside[here]]
        return features, target

    def target(self) -> Array:
        """All targets, float64, shape (rows,)."""
        found = np.concatenate([np.empty(0), *self._targets])
        return found[self.start : self.end]

    def blocks(self) -> Any:
        """The rows a part at a time: features and targets."""
        for start in range(0, len(self), _ROWS):
            yield self.take(np.arange(start, min(start + _ROWS, len(self))))

    def __array__(self, dtype: Any = None, copy: Any = None) -> Array:
        _ = copy
        found = self.take(np.arange(len(self)))[0]
        return found if dtype is None else found.astype(dtype, copy=False)

    def __getitem__(self, at: Any) -> Any:
        if isinstance(at, tuple):  # one column
            rows, column = at
            parts = [features[:, column] for features, _ in self.blocks()]
            return np.concatenate([np.empty(0), *parts])[rows]
        start, end, _ = at.indices(len(self))
        return self.slice(start, end)
