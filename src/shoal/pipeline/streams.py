"""Decides streaming tables: what is new in each flow's sources."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from shoal.engines import FileRead, InputFile, TableRead, reads, resolve_schema
from shoal.errors import PipelineError, TableError
from shoal.lake import Progress, TableName, read_feed
from shoal.pipeline.backlogs import backlogs
from shoal.pipeline.constraints import row_key_of
from shoal.pipeline.explain import edit, moves
from shoal.pipeline.feeds import feed_asked, first
from shoal.pipeline.kinds import seen_through
from shoal.pipeline.predict import models_of
from shoal.pipeline.sinks import kept_in, progress_name
from shoal.pipeline.sources import list_files, new_files, source_name
from shoal.pipeline.work import Action, Decision, FlowWork, Input, Pins, definition, expand, placed

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from shoal.lake import Changes, Lake
    from shoal.pipeline.graph import Graph, Node, Query

__all__ = ["decide_stream", "only_new_rows", "streams_of", "takes_changes"]


def decide_stream(
    node: Node, graph: Graph, pins: Pins, root: Path, *, full: bool, exists: bool
) -> Decision:
    """What a streaming table needs now; see `decide`."""
    news = [_flow_news(node, query, graph, pins, root, full=full) for query in node.queries]
    files, messages = (sum(new.files for new in news), sum(new.messages for new in news))
    inputs = {name: move for new in news for name, move in new.inputs.items()}
    action: Action
    if full or not exists:
        action, reason = "full", "full refresh asked for" if full and exists else "the table is new"
        if messages:
            reason += f", {messages:,} message{'' if messages == 1 else 's'}"
    elif any(new.work.new for new in news):
        action, reason = "incremental", _counted(files, messages)
        if inputs:
            reason += f", {moves(inputs)}"
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
        inputs=inputs,
        edit="\n".join(new.edit for new in news if new.edit),
        work=tuple(new.work for new in news),
    )


def only_new_rows(query: Query) -> str:
    """What a person should know of a stream whose definition changed."""
    using = models_of(query.plan)
    now = f"; they are scored with {using[0]}" if using else ""
    return f"{query.flow.location} changed: only new rows follow the new definition{now}"


def _counted(files: int, messages: int) -> str:
    parts = [f"{files} new file{'' if files == 1 else 's'}"] if files or not messages else []
    if messages:
        parts.append(f"{messages:,} new message{'' if messages == 1 else 's'}")
    return ", ".join(parts)


@dataclass(frozen=True, kw_only=True)
class _News:
    """What is new for one streaming flow; ``rows`` is None where only reading would tell."""

    work: FlowWork
    inputs: Mapping[str, tuple[int | None, int]]
    edit: str
    files: int
    messages: int
    rows: int | None
    notes: tuple[str, ...]


def _flow_news(
    node: Node, query: Query, graph: Graph, pins: Pins, root: Path, *, full: bool
) -> _News:
    tables, files_read, prints = expand(query, graph)
    known = kept_in(node.dataset, pins.lake).progress(progress_name(node.dataset, query.flow))
    start = Progress(flow=known.flow, number=known.number) if full else known
    defined = definition(node, query, prints)
    notes: list[str] = []
    if start.definition not in (None, defined) and query.flow.cdc and not query.flow.once:
        raise PipelineError(
            f"{query.flow.location}: the AUTO CDC flow into '{node.name}' changed, and what it "
            "kept of earlier events does not fit any more.",
            hint=f"Merge them again from the start: shoal run --full-refresh {node.name}",
        )
    ran, edited = start.definition is not None, ""
    if start.definition not in (None, defined):
        edited = edit(node, query, graph, start)
        notes.append(only_new_rows(query) if not query.flow.once else _ran_already(query))
    given = _tables_input(node, query, tables, start, pins, graph)
    listed: dict[FileRead, tuple[InputFile, ...]] = {}
    passed: dict[str, list[int]] = {}
    schemas = dict(start.schemas)
    arrived = 0
    with placed(query):
        for read in files_read:
            if not read.streaming:
                listed[read] = tuple(list_files(read, root))
                arrived += len(listed[read]) if query.flow.once and not ran else 0
                continue
            found = new_files(read, root, start.files, first=known.number < 0)
            listed[read] = found.files
            passed.update(found.passed)
            arrived += len(found.files)
            notes += found.notes
            notes += _columns(read, found.files, schemas)
        arriving = backlogs(query, graph, start.offsets)
        notes += arriving.notes
    work = FlowWork(
        query=query,
        before=start,
        definition=defined,
        tables=given.inputs,
        files=listed,
        # By files: a writer need not have said how many rows.
        new=not ran
        if query.flow.once
        else bool(given.files or arrived or arriving.new)
        or _new_snapshot(query, start, given.inputs),
        messages=arriving.spans,
        offsets=arriving.offsets,
        schemas=schemas,
        passed=passed,
    )
    return _News(
        work=work,
        inputs=given.news,
        edit=edited,
        files=given.files + arrived,
        messages=arriving.count,
        rows=None if arrived else given.rows + arriving.count,
        notes=tuple(notes),
    )


def _ran_already(query: Query) -> str:
    again = f"shoal run --full-refresh {query.flow.target}"
    return f"{query.flow.location} changed, but ran already: {again}"


@dataclass(kw_only=True)
class _Tables:
    """What a flow takes from tables, and how much of it is new."""

    inputs: dict[TableName, Input] = field(default_factory=dict)
    news: dict[str, tuple[int | None, int]] = field(default_factory=dict)
    files: int = 0
    rows: int = 0


def _tables_input(
    node: Node,
    query: Query,
    tables: Mapping[TableName, bool],
    start: Progress,
    pins: Pins,
    graph: Graph,
) -> _Tables:
    found = _Tables()
    for name, streaming in tables.items():
        given = _table_input(node, query, name, streaming, start, pins, graph)
        found.inputs[name] = given
        if not streaming and not (query.flow.once and start.definition is None):
            continue
        if given.feed is not None and given.feed.start is None:
            found.files += given.feed.files
            found.rows += given.feed.rows
        elif given.changes is not None:
            found.files += len(given.changes.files)
            found.rows += given.changes.rows
            if given.changes.files:
                before = start.versions.get(str(name))
                found.news[str(name)] = (before[1] if before else None, given.version)
        else:
            found.news[str(name)] = (None, given.version)
            rows, files, _ = pins.lake.table(name).size(given.version)
            found.files += files
            found.rows += rows
    return found


def _columns(
    read: FileRead, files: tuple[InputFile, ...], schemas: dict[str, str]
) -> tuple[str, ...]:
    """Sets down the columns that a source's new files are read with, where they are found there."""
    name = source_name(read)
    if not files or read.format.lower() == "delta":
        return ()
    resolved = resolve_schema(read, files, known=schemas.get(name, ""), embedded=False)
    if resolved.found:
        schemas[name] = resolved.columns.json()
    return resolved.notes


