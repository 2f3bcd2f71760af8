"""Runs a graph: tables in dependency order, independent ones side by side."""

from __future__ import annotations

import datetime as dt
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from shoal.errors import ExpectationFailed, RetryableError, ShoalError
from shoal.lake import TableName, disk_error
from shoal.pipeline.decide import decide
from shoal.pipeline.graph import Graph
from shoal.pipeline.outcome import ExpectationCount, Refresh, Status
from shoal.pipeline.precheck import check_changed, check_full
from shoal.pipeline.refresh import refresh
from shoal.pipeline.sinks import kept_in
from shoal.pipeline.work import Decision, Pins

if TYPE_CHECKING:
    from shoal.engines import Engine
    from shoal.lake import Lake

__all__ = ["EXPECTATIONS", "RunOptions", "plan_run", "run_graph"]

EXPECTATIONS = "shoal.expectations"
_SIDE_BY_SIDE = 4


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What to refresh.

    Args:
        only: Refresh just these tables; None means all.
        full: Rebuild these from their sources.
    """

    only: frozenset[TableName] | None = None
    full: frozenset[TableName] = frozenset()


def plan_run(graph: Graph, lake: Lake, root: Path, options: RunOptions) -> list[Decision]:
    """What a run would do, table by table, without doing it.

    Raises:
        PipelineError: A table could not be refreshed; the message says why.
    """
    check_full(graph, lake, options.only, options.full)
    pins = Pins(lake)
    changing: set[TableName] = set()
    decisions = []
    for node in graph.tables:
        if options.only is not None and node.name not in options.only:
            continue
        decision = decide(
            node,
            graph,
            pins,
            root,
            full=node.name in options.full,
            changing=frozenset(changing),
        )
        if decision.action != "none":
            changing.add(node.name)
        decisions.append(decision)
    return decisions


def run_graph(
    graph: Graph,
    engine: Engine,
    lake: Lake,
    root: Path,
    options: RunOptions,
    *,
    on_start: Callable[[TableName], None] | None = None,
    on_done: Callable[[Refresh], None] | None = None,
) -> list[Refresh]:
    """Refreshes the tables and gives one result each, in the order in which they ended.

    A table that fails does not stop those that do not read it. The expectations' counts are
    appended to the table ``shoal.expectations``.

    Args:
        graph: What to run.
        engine: Where the queries run.
        lake: Where the tables are.
        root: Project folder.
        options: What to refresh.
        on_start: Called when a table's refresh begins, from its thread.
        on_done: Called with each result, from the calling thread.

    Raises:
        Conflict: Another run is writing to this lake.
        PipelineError: A query that is new or changed names a column or function that does not
            exist; nothing was written.
        KeyboardInterrupt: The run was stopped; each table is at a whole version.
    """
    run = _Run(graph, engine, lake, root, options, on_start, on_done)
    with lake.writing():
        check_full(graph, lake, options.only, options.full)
        check_changed(graph, lake, options.only)
        run.go()
    return list(run.results.values())


class _Run:
    """One run: the pinned versions, the results so far, and the word to stop."""

    def __init__(
        self,
        graph: Graph,
        engine: Engine,
        lake: Lake,
        root: Path,
        options: RunOptions,
        on_start: Callable[[TableName], None] | None,
        on_done: Callable[[Refresh], None] | None,
    ) -> None:
        self.graph, self.engine, self.lake, self.root = graph, engine, lake, root
        self.options, self.on_start, self.on_done = options, on_start, on_done
        self.id = uuid.uuid4().hex
        self.pins = Pins(lake)
        self.results: dict[TableName, Refresh] = {}
        self.stop = threading.Event()

    def go(self) -> None:
        """Runs tables as they become ready, until all ended or an interrupt."""
        sorter = self.graph.sorter(self.options.only)
        pool = ThreadPoolExecutor(max_workers=_SIDE_BY_SIDE, thread_name_prefix="shoal")
        running: dict[Future[Refresh], TableName] = {}
        try:
            while sorter.is_active():
                for name in sorter.get_ready():
                    running[pool.submit(self.table, name)] = name
                finished, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in finished:
                    name = running.pop(future)
                    self.results[name] = future.result()
                    sorter.done(name)
                    if self.on_done is not None:
                        self.on_done(self.results[name])
        except BaseException:
            self.stop.set()
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
            _record(self.lake, self.id, self.results)

    def table(self, name: TableName) -> Refresh:
        """Refreshes one table; errors that a user can mend become its result."""
        graph, node = self.graph, self.graph.nodes[name]
        blocked = [up for up in graph.stored_inputs(node) if _failed(self.results.get(up))]
        if blocked:
            return _ended(graph, name, Status.SKIPPED, f"'{blocked[0]}' was not refreshed")
        if self.on_start is not None:
            self.on_start(name)
        full = name in self.options.full
        try:
            decision = decide(node, graph, self.pins, self.root, full=full)
            done = refresh(
                node,
                decision,
                graph,
                self.engine,
                self.lake,
                run_id=self.id,
                stopped=self.stop.is_set,
            )
        except ExpectationFailed as error:
            counts = cast("tuple[ExpectationCount, ...]", error.counts)
            return replace(_ended(graph, name, Status.FAILED, str(error)), expectations=counts)
        except (ShoalError, OSError) as error:
            refused = disk_error(error, kept_in(node.dataset, self.lake).path) or error
            again = isinstance(refused, RetryableError)
            return replace(_ended(graph, name, Status.FAILED, str(refused)), retryable=again)
        self.pins.move(name)
        return done


def _failed(result: Refresh | None) -> bool:
    return result is not None and result.status in (Status.FAILED, Status.SKIPPED)


def _ended(graph: Graph, name: TableName, status: Status, error: str) -> Refresh:
    return Refresh(
        name=name,
        kind=graph.nodes[name].dataset.kind,
        status=status,
        action="none",
        reason=str(status),
        error=error,
    )


def _record(lake: Lake, run_id: str, results: dict[TableName, Refresh]) -> None:
    """Appends the expectations' counts; a run that checked nothing appends nothing."""
    import pyarrow as pa

    now = dt.datetime.now(dt.UTC)
    rows = [
        {
            "run_id": run_id,
            "at": now,
            "dataset": str(count.view or result.name),
            "version": None if count.view else result.version,
            "expectation": count.expectation.name,
            "condition": count.expectation.condition,
            "action": count.expectation.action,
            "passed": count.passed,
            "failed": count.failed,
        }
        for result in results.values()
        for count in result.expectations
    ]
    if not rows:
        return
    schema = pa.schema(
        [
            ("run_id", pa.string()),
            ("at", pa.timestamp("us", tz="UTC")),
            ("dataset", pa.string()),
            ("version", pa.int64()),
            ("expectation", pa.string()),
            ("condition", pa.string()),
            ("action", pa.string()),
            ("passed", pa.int64()),
            ("failed", pa.int64()),
        ]
    )
    lake.table(EXPECTATIONS).append(pa.Table.from_pylist(rows, schema=schema))
