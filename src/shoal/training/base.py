"""The last training of a model, as far as the next one can carry it over."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from shoal.errors import TableError
from shoal.lake import Table, commit_info
from shoal.training.members import PROVENANCE
from shoal.training.source import Target

if TYPE_CHECKING:
    import polars as pl

__all__ = ["Base", "read_base"]

_KERNEL = {
    "status": pa.string(),
    "reason": pa.string(),
    "error": pa.string(),
    "rows_train": pa.int64(),
    "rows_holdout": pa.int64(),
    "rows_dropped": pa.int64(),
    "rows_hash": pa.string(),
    "fit_seconds": pa.float64(),
    "core_seconds": pa.float64(),
    "interval": pa.float64(),
    "state": pa.large_binary(),
    **PROVENANCE,
}


@dataclass(frozen=True, kw_only=True)
class Base:
    """The members of one fleet version.

    Attributes:
        fleet_version: That version.
        table_id: Delta id of the table it was trained on.
        target: What was known of the target column.
        members: Its rows of the fleet table.
    """

    fleet_version: int
    table_id: str
    target: Target
    members: pl.DataFrame

    @property
    def segments(self) -> pl.DataFrame:
        """The rows of segments; the others are fallback groups."""
        return self.members.filter(self.members["level"] == 0)

    @property
    def table_version(self) -> int:
        """The oldest version that some member was last compared with."""
        return int(self.segments["table_version"].min())  # type: ignore[arg-type]

    def rows(self, keys: Collection[str]) -> pa.Table:
        """The kernel's rows of some members, in the order of their keys."""
        import polars as pl

        order = pl.DataFrame({"segment": pl.Series(list(keys), dtype=pl.String)})
        found = order.join(self.members, on="segment", how="left", maintain_order="left")
        texts = self.members.filter(pl.col("structure").is_not_null())
        ids = texts["template"].to_list()
        arrow = found.to_arrow()
        columns = {n: _column(arrow, n).cast(kind) for n, kind in _KERNEL.items()}
        sums = [n for n in arrow.column_names if n.startswith("sums_")]
        columns |= {n: arrow.column(n).cast(pa.list_(pa.float64())) for n in sums}
        at = {name: i for i, name in enumerate(ids)}
        codes = [at.get(name) for name in found["template"].to_list()]
        columns["template"] = pa.DictionaryArray.from_arrays(
            pa.array(codes, pa.int32()), pa.array(texts["structure"].to_list(), pa.string())
        )
        return pa.table(columns)


def read_base(table: Table, since: int) -> Base | None:
    """The fleet that one version of the fleet table added; None when it cannot be read.

    Args:
        table: The fleet table.
        since: The version.
    """
    import polars as pl

    try:
        said = commit_info(table, since)
        number = int(said["fleet_version"])
        members = _members(table, since, number)
        classes = json.loads(said["shoal.classes"])
        target = Target(
            classes=None if classes is None else tuple(classes), mean=float(said["shoal.centre"])
        )
    except (TableError, KeyError, StopIteration, pl.exceptions.PolarsError, OSError):
        return None  # a fleet of an older Shoal, or one whose files were vacuumed
    if not {"structure", *_KERNEL} - {"interval"} <= set(members.columns) or not members.height:
        return None
    return Base(
        fleet_version=number, table_id=said["shoal.table_id"], target=target, members=members
    )


def _column(rows: pa.Table, name: str) -> pa.ChunkedArray | pa.Array:
    # Members of a Shoal before there were intervals lack theirs.
    return rows.column(name) if name in rows.column_names else pa.nulls(rows.num_rows)


def _members(table: Table, since: int, number: int) -> pl.DataFrame:
    """One fleet version's rows, from just the files that its commit added where they still lie."""
    import polars as pl

    wanted = pl.col("fleet_version") == number
    with contextlib.suppress(TableError, OSError, pl.exceptions.PolarsError):
        files = table.changes(after=since - 1, until=since).files
        if files and not any(file.vector for file in files):
            found = (
                pl.scan_parquet([file.path for file in files], credential_provider=None)
                .filter(wanted)
                .collect()
            )
            if found.height:
                return found
    return table.scan(since).filter(wanted).collect()