def _new_snapshot(query: Query, start: Progress, inputs: Mapping[TableName, Input]) -> bool:
    """Whether a flow of whole snapshots has another one to merge."""
    if query.flow.cdc is None or not query.flow.cdc.snapshot:
        return False
    if query.flow.cdc.snapshots is not None:
        return True  # only calling the function would tell
    return {str(n): (i.id, i.version) for n, i in inputs.items()} != dict(start.versions)


def _table_input(
    node: Node,
    query: Query,
    name: TableName,
    streaming: bool,
    start: Progress,
    pins: Pins,
    graph: Graph,
) -> Input:
    identity, version = pins.pin(name)
    seen = start.versions.get(str(name))
    source = pins.lake.table(name)
    streams = streams_of(query, graph, name, pins.lake) if streaming else []
    feeds = [read for read in streams if feed_asked(read)]
    key = row_key_of(name, query, graph)
    if not streaming:
        return Input(id=identity, version=version, key=key)
    if seen is not None and (seen[0] != identity or version < seen[1]):
        raise PipelineError(
            f"{query.flow.location}: '{name}', which '{node.name}' streams, was made anew since "
            "the last run, so what is new in it cannot be told.",
            hint=f"Read it from the start: shoal run --full-refresh {node.name}",
        )
    try:
        after = first(streams[0], source, version) if seen is None else seen[1]
        feed, changes = None, None
        if feeds:
            snapshot = version if after is None else None
            feed = read_feed(
                source, after=version if after is None else after, until=version, start=snapshot
            )
        if len(feeds) < len(streams) and after is not None:
            changes = source.changes(after=after, until=version)
    except TableError as error:
        raise PipelineError(f"{query.flow.location}: {error.message}", hint=error.hint) from error
    if changes is not None and not changes.append_only:
        changes = _allowed(changes, [r for r in streams if r not in feeds], node, query, name)
    return Input(id=identity, version=version, changes=changes, feed=feed, key=key)


def _allowed(
    changes: Changes, streams: Sequence[TableRead], node: Node, query: Query, name: TableName
) -> Changes:
    """The new rows of a table that also had rows removed, as the reader's options say."""

    def said(option: str) -> bool:
        return any(read.options.get(option, "").lower() == "true" for read in streams)

    if said("skipchangecommits"):
        return changes.appended()
    if said("ignorechanges"):
        return replace(changes, rewrites=(), removed=())
    added = {file.version for file in changes.files}
    refused = [version for version in changes.rewrites if version in added]
    if said("ignoredeletes") and not refused:
        return replace(changes, rewrites=(), removed=())
    raise PipelineError(
        f"{query.flow.location}: '{name}', which '{node.name}' streams, had rows changed "
        f"or removed in version {(refused or changes.rewrites)[0]}; a stream only takes appended "
        "rows.",
        hint=f"shoal run --full-refresh {node.name} reads it from the start, or read it "
        'with .option("skipChangeCommits", "true"), or its changes with '
        '.option("readChangeFeed", "true").',
    )


def takes_changes(read: TableRead) -> bool:
    """Whether a streaming read goes on when rows of the table were changed or removed."""
    past = ("skipchangecommits", "ignorechanges")
    return feed_asked(read) or any(read.options.get(name, "").lower() == "true" for name in past)


def streams_of(query: Query, graph: Graph, name: TableName, lake: Lake) -> list[TableRead]:
    """How a query streams a table, views seen through."""
    return [
        read
        for read in reads(seen_through(query, graph, lake))
        if isinstance(read, TableRead) and read.streaming and lake.name(read.name) == name
    ]
