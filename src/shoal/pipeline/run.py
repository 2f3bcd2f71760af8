"""Runs a graph: tables in dependency order, independent ones side by side."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from shoal.errors import ExpectationFailed, RetryableError, ShoalError
from shoal.lake import TableName, disk_error
from shoal.pipeline.decide import decide
from shoal.pipeline.definitions import Kind
from shoal.pipeline.graph import Graph
from shoal.pipeline.journal import Journal, told
from shoal.pipeline.lineage import record_lineage
from shoal.pipeline.outcome import ExpectationCount, Refresh, Status
from shoal.pipeline.precheck import check_changed, check_full
from shoal.pipeline.refresh import refresh
from shoal.pipeline.sinks import kept_in
from shoal.pipeline.work import Decision, Pins

if TYPE_CHECKING:
    from shoal.engines import Engine
    from shoal.lake import Lake

__all__ = ["RunOptions", "plan_run", "run_graph"]

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

    A table that fails does not stop those that do not read it. What happened is appended to the
    tables ``shoal.events`` and ``shoal.expectations``.

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
    with lake.writing(), Journal(lake, graph) as journal:
        check_full(graph, lake, options.only, options.full)
        run = _Run(graph, engine, lake, root, options, journal, on_start, on_done)
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
        journal: Journal,
        on_start: Callable[[TableName], None] | None,
        on_done: Callable[[Refresh], None] | None,
    ) -> None:
        self.graph, self.engine, self.lake, self.root = graph, engine, lake, root
        self.options, self.on_start, self.on_done = options, on_start, on_done
        self.journal = journal
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
                finished, _ = wait(running, timeout=1.0, return_when=FIRST_COMPLETED)
                self.engine.keep_interrupts()
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
        self.trace()

    def trace(self) -> None:
        """Keeps what the refreshed tables' columns are made of."""
        done = [name for name, r in self.results.items() if r.status is Status.REFRESHED]
        stored = [n for n in done if self.graph.nodes[n].dataset.kind is not Kind.SINK]
        with told("the columns' lineage"):
            record_lineage(stored, self.graph, self.lake, run_id=self.journal.id)

    def table(self, name: TableName) -> Refresh:
        """Refreshes one table; errors that a user can mend become its result."""
        result = self._refresh(name)
        self.journal.done(result)
        return result

    def _refresh(self, name: TableName) -> Refresh:
        graph, node = self.graph, self.graph.nodes[name]
        blocked = [up for up in graph.stored_inputs(node) if _failed(self.results.get(up))]
        if blocked:
            return _ended(graph, name, Status.SKIPPED, f"'{blocked[0]}' was not refreshed")
        if self.on_start is not None:
            self.on_start(name)
        full = name in self.options.full
        try:
            decision = decide(node, graph, self.pins, self.root, full=full)
            if decision.action != "none":
                self.journal.writes()
            done = refresh(
                node,
                decision,
                graph,
                self.engine,
                self.lake,
                run_id=self.journal.id,
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
