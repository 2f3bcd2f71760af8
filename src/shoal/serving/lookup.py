"""Feature lookup: a request brings keys, and a table's newest rows bring the rest."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from shoal.errors import RequestError, nearest
from shoal.models.segments import key_texts

if TYPE_CHECKING:
    import pyarrow as pa

    from shoal.lake import Table

__all__ = ["Lookup"]


@dataclass(frozen=True, kw_only=True)
class _Rows:
    """One version of the table: a row per key, memory-mapped."""

    version: int
    table: pa.Table
    index: Mapping[tuple[str | None, ...], int]


class Lookup:
    """The newest row of each key of a table, kept at the table's newest version.

    Args:
        table: A table such as the one that the model was trained on.
        keys: The columns that a request brings to find a row.
        time: The column that says which row of a key is the newest; None where keys are unique,
            and otherwise the last one in the table's order counts.

    Raises:
        RequestError: The table lacks one of the columns.
        TableNotFound: There is no such table.
    """

    def __init__(self, table: Table, keys: Sequence[str], *, time: str | None = None) -> None:
        self._table = table
        self._keys = tuple(keys)
        self._time = time
        have = table.schema().names
        for name in (*keys, *([time] if time else [])):
            if name not in have:
                close = nearest(name, have)
                raise RequestError(
                    f"'{table.name}' has no column '{name}'; it has {', '.join(have)}.",
                    hint=f"Did you mean '{close}'?" if close else None,
                )
        self._now = self._read(table.version())

    @property
    def version(self) -> int:
        """The table's version that answers come from."""
        return self._now.version

    def refresh(self) -> bool:
        """Takes up a newer version of the table; whether there was one."""
        newest = self._table.version()
        if newest == self._now.version:
            return False
        self._now = self._read(newest)
        return True

    def asked(self, inputs: Mapping[str, str]) -> dict[str, str]:
        """What a request must bring: the keys, and the inputs that the table lacks.

        Args:
            inputs: The model's columns with their MLflow types.
        """
        have = self._now.table.column_names
        missing = {name: kind for name, kind in inputs.items() if name not in have}
        return {name: inputs.get(name, "string") for name in self._keys} | missing

    def fill(self, rows: pa.Table, inputs: Mapping[str, str]) -> pa.Table:
        """A request's rows with the looked-up columns; those of an unknown key are null.

        Args:
            rows: The columns that `asked` names.
            inputs: The model's columns with their MLflow types.
        """
        import pyarrow as pa

        now = self._now
        keys = zip(*(key_texts(rows.column(name)).to_pylist() for name in self._keys), strict=True)
        at = pa.array([now.index.get(key) for key in keys], pa.int64())
        columns = {}
        for name, kind in inputs.items():
            if name in rows.column_names:
                columns[name] = rows.column(name)
            else:
                columns[name] = now.table.column(name).take(at).cast(_arrow(kind), safe=False)
        return pa.table(columns)

    def _read(self, version: int) -> _Rows:
        import polars as pl
        import pyarrow as pa

        rows = self._table.scan(version)
        if self._time is not None:
            rows = rows.sort(self._time, nulls_last=False, maintain_order=True)
        newest = rows.unique(subset=self._keys, keep="last", maintain_order=True)
        with tempfile.TemporaryDirectory(prefix="shoal-lookup-") as folder:
            path = Path(folder) / "rows.arrow"
            newest.sink_ipc(path, compat_level=pl.CompatLevel.oldest())
            # The mapping keeps the bytes after their name is gone.
            with pa.memory_map(str(path)) as mapped:
                table = pa.ipc.open_file(mapped).read_all()
        texts = [key_texts(table.column(name)).to_pylist() for name in self._keys]
        index = {key: at for at, key in enumerate(zip(*texts, strict=True))}
        return _Rows(version=version, table=table, index=index)


def _arrow(kind: str) -> pa.DataType:
    import pyarrow as pa

    kinds = {
        "string": pa.string(),
        "long": pa.int64(),
        "integer": pa.int32(),
        "double": pa.float64(),
        "float": pa.float32(),
        "boolean": pa.bool_(),
        "datetime": pa.timestamp("us"),
    }
    return kinds[kind]
