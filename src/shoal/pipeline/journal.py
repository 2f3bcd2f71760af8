"""The record of runs: events and expectation counts, one commit each when a run ends.

A commit of a table carries its own counts too, in the commit's information. While a run writes, a
note beside the lake names it; a run that finds the note of one that was killed takes that one's
counts from the tables' logs, so that none is lost.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import threading
import uuid
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from shoal.errors import ShoalError
from shoal.lake import Table, commit_infos, staged_files
from shoal.pipeline.outcome import ExpectationCount, Refresh, Status
from shoal.pipeline.sinks import kept_in
from shoal.store import path_in, write_parquet

if TYPE_CHECKING:
    import pyarrow as pa

    from shoal.lake import Lake
    from shoal.pipeline.graph import Graph

__all__ = ["EVENTS", "EXPECTATIONS", "Journal", "append_rows", "metadata", "told"]

EVENTS = "shoal.events"
EXPECTATIONS = "shoal.expectations"
_NOTE = "_shoal/run.json"
_COUNTS, _ROWS, _RUN = "shoal.expectations", "shoal.rows", "shoal.run"

Row = dict[str, Any]


def metadata(run_id: str, rows: int, counts: Sequence[ExpectationCount]) -> dict[str, str]:
    """What a table's commit says of its run.

    Args:
        run_id: The run.
        rows: Rows written.
        counts: The expectations' counts.
    """
    found = {_RUN: run_id, _ROWS: str(rows)}
    if counts:
        found[_COUNTS] = json.dumps([_count(count) for count in counts])
    return found


def _count(count: ExpectationCount) -> Row:
    expected = count.expectation
    view = {"view": str(count.view)} if count.view else {}
    return {
        **view,
        "expectation": expected.name,
        "condition": expected.condition,
        "action": expected.action,
        "passed": count.passed,
        "failed": count.failed,
    }


class Journal:
    """Takes down one run; a context manager around it, inside the lake's lock.

    A run in which nothing happened leaves nothing. What cannot be written is told by a warning,
    and filled in by the next run.

    Args:
        lake: Where the tables are.
        graph: What is run.
    """

    def __init__(self, lake: Lake, graph: Graph) -> None:
        self.id = uuid.uuid4().hex
        self._lake, self._graph = lake, graph
        self._started = _now()
        self._ended: list[tuple[dt.datetime, Refresh]] = []
        self._lock = threading.Lock()
        self._noted = False

    def __enter__(self) -> Self:
        with told("the record of the run before"):
            self._fill_in()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with told(f"the record of run {self.id}"):
            changed = [(at, r) for at, r in self._ended if r.status is not Status.UNCHANGED]
            if changed or error is not None:
                self._write(changed, error)
            if self._noted:
                self._forget()

    def writes(self) -> None:
        """Notes that the run is about to change a table; called before each change."""
        with self._lock:
            if self._noted:
                return
            self._noted = True
            tables = {str(n.name): kept_in(n.dataset, self._lake).path for n in self._graph.tables}
            note = {"run_id": self.id, "started": self._started.isoformat(), "tables": tables}
            # On a full disk, or in a store that refuses, the run itself will say so.
            with contextlib.suppress(OSError, ShoalError):
                self._lake.store.write(_NOTE, json.dumps(note).encode())

    def _forget(self) -> None:
        self._lake.store.delete([_NOTE])

    def done(self, result: Refresh) -> None:
        """Takes down how a table's refresh ended."""
        with self._lock:
            self._ended.append((_now(), result))

    def _write(
        self, ended: Sequence[tuple[dt.datetime, Refresh]], error: BaseException | None
    ) -> None:
        rows: list[Row] = []
        counts: list[Row] = []
        for at, result in ended:
            rows += _events(self.id, at, result)
            counts += _counted(
                self.id, at, result.name, result.version, map(_count, result.expectations)
            )
        now = _now()
        bad = [str(r.name) for _, r in ended if r.status in (Status.FAILED, Status.SKIPPED)]
        if error is None:
            status = "failed" if bad else "completed"
        else:
            status = "failed" if isinstance(error, Exception) else "interrupted"
        if isinstance(error, Exception):
            rows.append(_event(self.id, now, "error", "ERROR", str(error)))
        took = (now - self._started).total_seconds()
        message = f"{len(ended) - len(bad)} refreshed, {len(bad)} not, in {took:.2f} s"
        told: Row = {"status": status, "seconds": round(took, 3), "failed": bad}
        level = "INFO" if status == "completed" else "ERROR"
        start = _event(self.id, self._started, "run_start", "INFO", "the run began")
        end = _event(self.id, now, "run_end", level, f"{status}: {message}", **told)
        append_rows(self._lake, EVENTS, _EVENTS, [start, *rows, end])
        append_rows(self._lake, EXPECTATIONS, _EXPECTATIONS, counts)

    def _fill_in(self) -> None:
        """Takes down a run that was killed, from what its commits say."""
        try:
            note = json.loads(self._lake.store.read(_NOTE))
            run, started = note["run_id"], dt.datetime.fromisoformat(note["started"])
        except FileNotFoundError:
            return
        except (ValueError, KeyError):  # killed while writing it: no table was changed yet
            self._forget()
            return
        events: list[Row] = [_event(run, started, "run_start", "INFO", "the run began")]
        known = _known(self._lake, run)
        counts: list[Row] = []
        for name, path in note["tables"].items():
            table = Table(name=self._lake.name(name), path=path)
            since = int(started.timestamp() * 1000)
            for version, info in commit_infos(table, since) if table.exists() else ():
                if info.get(_RUN) != run:
                    continue
                at = dt.datetime.fromtimestamp(info["timestamp"] / 1000, dt.UTC)
                found = json.loads(info.get(_COUNTS, "[]"))
                counts += _counted(run, at, name, version, found)
                details = {
                    "refresh": info.get("shoal.refresh"),
                    "version": version,
                    "rows": int(info.get(_ROWS, 0)),
                }
                message = f"{details['refresh']}: {details['rows']:,} rows"
                events.append(_event(run, at, "flow_progress", "INFO", message, name, **details))
                events += _expected(run, at, name, found)
        events.sort(key=lambda row: row["at"])
        message = "killed: the process ended before the run did"
        events.append(_event(run, _now(), "run_end", "ERROR", message, status="killed"))
        if not known:
            append_rows(self._lake, EXPECTATIONS, _EXPECTATIONS, counts)
        if not _logged(self._lake, run):
            append_rows(self._lake, EVENTS, _EVENTS, events)
        self._forget()


