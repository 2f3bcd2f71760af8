"""Constraints are checked before a commit: Delta leaves that to the writer."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from shoal.errors import TableError
from shoal.lake.protocol import Constraint, constraints_of

if TYPE_CHECKING:
    from deltalake import DeltaTable

    from shoal.lake.staging import Staged

__all__ = ["count_broken", "refuse_broken"]


def refuse_broken(
    table: DeltaTable, name: str, files: Sequence[Staged], checked: Collection[str]
) -> None:
    """Refuses files of which a row breaks a constraint of the table.

    NOT NULL is read from the files' statistics. The SQL of a CHECK constraint is for an engine: the
    caller had one check it, and says so in ``checked``, or it is evaluated here.

    Args:
        table: The table, at its newest version.
        name: Its name.
        files: The files to commit.
        checked: Conditions that every row is known to meet.

    Raises:
        TableError: The message names the constraint; nothing was changed.
    """
    for rule in constraints_of(table):
        if rule.condition in checked or not files:
            continue
        broken = _nulls(rule.column, files) if rule.column else count_broken(rule, files, table)
        if broken:
            raise TableError(
                f"{broken:,} of {sum(file.rows for file in files):,} new rows break the constraint "
                f"'{rule.name}' of {name} ({rule.condition}); nothing was committed.",
                hint="Mend the rows, or drop them with "
                f'@dp.expect_or_drop("{rule.name}", "{rule.condition}").',
            )


def _nulls(column: str, files: Sequence[Staged]) -> int:
    count = 0
    for file in files:
        if column in file.partition:
            count += file.rows if file.partition[column] is None else 0
        else:
            count += file.rows - file.count_present(column)
    return count


def count_broken(rule: Constraint, files: Sequence[Staged], table: DeltaTable) -> int:
    """Rows of staged files for which a condition is false or null.

    Raises:
        TableError: The condition's SQL is not understood outside the engine.
    """
    import polars as pl
    from polars.exceptions import PolarsError

    names = [field.name for field in table.schema().fields]
    frames = []
    for file in files:
        frame = pl.scan_parquet(file.path, hive_partitioning=False, credential_provider=None)
        have = frame.collect_schema().names()
        missing = [name for name in names if name not in have]
        frames.append(frame.with_columns(pl.lit(file.partition.get(n)).alias(n) for n in missing))
    rows = pl.concat(frames, how="vertical_relaxed")
    try:
        broken = rows.filter(~pl.sql_expr(rule.condition.replace("`", '"')).fill_null(False))
        return int(broken.select(pl.len()).collect().item())
    except PolarsError as error:
        raise TableError(
            f"The constraint '{rule.name}' ({rule.condition}) cannot be checked here: "
            f"{str(error).splitlines()[0]}",
            hint="Write the table through a pipeline: its engine checks every constraint.",
        ) from error
