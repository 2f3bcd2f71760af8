"""The rows that a flow gives in one run, as a DataFrame over pinned inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from shoal.engines import FileRead, KafkaRead, Read, TableRead, dataframe, read_files, rewrite
from shoal.pipeline.definitions import Kind
from shoal.pipeline.feeds import batch_feed, feed_asked, feed_relation
from shoal.pipeline.inputs import table_relation
from shoal.pipeline.messages import message_relation
from shoal.pipeline.sources import source_name
from shoal.pipeline.viewchecks import kept_rows
from shoal.store import is_url, open_store, path_in

if TYPE_CHECKING:
    from pyspark.sql import DataFrame
    from pyspark.sql.connect.proto import Relation

    from shoal.engines import Engine
    from shoal.lake import Lake, Table
    from shoal.pipeline.graph import Graph, Node, Query
    from shoal.pipeline.work import FlowWork

__all__ = ["Built", "Place", "build", "given", "pinned", "rows_of"]


@dataclass(frozen=True, kw_only=True)
class Place:
    """One flow's work, and where it happens.

    Args:
        node: The table that it fills.
        work: Its inputs in this run.
        graph: The node's graph.
        engine: Where its query runs.
        lake: Where the tables are.
        full: The table is rebuilt: nothing that it holds now counts.
        folder: For files that are needed only until the rows are written: on this machine; it may
            not exist yet.
        shared: Path or URL in the lake for the same, which an engine elsewhere sees too.
        stopped: Asked during long work outside the engine; true means give up.
        last: No other flow fills the table after this one in this run.
        states: States that flows of the table already left in this run, by flow.
    """

    node: Node
    work: FlowWork
    graph: Graph
    engine: Engine
    lake: Lake
    full: bool
    folder: Path
    shared: str
    stopped: Callable[[], bool] = lambda: False
    last: bool = True
    states: Mapping[str, str] = field(default_factory=dict)

    def handed(self, name: str) -> str:
        """Path or URL in ``folder`` that the engine sees too, to write to or to `hand` over.

        With the embedded engine, or a lake that both sides have on a disk, it is in ``folder``.
        """
        if self.engine.embedded or not is_url(self.shared):
            self.folder.mkdir(parents=True, exist_ok=True)
            return str(self.folder / name)
        return path_in(self.shared, name)

    def hand(self, file: Path) -> str:
        """Gives the engine a file of ``folder``; where it finds it."""
        name = file.relative_to(self.folder).as_posix()
        there = self.handed(name)
        if is_url(there):
            open_store(self.shared).write(name, file)
        return there

    @property
    def table(self) -> Table:
        """The table that the flow fills."""
        return self.lake.table(self.node.name)


@dataclass(frozen=True, kw_only=True)
class Built:
    """What one flow writes.

    Args:
        frame: The rows; None where the table's last flow writes them with its own.
        overwrite: They are all rows of the table; otherwise they are added to it.
        state: Name of the state folder that goes with them, already filled.
        notes: What a person should know about how they came to be.
        idle: There was nothing new after all: the table and the flow's progress stay.
    """

    frame: DataFrame | None
    overwrite: bool
    state: str | None = None
    notes: tuple[str, ...] = ()
    idle: bool = False


def build(place: Place) -> Built:
    """The rows to write for a flow, whatever its kind.

    Raises:
        PipelineError: The query or its inputs are wrong.
    """
    flow = place.work.query.flow
    if flow.cdc is not None:
        from shoal.pipeline import cdc

        return cdc.build(place)
    if flow.local is not None:
        from shoal.pipeline import local

        return local.build(place)
    if place.work.increment is not None:
        from shoal.pipeline import increment

        return increment.build(place)
    return Built(frame=pinned(place), overwrite=place.full)


def pinned(place: Place) -> DataFrame:
    """The flow's query over pinned versions, and over just what is new where it streams."""
    from pyspark.sql.connect.proto import Plan

    return dataframe(Plan(root=rows_of(place.work.query, place)), place.engine.spark)


def rows_of(query: Query, place: Place) -> Relation:
    """The rows of a query, or of a view's, in this run."""

    def new(read: Read) -> Relation | None:
        inner = _view(read, place)
        if inner is None:
            return given(read, place)
        return kept_rows(inner, rows_of(inner.queries[0], place))

    return rewrite(query.plan, new).root


def _view(read: Read, place: Place) -> Node | None:
    if not isinstance(read, TableRead):
        return None
    inner = place.graph.nodes.get(place.lake.name(read.name))
    return inner if inner is not None and inner.dataset.kind is Kind.TEMPORARY_VIEW else None


def given(read: Read, place: Place) -> Relation:
    """The rows that a read of the flow's query stands for in this run."""
    work, engine = place.work, place.engine
    if isinstance(read, FileRead):
        files, columns = work.files[read], work.schemas.get(source_name(read), "")
        return read_files(engine.spark, read, files, sail=engine.sail, columns=columns)
    if isinstance(read, KafkaRead):
        return message_relation(read, work.messages[read], place)
    name = place.lake.name(read.name)
    if feed_asked(read):
        table, taken = place.lake.table(name), work.tables[name]
        feed = taken.feed if read.streaming else batch_feed(read, table, taken.version)
        assert feed is not None
        return feed_relation(table, taken.version, feed, taken.key, engine.spark)
    return table_relation(read, place.lake.table(name), work.tables[name], engine.spark)
