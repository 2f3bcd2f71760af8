"""What a table's columns hold at a version, and how that moved from another version.

For one table at a time; many segments are the business of `shoal.workspace.watch`. The page of both
versions side by side is Evidently's.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shoal.errors import ModelError, TableError
from shoal.monitoring import drift, profile
from shoal.workspace.watch.tables import comparable

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa

    from shoal.lake import Table

__all__ = ["clearly_moved", "moved", "sketched", "write_report"]

# Of a larger table, evenly spaced rows are profiled.
_ROWS = 2_000_000
_REPORTED = 200_000
_PSI, _MISSING, _P = 0.2, 0.1, 0.01


def sketched(table: Table, version: int, rows: int = _ROWS) -> pa.Table:
    """Sketches of all columns that can be sketched; see `shoal.monitoring.profile`.

    Args:
        table: The table.
        version: Its version.
        rows: Of a larger table about so many rows, evenly spaced, are looked at.

    Raises:
        TableError: There is no such version, or its files are gone.
    """
    names = comparable(table.schema(version), moments=True)
    if not names:
        raise TableError(
            f"No column of {table.name} can be described: they are nested or binary.",
            hint="Describe a table that is made from it.",
        )
    return profile(_spaced(table.scan(version), rows), [], names)


def _spaced(frame: pl.LazyFrame, rows: int) -> pl.LazyFrame:
    import polars as pl

    count = int(frame.select(pl.len()).collect().item())
    return frame if count <= rows else frame.gather_every(-(-count // rows))


def moved(before: pa.Table, after: pa.Table) -> dict[str, dict[str, Any]]:
    """How each column of two sketches moved: the values of `shoal.monitoring.drift`, by column."""
    return {row["column"]: row for row in drift(before, after).to_pylist()}


def clearly_moved(row: dict[str, Any]) -> bool:
    """It moved far, and more than by chance: PSI of 0.2, or a tenth more or fewer missing."""
    if row["p"] is None or row["p"] >= _P:
        return False
    gone = abs((row["missing"] or 0.0) - (row["baseline_missing"] or 0.0))
    return (row["psi"] or 0.0) >= _PSI or gone >= _MISSING


def write_report(table: Table, before: int, after: int, path: Path) -> None:
    """Writes Evidently's page on a version beside another one: drift, and both summaries.

    The page has all that it needs in itself. Evidently's own telemetry is off.

    Args:
        table: The table.
        before: What is compared with.
        after: What is described.
        path: The page's file, which is written anew.

    Raises:
        ModelError: Evidently is not installed.
        TableError: There is no such version, or its files are gone.
    """
    names = comparable(table.schema(after), moments=True)
    known = comparable(table.schema(before), moments=True)
    names = [name for name in names if name in known]
    reference, current = (
        _spaced(table.scan(version), _REPORTED).select(names).collect().to_pandas()
        for version in (before, after)
    )
    os.environ.setdefault("DO_NOT_TRACK", "1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of deprecations in what Evidently uses
        try:
            from evidently import Report
            from evidently.presets import DataDriftPreset, DataSummaryPreset
        except ImportError as error:
            raise ModelError(
                f"The page is Evidently's, which cannot be loaded: {error}",
                hint="pip install 'shoal[evidently]'",
            ) from error
        found = Report([DataDriftPreset(), DataSummaryPreset()]).run(current, reference)
    made = path.with_name(f".{path.name}.part")
    found.save_html(str(made))
    made.replace(path)
