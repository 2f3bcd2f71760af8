"""Checks that a table is whole: its log, files, statistics, progress and constraints."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from shoal.errors import ShoalError
from shoal.lake.log import checkpoints, commits, log_versions
from shoal.lake.progress import flow_folder, read_progress
from shoal.lake.protocol import constraints_of, refuse_unwritable
from shoal.lake.reading import data_files
from shoal.store import parquet_footer

if TYPE_CHECKING:
    from deltalake import DeltaTable

    from shoal.lake.table import Table

__all__ = ["Finding", "check"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something that a check found.

    Args:
        table: The table.
        check: ``log``, ``files``, ``progress``, ``constraints`` or ``protocol``.
        broken: The table, or its next refresh, cannot be trusted; else it is only worth knowing.
        message: What was found.
        hint: What to do.
    """

    table: str
    check: str
    broken: bool
    message: str
    hint: str = ""


def check(table: Table) -> list[Finding]:
    """Checks the newest version of a table.

    The footers of its files are read; rows only for CHECK constraints.
    """
    name = table.name
    found = list(_log(table))
    try:
        opened = table._open()
    except ShoalError as error:
        if found:
            return found
        hint = error.hint or f"Restore {table.path}/_delta_log from a backup."
        return [
            *found,
            Finding(table=name, check="log", broken=True, message=str(error), hint=hint),
        ]
    found += _files(table, opened)
    found += _progress(table)
    if not any(finding.broken and finding.check == "files" for finding in found):
        found += _constraints(table, opened)
    try:
        refuse_unwritable(opened, name, overwrite=False)
    except ShoalError as error:
        found.append(
            Finding(table=name, check="protocol", broken=False, message=error.message, hint="")
        )
    return found


def _log(table: Table) -> Iterator[Finding]:
    versions = log_versions(table.path)
    gaps = [after for before, after in pairwise(versions) if after != before + 1]
    if gaps:
        yield Finding(
            table=table.name,
            check="log",
            broken=True,
            message=f"The log has a gap before version {gaps[0]}.",
            hint=f"Restore {table.path}/_delta_log from a backup, or rebuild the table: "
            f"shoal run --full-refresh {table.name}",
        )
    if (
        versions
        and versions[0] > 0
        and not any(v >= versions[0] - 1 for v in checkpoints(table.path))
    ):
        yield Finding(
            table=table.name,
            check="log",
            broken=True,
            message=f"The log begins at version {versions[0]} without a checkpoint before it.",
            hint=f"Restore {table.path}/_delta_log from a backup.",
        )


def _files(table: Table, opened: DeltaTable) -> Iterator[Finding]:
    import pyarrow as pa

    have = {file.name: file.size for file in table.store.files()}
    wrong: list[str] = []
    files = data_files(opened)
    for path, (size, rows, _) in files.items():
        try:
            if have.get(path, size) != size:
                wrong.append(f"{path} has {have[path]:,} bytes, the log says {size:,}")
                continue
            count = parquet_footer(table.store.path(path)).num_rows
            if rows is not None and count != rows:
                wrong.append(f"{path} has {count:,} rows, the log says {rows:,}")
        except FileNotFoundError:
            wrong.append(f"{path} is gone")
        except (OSError, pa.ArrowException) as error:
            wrong.append(f"{path} cannot be read: {str(error).splitlines()[0]}")
    if wrong:
        yield Finding(
            table=table.name,
            check="files",
            broken=True,
            message=f"{len(wrong)} of {len(files)} files are damaged: {'; '.join(wrong[:5])}"
            + ("; ..." if len(wrong) > 5 else "."),
            hint=f"Rebuild the table: shoal run --full-refresh {table.name}; or go back to a "
            f"version without them: shoal restore {table.name} --version N",
        )


def _progress(table: Table) -> Iterator[Finding]:
    numbers: dict[str, int] = {}
    for _, actions in commits(table.path):
        for action in actions:
            if (txn := action.get("txn")) and txn["appId"].startswith("shoal:"):
                numbers[txn["appId"].removeprefix("shoal:")] = txn["version"]
    for flow, number in numbers.items():
        message = ""
        try:
            state = read_progress(table.store, flow, number).state
            if state and not table.store.files(f"{flow_folder(flow)}/{state}"):
                message = f"The rows that flow '{flow}' keeps to go on from are gone ({state})."
        except ShoalError as error:
            message = error.message
        if message:
            yield Finding(
                table=table.name,
                check="progress",
                broken=True,
                message=message,
                hint=f"Rebuild the table: shoal run --full-refresh {table.name}",
            )


def _constraints(table: Table, opened: DeltaTable) -> Iterator[Finding]:
    for rule in constraints_of(opened):
        condition = f"coalesce(({rule.condition}), false)"
        broken = _count(condition, opened)
        if broken != 0:
            said = (
                "could not be checked here" if broken is None else f"is broken by {broken:,} rows"
            )
            yield Finding(
                table=table.name,
                check="constraints",
                broken=broken is not None,
                message=f"The constraint '{rule.name}' ({rule.condition}) {said}.",
                hint=f"Find the rows with shoal sql: WHERE NOT {condition}",
            )


def _count(condition: str, opened: DeltaTable) -> int | None:
    """Rows for which a condition is not true; None when delta-rs does not understand it."""
    import pyarrow as pa
    from deltalake import QueryBuilder

    condition = condition.replace("`", '"')  # Spark's quotes, and DataFusion's
    # The condition is the table's own metadata; delta-rs runs it at each write as well.
    query = f"SELECT count(*) AS n FROM checked WHERE NOT {condition}"  # noqa: S608
    try:
        rows = QueryBuilder().register("checked", opened).execute(query)
        return int(pa.table(rows).column("n")[0].as_py())
    except Exception:  # noqa: BLE001  (DataFusion's errors have no class of their own)
        return None
