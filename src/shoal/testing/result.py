"""What a test's run made: tables by name, and how each ended."""

from __future__ import annotations

import shutil
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from shoal.errors import TableNotFound, nearest

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl
    import pyarrow as pa

    from shoal.lake import Lake, Table
    from shoal.pipeline import ExpectationCount, Refresh

__all__ = ["Given", "Named", "Result", "Rows", "Scratch"]

T = TypeVar("T")
Given: TypeAlias = "Sequence[Mapping[str, Any]] | Any"


class Scratch:
    """A folder that goes when nothing needs it any more.

    Args:
        path: The folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        weakref.finalize(self, shutil.rmtree, path, ignore_errors=True)


@dataclass(frozen=True, kw_only=True)
class Rows:
    """A table as one run left it.

    Args:
        table: The table.
        version: Its version then.
    """

    table: Table
    version: int
    _kept: Scratch = field(repr=False, compare=False)

    def rows(self, *columns: str) -> list[dict[str, Any]]:
        """The rows as dicts, sorted by their values from left to right, nulls first.

        Args:
            columns: Only these, in this order; all by default.

        Raises:
            TableError: There is no such column.
        """
        found = self.to_arrow(*columns).to_pylist()
        return sorted(found, key=lambda row: [_order(value) for value in row.values()])

    def to_arrow(self, *columns: str) -> pa.Table:
        """The rows as an Arrow table, in the order of the files; see `rows`."""
        return self.to_polars(*columns).to_arrow()

    def to_polars(self, *columns: str) -> pl.DataFrame:
        """The rows as a Polars frame, in the order of the files; see `rows`."""
        names = self.table.schema(self.version).names
        for column in columns:
            if column not in names:
                close = nearest(column, names)
                raise TableNotFound(
                    f"{self.table.name} has no column '{column}'; it has {', '.join(names)}.",
                    hint=f"Did you mean '{close}'?" if close else None,
                )
        return self.table.scan(self.version, list(columns or names)).collect()

    def to_pandas(self, *columns: str) -> pd.DataFrame:
        """The rows as a pandas frame, in the order of the files; see `rows`."""
        return self.to_arrow(*columns).to_pandas()

    def __len__(self) -> int:
        return self.table.size(self.version)[0]


def _order(value: object) -> tuple[Any, ...]:
    if value is None:
        return (0,)
    if isinstance(value, bool | int | float):
        return (1, value)
    return (2, type(value).__name__, value if isinstance(value, str | bytes) else repr(value))


class Named(Mapping[str, T]):
    """Values by table name; a name without a schema has the default one, as in the sources.

    Args:
        lake: Reads names.
        values: The values by full name.
    """

    def __init__(self, lake: Lake, values: Mapping[str, T]) -> None:
        self.lake = lake
        self._values = values

    def __getitem__(self, name: str) -> T:
        full = str(self.lake.name(name))
        if full not in self._values:
            close = nearest(full, self._values)
            raise TableNotFound(
                f"The run had no table '{full}'; it had {', '.join(self._values) or 'none'}.",
                hint=f"Did you mean '{close}'?" if close else "Name it in select.",
            )
        return self._values[full]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and str(self.lake.name(name)) in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


class Result(Named[Rows]):
    """What one run left; the tables by name, the given ones too.

    Args:
        lake: The lake that the test's runs share.
        refreshes: How each table of the run ended, by name.
        again: Runs once more in the same lake.
        kept: The lake's folder.
    """

    def __init__(
        self,
        *,
        lake: Lake,
        refreshes: Mapping[str, Refresh],
        again: Callable[..., Result],
        kept: Scratch,
    ) -> None:
        super().__init__(
            lake,
            {
                table.name: Rows(table=table, version=table.version(), _kept=kept)
                for table in lake.tables()
                if table.table_name.schema != "shoal"
            },
        )
        self.refreshes = Named(lake, refreshes)
        self._again = again

    @property
    def expectations(self) -> Mapping[str, Mapping[str, ExpectationCount]]:
        """By table and expectation, how many rows ``passed`` and ``failed`` in this run."""
        return Named(
            self.lake,
            {
                name: {count.expectation.name: count for count in done.expectations}
                for name, done in self.refreshes.items()
            },
        )

    def run(
        self,
        inputs: Mapping[str, Given] | None = None,
        *,
        full_refresh: Sequence[str] = (),
        check: bool = True,
    ) -> Result:
        """Runs the same tables again, in the same lake, after more rows came.

        Args:
            inputs: Rows to append to the input tables.
            full_refresh: Rebuild these tables from their sources.
            check: Raise the error of a table that failed.

        Returns:
            The tables as they are then; this result stays as it is.
        """
        return self._again(inputs or {}, full_refresh=full_refresh, check=check)
