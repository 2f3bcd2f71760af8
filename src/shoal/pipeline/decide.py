"""Decides, before anything runs, what a table needs and why."""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from shoal.engines import FileRead, InputFile, fingerprint
from shoal.errors import PipelineError
from shoal.lake import Changes, Progress, TableName
from shoal.pipeline.definitions import Kind
from shoal.pipeline.graph import Graph, Node, Query
from shoal.pipeline.load import flow_error
from shoal.pipeline.sources import list_files, new_files

if TYPE_CHECKING:
    from shoal.lake import Lake

__all__ = ["Decision", "FlowWork", "Input", "Pins", "decide"]

Action = Literal["none", "incremental", "full"]


class Pins:
    """The one version of each table that a run reads.

    Args:
        lake: The lake.
    """

    def __init__(self, lake: Lake) -> None:
        self.lake = lake
        self._pins: dict[TableName, tuple[str, int]] = {}
        self._lock = threading.Lock()

    def pin(self, name: TableName) -> tuple[str, int]:
        """Table id and version, fixed at the first call."""
        with self._lock:
            if name not in self._pins:
                table = self.lake.table(name)
                self._pins[name] = (table.id(), table.version())
            return self._pins[name]

    def move(self, name: TableName) -> None:
        """Forgets a pin, after the run itself made a new version."""
        with self._lock:
            self._pins.pop(name, None)


@dataclass(frozen=True, kw_only=True)
class Input:
    """What a flow takes from one table in this run.

    Args:
        id: The table's Delta id.
        version: The pinned version.
        changes: For a stream that was read before: what came since; None means all rows.
    """

    id: str
    version: int
    changes: Changes | None = None


@dataclass(frozen=True, kw_only=True)
class FlowWork:
    """One flow's inputs in this run.

    Args:
        query: The flow.
        before: Its progress now.
        definition: Fingerprint of its query and of what shapes its rows.
        tables: Pinned input tables.
        files: Input files per read: for a stream only the new ones.
        new: Whether there is anything to write.
    """

    query: Query
    before: Progress
    definition: str
    tables: Mapping[TableName, Input]
    files: Mapping[FileRead, tuple[InputFile, ...]]
    new: bool


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What one table needs.

    Args:
        name: The table.
        kind: Streaming table or materialized view.
        action: ``none``, ``incremental`` (only what is new) or ``full``.
        reason: Why, in a few words.
        files: Files to read.
        rows: Rows to read where the log tells, else None.
        notes: What was left alone, and why.
        work: The flows' inputs; empty where an input will only be known during the run.
    """

    name: TableName
    kind: Kind
    action: Action
    reason: str
    files: int = 0
    rows: int | None = None
    notes: tuple[str, ...] = ()
    work: tuple[FlowWork, ...] = field(default=(), compare=False, repr=False)


def decide(
    node: Node,
    graph: Graph,
    pins: Pins,
    root: Path,
    *,
    full: bool = False,
    changing: frozenset[TableName] = frozenset(),
) -> Decision:
    """What a table needs now.

    Args:
        node: The table.
        graph: Its graph.
        pins: The run's pinned versions.
        root: Project folder.
        full: Rebuild it whatever changed.
        changing: Tables that this run will change before this one; for planning only.

    Raises:
        PipelineError: A stream's source removed or changed rows, or was made anew.
    """
    inputs = graph.stored_inputs(node)
    following = sorted(str(name) for name in inputs & changing)
    exists = pins.lake.table(node.name).exists()
    if following and (not exists or full):
        reason = "full refresh asked for" if exists else "the table is new"
        return Decision(name=node.name, kind=node.dataset.kind, action="full", reason=reason)
    if following:
        streams = node.dataset.kind is Kind.STREAMING_TABLE
        return Decision(
            name=node.name,
            kind=node.dataset.kind,
            action="incremental" if streams else "full",
            reason=f"follows {', '.join(following)}",
        )
    if node.dataset.kind is Kind.MATERIALIZED_VIEW:
        return _decide_view(node, graph, pins, root, full=full, exists=exists)
    return _decide_stream(node, graph, pins, root, full=full, exists=exists)


def _expand(query: Query, graph: Graph) -> tuple[dict[TableName, bool], list[FileRead], list[str]]:
    """Stored tables, files and plan fingerprints of a query, temporary views seen through."""
    tables: dict[TableName, bool] = {}
    files = list(query.files)
    prints = [fingerprint(query.plan)]
    for name, streaming in query.tables.items():
        inner = graph.nodes.get(name)
        if inner is None or inner.dataset.kind is not Kind.TEMPORARY_VIEW:
            tables[name] = tables.get(name, False) or streaming
            continue
        for view in inner.queries:
            more, found, below = _expand(view, graph)
            for table, streams in more.items():
                tables[table] = tables.get(table, False) or streams
            files += [file for file in found if file not in files]
            prints += below
    return tables, files, prints


def _definition(node: Node, query: Query, prints: list[str]) -> str:
    parts = [
        *prints,
        *(repr(e) for e in (*node.dataset.expectations, *query.flow.expectations)),
        repr(node.dataset.schema),
        repr(node.dataset.partition_by),
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


@contextlib.contextmanager
def _placed(query: Query) -> Iterator[None]:
    """Puts the flow's place before errors about its files."""
    try:
        yield
    except PipelineError as error:
        raise flow_error(query.flow.location, error) from error


