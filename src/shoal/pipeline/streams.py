"""Decides streaming tables: what is new in each flow's sources."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from shoal.engines import FileRead, InputFile
from shoal.errors import PipelineError
from shoal.lake import Progress, TableName
from shoal.pipeline.backlogs import backlogs
from shoal.pipeline.predict import models_of
from shoal.pipeline.sinks import kept_in, progress_name
from shoal.pipeline.sources import list_files, new_files
from shoal.pipeline.work import Action, Decision, FlowWork, Input, Pins, definition, expand, placed

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from shoal.pipeline.graph import Graph, Node, Query

__all__ = ["decide_stream"]


def decide_stream(
    node: Node, graph: Graph, pins: Pins, root: Path, *, full: bool, exists: bool
) -> Decision:
    """What a streaming table needs now; see `decide`."""
    news = [_flow_news(node, query, graph, pins, root, full=full) for query in node.queries]
    files, messages = (sum(new.files for new in news), sum(new.messages for new in news))
    action: Action
    if full or not exists:
        action, reason = "full", "full refresh asked for" if full and exists else "the table is new"
        if messages:
            reason += f", {messages:,} message{'' if messages == 1 else 's'}"
    elif any(new.work.new for new in news):
        action, reason = "incremental", _counted(files, messages)
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


def _counted(files: int, messages: int) -> str:
    parts = [f"{files} new file{'' if files == 1 else 's'}"] if files or not messages else []
    if messages:
        parts.append(f"{messages:,} new message{'' if messages == 1 else 's'}")
    return ", ".join(parts)


@dataclass(frozen=True, kw_only=True)
class _News:
    """What is new for one streaming flow; ``rows`` is None where only reading would tell."""

    work: FlowWork
    files: int
    messages: int
    rows: int | None
    notes: tuple[str, ...]


def _flow_news(
    node: Node, query: Query, graph: Graph, pins: Pins, root: Path, *, full: bool
) -> _News:
    tables, reads, prints = expand(query, graph)
    known = kept_in(node.dataset, pins.lake).progress(progress_name(node.dataset, query.flow))
    start = Progress(flow=known.flow, number=known.number) if full else known
    defined = definition(node, query, prints)
    notes: list[str] = []
    if start.definition not in (None, defined) and query.flow.cdc is not None:
        raise PipelineError(
            f"{query.flow.location}: the AUTO CDC flow into '{node.name}' changed, and what it "
            "kept of earlier events does not fit any more.",
            hint=f"Merge them again from the start: shoal run --full-refresh {node.name}",
        )
    if start.definition not in (None, defined):
        using = models_of(query.plan)
        now = f"; they are scored with {using[0]}" if using else ""
        notes.append(f"{query.flow.location} changed: only new rows follow the new definition{now}")
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
    with placed(query):
        for read in reads:
            if not read.streaming:
                listed[read] = tuple(list_files(read, root))
                continue
            found = new_files(read, root, start.files)
            listed[read] = found.files
            arrived += len(found.files)
            notes += found.notes
        arriving = backlogs(query, graph, start.offsets)
        notes += arriving.notes
    work = FlowWork(
        query=query,
        before=start,
        definition=defined,
        tables=inputs,
        files=listed,
        # By files: a writer need not have said how many rows.
        new=bool(count or arrived or arriving.new) or _new_snapshot(query, start, inputs),
        messages=arriving.spans,
        offsets=arriving.offsets,
    )
    return _News(
        work=work,
        files=count + arrived,
        messages=arriving.count,
        rows=None if arrived else rows + arriving.count,
        notes=tuple(notes),
    )


def _new_snapshot(query: Query, start: Progress, inputs: Mapping[TableName, Input]) -> bool:
    """Whether a flow of whole snapshots has another one to merge."""
    if query.flow.cdc is None or not query.flow.cdc.snapshot:
        return False
    if query.flow.cdc.snapshots is not None:
        return True  # only calling the function would tell
    return {str(n): (i.id, i.version) for n, i in inputs.items()} != dict(start.versions)


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
