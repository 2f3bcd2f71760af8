"""What a run works with: pinned versions, a flow's inputs, and the decision for a table."""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Literal

from shoal.engines import FileRead, InputFile, KafkaRead, describe, fingerprint
from shoal.errors import PipelineError, RetryableError
from shoal.lake import Changes, Feed, Progress, TableName
from shoal.pipeline.definitions import Kind
from shoal.pipeline.graph import Graph, Node, Query
from shoal.pipeline.load import flow_error
from shoal.pipeline.viewchecks import expected_of

if TYPE_CHECKING:
    from shoal.lake import Lake
    from shoal.pipeline.increment import Increment
    from shoal.pipeline.kafka import Span

__all__ = ["Action", "Decision", "FlowWork", "Input", "Pins", "definition", "expand", "placed"]

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
        feed: For a stream of changes: those to read.
        key: Columns that name a row of the table, where that is known.
    """

    id: str
    version: int
    changes: Changes | None = None
    feed: Feed | None = None
    key: tuple[str, ...] = ()


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
        offsets: Message sources: topic to partition to the offset to read up to.
        schemas: File sources: the schema that this run reads with, where it was found.
        passed: Input files that count as read, and are not: path to size and time.
        messages: The messages to read, per Kafka source.
        increment: How a materialized view follows its inputs' changes; None recomputes it.
    """

    query: Query
    before: Progress
    definition: str
    tables: Mapping[TableName, Input]
    files: Mapping[FileRead, tuple[InputFile, ...]]
    new: bool
    offsets: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    schemas: Mapping[str, str] = field(default_factory=dict)
    passed: Mapping[str, list[int]] = field(default_factory=dict)
    messages: Mapping[KafkaRead, tuple[Span, ...]] = field(default_factory=dict)
    increment: Increment | None = None


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
        inputs: Input tables with a version that the table has not seen: that which it saw last
            (None when it never read it) and that which it reads now.
        edit: Unified diff of its definition, where that changed.
        work: The flows' inputs; empty where an input will only be known during the run.
    """

    name: TableName
    kind: Kind
    action: Action
    reason: str
    files: int = 0
    rows: int | None = None
    notes: tuple[str, ...] = ()
    inputs: Mapping[str, tuple[int | None, int]] = field(default_factory=dict)
    edit: str = ""
    work: tuple[FlowWork, ...] = field(default=(), compare=False, repr=False)


def expand(query: Query, graph: Graph) -> tuple[dict[TableName, bool], list[FileRead], list[str]]:
    """Stored tables, files and plan fingerprints of a query, temporary views seen through."""
    tables: dict[TableName, bool] = {}
    files = list(query.files)
    prints = [fingerprint(query.plan), *query.functions]
    for name, streaming in query.tables.items():
        inner = graph.nodes.get(name)
        if inner is None or inner.dataset.kind is not Kind.TEMPORARY_VIEW:
            tables[name] = tables.get(name, False) or streaming
            continue
        for view in inner.queries:
            more, found, below = expand(view, graph)
            for table, streams in more.items():
                tables[table] = tables.get(table, False) or streams
            files += [file for file in found if file not in files]
            prints += [*below, *map(repr, expected_of(inner))]
    return tables, files, prints


def definition(node: Node, query: Query, prints: list[str]) -> str:
    """Fingerprint of a flow's query and of what shapes its rows."""
    parts = [
        *prints,
        *(repr(e) for e in (*node.dataset.expectations, *query.flow.expectations)),
        repr(node.dataset.schema),
        repr(node.dataset.partition_by),
    ]
    if query.flow.cdc is not None:
        parts.append(describe(asdict(query.flow.cdc)))
    if query.flow.local is not None:
        parts.append(query.flow.local.source())
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


@contextlib.contextmanager
def placed(query: Query) -> Iterator[None]:
    """Puts the flow's place before errors about its files."""
    try:
        yield
    except (PipelineError, RetryableError) as error:
        raise flow_error(query.flow.location, error) from error