def _decide_view(
    node: Node, graph: Graph, pins: Pins, root: Path, *, full: bool, exists: bool
) -> Decision:
    query = node.queries[0]
    tables, reads, prints = _expand(query, graph)
    before = pins.lake.table(node.name).progress(query.flow.name)
    inputs = {name: Input(id=pin[0], version=pin[1]) for name in tables for pin in [pins.pin(name)]}
    with _placed(query):
        files = {read: tuple(list_files(read, root)) for read in reads}
    definition = _definition(node, query, prints)
    marks = {file.path: [file.size, file.modified] for group in files.values() for file in group}
    versions = {str(name): (given.id, given.version) for name, given in inputs.items()}
    moved = sorted(n for n, value in versions.items() if before.versions.get(n) != value)
    if full:
        reason = "full refresh asked for"
    elif not exists or before.number < 0:
        reason = "the table is new"
    elif before.definition != definition:
        reason = "its definition changed"
    elif moved or set(versions) != set(before.versions):
        reason = f"new version of {', '.join(moved) or 'its inputs'}"
    elif marks != dict(before.files):
        reason = "its input files changed"
    else:
        return Decision(
            name=node.name, kind=node.dataset.kind, action="none", reason="nothing changed"
        )
    work = FlowWork(
        query=query,
        before=before,
        definition=definition,
        tables=inputs,
        files=files,
        new=True,
    )
    rows = sum(pins.lake.table(name).size(given.version)[0] for name, given in inputs.items())
    return Decision(
        name=node.name,
        kind=node.dataset.kind,
        action="full",
        reason=reason,
        files=len(marks),
        rows=None if marks else rows,
        work=(work,),
    )


def _decide_stream(
    node: Node, graph: Graph, pins: Pins, root: Path, *, full: bool, exists: bool
) -> Decision:
    news = [_flow_news(node, query, graph, pins, root, full=full) for query in node.queries]
    files = sum(new.files for new in news)
    action: Action
    if full or not exists:
        action, reason = "full", "full refresh asked for" if full and exists else "the table is new"
    elif any(new.work.new for new in news):
        action, reason = "incremental", f"{files} new file{'' if files == 1 else 's'}"
    else:
        action, reason = "none", "nothing new"
    rows = [new.rows for new in news if new.rows is not None]
    return Decision(
        name=node.name,
        kind=node.dataset.kind,
        action=action,
        reason=reason,
        files=files,
        rows=sum(rows) if len(rows) == len(news) else None,
        notes=tuple(note for new in news for note in new.notes),
        work=tuple(new.work for new in news),
    )


@dataclass(frozen=True, kw_only=True)
class _News:
    """What is new for one streaming flow; ``rows`` is None where only reading would tell."""

    work: FlowWork
    files: int
    rows: int | None
    notes: tuple[str, ...]


def _flow_news(
    node: Node, query: Query, graph: Graph, pins: Pins, root: Path, *, full: bool
) -> _News:
    tables, reads, prints = _expand(query, graph)
    known = pins.lake.table(node.name).progress(query.flow.name)
    start = Progress(flow=known.flow, number=known.number) if full else known
    definition = _definition(node, query, prints)
    notes: list[str] = []
    if start.definition not in (None, definition):
        notes.append(f"{query.flow.location} changed: only new rows follow the new definition")
    count, rows = 0, 0
    inputs: dict[TableName, Input] = {}
    for name, streaming in tables.items():
        inputs[name] = given = _table_input(node, query, name, streaming, start, pins)
        if streaming and given.changes is not None:
            count += len(given.changes.files)
            rows += given.changes.rows
        elif streaming:
            more, number, _ = pins.lake.table(name).size(given.version)
            count += number
            rows += more
    listed: dict[FileRead, tuple[InputFile, ...]] = {}
    arrived = 0
    with _placed(query):
        for read in reads:
            if not read.streaming:
                listed[read] = tuple(list_files(read, root))
                continue
            found = new_files(read, root, start.files)
            listed[read] = found.files
            arrived += len(found.files)
            notes += found.notes
    work = FlowWork(
        query=query,
        before=start,
        definition=definition,
        tables=inputs,
        files=listed,
        new=bool(count or arrived),  # by files: a writer need not have said how many rows
    )
    return _News(
        work=work,
        files=count + arrived,
        rows=None if arrived else rows,
        notes=tuple(notes),
    )


def _table_input(
    node: Node, query: Query, name: TableName, streaming: bool, start: Progress, pins: Pins
) -> Input:
    identity, version = pins.pin(name)
    seen = start.versions.get(str(name))
    if not streaming or seen is None:
        return Input(id=identity, version=version)
    if seen[0] != identity or version < seen[1]:
        raise PipelineError(
            f"{query.flow.location}: '{name}', which '{node.name}' streams, was made anew since "
            "the last run, so what is new in it cannot be told.",
            hint=f"Read it from the start: shoal run --full-refresh {node.name}",
        )
    changes = pins.lake.table(name).changes(after=seen[1], until=version)
    if not changes.append_only:
        if _skips_changes(query):
            changes = changes.appended()
        else:
            raise PipelineError(
                f"{query.flow.location}: '{name}', which '{node.name}' streams, had rows changed "
                f"or removed in version {changes.rewrites[0]}; a stream only takes appended rows.",
                hint=f"shoal run --full-refresh {node.name} reads it from the start, or read it "
                'with .option("skipChangeCommits", "true").',
            )
    return Input(id=identity, version=version, changes=changes)


def _skips_changes(query: Query) -> bool:
    from shoal.engines import TableRead, reads

    return any(
        isinstance(read, TableRead)
        and read.streaming
        and read.options.get("skipchangecommits", "").lower() == "true"
        for read in reads(query.plan)
    )
