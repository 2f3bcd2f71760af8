"""How the refresh of a table ended."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from shoal.lake import TableName
from shoal.pipeline.definitions import Kind
from shoal.pipeline.expectations import Expectation

__all__ = ["ExpectationCount", "Refresh", "Status"]


class Status(StrEnum):
    """How a table's refresh ended."""

    UNCHANGED = "unchanged"
    REFRESHED = "refreshed"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, kw_only=True)
class ExpectationCount:
    """One expectation's result in one refresh.

    Args:
        expectation: What was expected.
        passed: Rows that met it.
        failed: Rows that broke it.
        view: The temporary view that it is on; None for the table itself.
    """

    expectation: Expectation
    passed: int
    failed: int
    view: TableName | None = None


@dataclass(frozen=True, kw_only=True)
class Refresh:
    """The result of one table's refresh.

    Args:
        name: The table.
        kind: Streaming table or materialized view.
        status: How it ended.
        action: ``none``, ``incremental`` or ``full``.
        reason: Why it was (not) refreshed.
        version: The table's version afterwards, or None when there is none.
        rows: Rows written.
        files: Input files read.
        dropped: Rows that expectations left out.
        rescued: Malformed input rows that were kept for inspection.
        seconds: Wall time.
        expectations: Counts per expectation.
        notes: What was left alone, and why.
        error: The error, when it failed or was skipped.
        retryable: It failed over something that may work when tried again.
    """

    name: TableName
    kind: Kind
    status: Status
    action: str
    reason: str
    version: int | None = None
    rows: int = 0
    files: int = 0
    dropped: int = 0
    rescued: int = 0
    seconds: float = 0.0
    expectations: tuple[ExpectationCount, ...] = ()
    notes: tuple[str, ...] = ()
    error: str | None = None
    retryable: bool = False
