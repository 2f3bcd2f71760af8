"""Rewrites small files as larger ones, or sorts rows so that filters skip files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from shoal.errors import Conflict, TableError, nearest
from shoal.lake.log import log_kept
from shoal.lake.reading import data_files

if TYPE_CHECKING:
    from shoal.lake.table import Table

__all__ = ["Optimized", "optimize", "small_files"]

_SMALL = 16_000_000
_TERM = re.compile(
    r"""\s*(?P<column>`[^`]+`|\w+)\s*(?P<sign>=|!=|<>|>=|<=|>|<|\bNOT\s+IN\b|\bIN\b)\s*
    (?P<value>\([^)]*\)|'(?:[^']|'')*'|[\w.+-]+)\s*""",
    re.VERBOSE | re.IGNORECASE,
)


@dataclass(frozen=True, kw_only=True)
class Optimized:
    """What a compaction did.

    Args:
        table: The table.
        version: Its version afterwards.
        removed: Files replaced.
        added: Files written.
        bytes: Size of the table's files before and after.
    """

    table: str
    version: int
    removed: int
    added: int
    bytes: tuple[int, int]


def small_files(table: Table) -> int:
    """Files that a compaction would put together."""
    small = [size for size, _, _ in data_files(table._open()).values() if size < _SMALL]
    return len(small) if len(small) > 1 else 0


def optimize(
    table: Table,
    *,
    zorder: Sequence[str] = (),
    target_size: int | None = None,
    where: str | None = None,
) -> Optimized:
    """Rewrites files in one commit that changes no row: readers of new rows see nothing new.

    Args:
        table: The table.
        zorder: Sort along a space-filling curve through these columns.
        target_size: Bytes of a file; delta-rs's default is 100 MiB.
        where: Only these partitions: ``day = '2024-01-01' AND country IN ('DE', 'FR')``.

    Raises:
        TableError: A column does not exist, ``where`` is no partition filter, or the table has a
            feature that cannot be written.
        Conflict: Another writer removed one of the files meanwhile.
    """
    from deltalake.exceptions import CommitFailedError, DeltaError

    opened = table._open(fresh=True)
    names = [field.name for field in opened.schema().fields]
    partitions = list(opened.metadata().partition_columns)
    for column in zorder:
        if column not in names or column in partitions:
            close = nearest(column, [name for name in names if name not in partitions])
            what = "is a partition column" if column in names else "does not exist"
            raise TableError(
                f"Column '{column}' of {table.name} {what}; Z-order sorts by stored columns.",
                hint=f"Did you mean '{close}'?" if close else f"Columns: {', '.join(names)}.",
            )
    options: dict[str, Any] = {"target_size": target_size}
    options["post_commithook_properties"] = log_kept()
    if where:
        options["partition_filters"] = _filters(where, table.name, partitions)
    before = sum(size for size, _, _ in data_files(opened).values())
    try:
        if zorder:
            found = opened.optimize.z_order(list(zorder), **options)
        else:
            found = opened.optimize.compact(**options)
    except CommitFailedError as error:
        if "Unsupported table features" in str(error):
            raise TableError(f"{table.name} cannot be rewritten by Shoal: {error}") from error
        raise Conflict(
            f"Another writer changed {table.name} at the same time ({error}).",
            hint="Optimize it again: nothing was changed.",
        ) from error
    except DeltaError as error:
        raise TableError(f"{table.name} cannot be optimized: {error}") from error
    now = table._open()
    return Optimized(
        table=table.name,
        version=int(now.version()),
        removed=found["numFilesRemoved"],
        added=found["numFilesAdded"],
        bytes=(before, sum(size for size, _, _ in data_files(now).values())),
    )


def _filters(where: str, name: str, partitions: Sequence[str]) -> list[tuple[str, str, Any]]:
    found: list[tuple[str, str, Any]] = []
    for term in re.split(r"\s+AND\s+", where.strip(), flags=re.IGNORECASE):
        match = _TERM.fullmatch(term)
        column = match["column"].strip("`") if match else ""
        if match is None or column not in partitions:
            known = ", ".join(partitions) or "none: the table is not partitioned"
            raise TableError(
                f"'{term}' does not choose partitions of {name} (partition columns: {known}).",
                hint="Write comparisons joined by AND, for example day = '2024-01-01'.",
            )
        sign = re.sub(r"\s+", " ", match["sign"].lower()).replace("<>", "!=")
        value: Any = _plain(match["value"])
        if sign.endswith("in"):
            value = [_plain(part) for part in match["value"].strip("()").split(",")]
        found.append((column, sign, value))
    return found


def _plain(text: str) -> str:
    text = text.strip()
    return text[1:-1].replace("''", "'") if text.startswith("'") else text