def _events(run: str, at: dt.datetime, result: Refresh) -> Iterator[Row]:
    """What is to be said of one table that was refreshed, failed or skipped."""
    name = str(result.name)
    if result.status is Status.REFRESHED:
        details = {
            "refresh": result.action,
            "reason": result.reason,
            "version": result.version,
            "rows": result.rows,
            "files": result.files,
            "dropped": result.dropped,
            "rescued": result.rescued,
            "seconds": round(result.seconds, 3),
        }
        message = f"{result.action}: {result.rows:,} rows ({result.reason})"
        yield _event(run, at, "flow_progress", "INFO", message, name, **details)
    yield from _expected(run, at, name, map(_count, result.expectations))
    for note in result.notes:
        yield _event(run, at, "note", "WARN", note, name)
    if result.error:
        level = "WARN" if result.status is Status.SKIPPED else "ERROR"
        kind = "flow_progress" if result.status is Status.SKIPPED else "error"
        told = {"status": str(result.status), "retryable": result.retryable}
        yield _event(run, at, kind, level, result.error, name, **told)


def _expected(run: str, at: dt.datetime, name: str, counts: Iterable[Row]) -> Iterator[Row]:
    for count in counts:
        broke, total = count["failed"], count["failed"] + count["passed"]
        level = "INFO" if not broke else "ERROR" if count["action"] == "fail" else "WARN"
        message = f"{count['expectation']}: {broke:,} of {total:,} rows broke it"
        yield _event(run, at, "expectation", level, message, count.get("view", name), **count)


def _event(
    run: str,
    at: dt.datetime,
    kind: str,
    level: str,
    message: str,
    dataset: str | None = None,
    **details: Any,
) -> Row:
    return {
        "run_id": run,
        "at": at,
        "level": level,
        "event_type": kind,
        "dataset": dataset,
        "message": message,
        "details": json.dumps(details),
    }


def _counted(
    run: str, at: dt.datetime, dataset: object, version: int | None, counts: Iterable[Row]
) -> list[Row]:
    rows = []
    for count in counts:
        left = {name: value for name, value in count.items() if name != "view"}
        # A view has no version; its counts are those of the tables that read it.
        of = (count["view"], None) if "view" in count else (str(dataset), version)
        rows.append({"run_id": run, "at": at, "dataset": of[0], "version": of[1], **left})
    return rows


_EVENTS = {
    "run_id": "string",
    "at": "time",
    "level": "string",
    "event_type": "string",
    "dataset": "string",
    "message": "string",
    "details": "string",
}
_EXPECTATIONS = {
    "run_id": "string",
    "at": "time",
    "dataset": "string",
    "version": "int64",
    "expectation": "string",
    "condition": "string",
    "action": "string",
    "passed": "int64",
    "failed": "int64",
}


def append_rows(lake: Lake, name: str, columns: Mapping[str, str], rows: Sequence[Row]) -> None:
    """Adds rows to a table of the lake's own in one commit; none, none.

    Args:
        lake: Where the table is.
        name: The table; made when missing.
        columns: Its columns, each ``string``, ``int64`` or ``time``.
        rows: The rows.
    """
    import pyarrow as pa

    if not rows:
        return
    types: dict[str, pa.DataType] = {
        "string": pa.string(),
        "int64": pa.int64(),
        "time": pa.timestamp("us", tz="UTC"),
    }
    schema = pa.schema([(column, types[kind]) for column, kind in columns.items()])
    table = lake.table(name)
    with table.staging() as folder:  # which leaves nothing behind, also on a full disk
        found = pa.Table.from_pylist(list(rows), schema=schema)
        write_parquet(found, path_in(folder, "rows.parquet"))
        table.commit(staged_files(folder), schema)


def _known(lake: Lake, run: str) -> bool:
    """Whether a run's counts were taken down, which is one commit."""
    import polars as pl

    table = lake.table(EXPECTATIONS)
    if not table.exists():
        return False
    return bool(table.scan().filter(pl.col("run_id") == run).select(pl.len()).collect().item())


def _logged(lake: Lake, run: str) -> bool:
    import polars as pl

    table = lake.table(EVENTS)
    if not table.exists():
        return False
    return bool(table.scan().filter(pl.col("run_id") == run).limit(1).collect().height)


@contextlib.contextmanager
def told(what: str) -> Iterator[None]:
    """Turns what keeps a record from being written into a warning: the tables are what counts."""
    try:
        yield
    except (ShoalError, OSError) as error:
        text = error.message if isinstance(error, ShoalError) else str(error)
        warnings.warn(f"{what} could not be written: {text}", RuntimeWarning, stacklevel=3)


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)
