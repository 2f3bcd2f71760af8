"""The columns of a project's tables while its flows are analysed, found without reading rows.

A flow's function may ask for columns (``df.columns``, ``mapInArrow``, pandas-on-Spark). A table of
the pipeline is in no catalog and may not exist yet, so its flows are called first, and an empty
table with the columns that they give stands for it. Nobody asks, nothing is done.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from shoal.engines import (
    FileRead,
    KafkaRead,
    TableRead,
    dataframe,
    leaf,
    plan_of,
    read_files,
    reads_here,
    resolve_schema,
    rewrite,
    trace,
    version_relation,
    with_metadata,
)
from shoal.errors import PipelineError, TableError, nearest
from shoal.lake import version_asked
from shoal.pipeline.definitions import Cdc, Dataset, Flow, Kind
from shoal.pipeline.feeds import feed_asked, feed_columns
from shoal.pipeline.load import flow_error
from shoal.pipeline.sources import list_files, source_name

if TYPE_CHECKING:
    from pyspark.sql import DataFrame
    from pyspark.sql.connect.proto import Plan, Relation
    from pyspark.sql.types import StructType

    from shoal.engines import ColumnSources, Engine, Read
    from shoal.lake import Lake, TableName
    from shoal.pipeline.graph import Query
    from shoal.pipeline.registry import Registry

__all__ = ["STORED", "Resolver", "Traced"]

# Formats that stand for a stored version already: nothing is listed for them.
STORED = {"delta", "rate", "socket"}


@dataclass(frozen=True, kw_only=True)
class Traced:
    """What a query's columns are made of.

    Args:
        reads: What it reads, views seen through; origins refer to them by position.
        sources: The columns.
    """

    reads: tuple[Read, ...]
    sources: ColumnSources


class Resolver:
    """Calls flows as they are needed, each once, and knows the columns of what they fill.

    Args:
        registry: What the sources declared.
        call: Makes the query of a flow.
        lake: Where tables that nothing declares may exist.
        root: Project folder.
        engine: Answers requests for columns.
    """

    def __init__(
        self,
        registry: Registry,
        call: Callable[[Flow], Query],
        *,
        lake: Lake,
        root: Path,
        engine: Engine | None,
    ) -> None:
        self._registry, self._call = registry, call
        self._lake, self._root, self._engine = lake, root, engine
        self._queries: dict[tuple[TableName, str], Query] = {}
        self._calling: list[Flow] = []
        self._schemas: dict[object, StructType] = {}
        self._told: Exception | None = None

    def query(self, flow: Flow) -> Query:
        """A flow's query; its function is called at the first time.

        Raises:
            PipelineError: It fails, or needs its own columns; the message has its place.
        """
        key = (flow.target, flow.name)
        if key not in self._queries:
            if flow in self._calling:
                raise self._circle(flow)
            self._calling.append(flow)
            try:
                self._queries[key] = self._call(flow)
            except Exception as error:
                # The flows that asked for this one's columns are not what is wrong.
                if self._told is not None:
                    raise self._told from None
                self._told = error
                raise
            finally:
                self._calling.pop()
        return self._queries[key]

    def resolve(self, plan: Plan) -> Plan:
        """The plan with empty tables of the same columns in the place of what it reads.

        Raises:
            PipelineError: The columns of something that it reads cannot be known.
        """
        return rewrite(plan, self._relation)

    def columns(self, query: Query) -> StructType:
        """The columns that a query gives, before it is merged or its target's types are applied.

        Raises:
            PipelineError: They cannot be known yet.
            PySparkException: The engine cannot resolve the query.
        """
        assert self._engine is not None
        plan = self.resolve(query.plan)
        with self._engine.resolving(None):
            return dataframe(plan, self._engine.spark).schema

    def traced(self, query: Query, through: Callable[[TableRead], Query | None]) -> Traced:
        """What the columns of a query are made of; see `shoal.engines.trace`.

        Args:
            query: The query.
            through: The query of a temporary view; None for what is stored.

        Raises:
            PipelineError: The columns of something that it reads cannot be known.
            EngineError: The engine cannot tell.
        """
        from pyspark.sql.connect.proto import Plan

        assert self._engine is not None
        found: list[tuple[Read, list[str]]] = []

        def root(inner: Query) -> Relation:
            return rewrite(inner.plan, mark).root

        def mark(read: Read) -> Relation:
            view = through(read) if isinstance(read, TableRead) else None
            if view is not None:
                return root(view)
            relation = self._relation(read)
            if relation is None:
                raise PipelineError("The columns of a folder of Delta are told by reading it.")
            names = json.loads(relation.local_relation.schema)["fields"]
            found.append((read, [field["name"] for field in names]))
            return leaf(len(found) - 1, relation)

        plan = Plan(root=root(query))
        with self._engine.resolving(None):
            spark = self._engine.spark
            names = dataframe(plan, spark).columns
            analyst = self._engine.analyst.spark
            sources = trace(analyst, plan, [columns for _, columns in found], names)
        return Traced(reads=tuple(read for read, _ in found), sources=sources)

    def _relation(self, read: Read) -> Relation | None:
        assert self._engine is not None
        if isinstance(read, FileRead) and read.format.lower() in STORED:
            return None
        name = self._name(read) if isinstance(read, TableRead) else None
        # Readers of one table may ask for different versions, or for its changes.
        options = tuple(sorted(read.options.items())) if isinstance(read, TableRead) else ()
        key = read if name is None else (name, options)
        known = self._schemas.get(key)
        if known is None:
            found = self._found(read, name)
            with self._engine.resolving(None):
                known = dataframe(found, self._engine.spark).schema
            if isinstance(read, FileRead) and read.metadata and "_metadata" not in known.names:
                known = with_metadata(known)
            if isinstance(read, TableRead) and feed_asked(read):
                known = feed_columns(known)
            self._schemas[key] = known
        return self._empty(known).root

    def _name(self, read: TableRead) -> TableName:
        try:
            return self._lake.name(read.name)
        except TableError as error:
            raise PipelineError(error.message, hint=error.hint) from error

    def _found(self, read: Read, name: TableName | None) -> Plan:
        """A plan with the columns that a read gives."""
        from pyspark.sql.connect.proto import Plan

        assert self._engine is not None
        if isinstance(read, KafkaRead):
            from shoal.pipeline.messages import message_columns

            headers = dict(read.options).get("includeheaders", "false").lower() == "true"
            return self._empty(message_columns(headers=headers))
        if isinstance(read, FileRead):
            return self._of_files(read)
        assert name is not None
        dataset = self._registry.datasets.get(name)
        if dataset is not None:
            return self._declared(dataset)
        table = self._lake.table(name)
        if not table.exists():
            known = [*map(str, self._registry.datasets), *(t.name for t in self._lake.tables())]
            close = nearest(str(name), known)
            raise PipelineError(
                f"'{name}' is neither declared in this project nor a table of the lake.",
                hint=f"Did you mean '{close}'?" if close else "shoal tables lists the lake.",
            )
        asked = None if read.streaming else version_asked(table, read.options)
        return Plan(root=version_relation(table.path, table.version() if asked is None else asked))

    def _of_files(self, read: FileRead) -> Plan:
        from pyspark.sql.connect.proto import Plan

        assert self._engine is not None
        files = list_files(read, self._root)
        sail = self._engine.sail
        columns = ""
        if reads_here(read, files, sail=sail):
            columns = resolve_schema(read, files, known=self._kept(read)).columns.json()
        batch = replace(read, streaming=False)
        listed = () if columns else files  # known columns need no file
        with self._engine.resolving(None):
            found = read_files(self._engine.spark, batch, listed, sail=sail, columns=columns)
        return Plan(root=found)

    def _kept(self, read: FileRead) -> str:
        """The columns that the flow that is called found in a source in the run before."""
        flow = self._calling[-1] if self._calling else None
        if flow is None or not read.streaming:
            return ""
        table = self._lake.table(flow.target)
        if not table.exists():
            return ""
        return table.progress(flow.name).schemas.get(source_name(read), "")

    def _declared(self, dataset: Dataset) -> Plan:
        """A plan with the columns of a table or view of this project."""
        if dataset.kind is Kind.SINK:
            raise PipelineError(
                f"'{dataset.name}' is a sink ({dataset.location}); sinks are only written.",
                hint="Read the table that the sink's flow reads.",
            )
        names = self._names(dataset)
        if dataset.schema is not None and names is None:
            return self._empty(self._types(dataset.schema))
        flows = [flow for flow in self._registry.flows if flow.target == dataset.name]
        frames = [self._given(flow, dataset) for flow in flows]
        if not frames:
            raise PipelineError(
                f"{dataset.location}: no flow writes into '{dataset.name}'.",
                hint=f'Add one: @dp.append_flow(target="{dataset.name}")',
            )
        frame = frames[0]
        for other in frames[1:]:
            frame = frame.unionByName(other, allowMissingColumns=True)
        return plan_of(frame if names is None else frame.toDF(*names))

    @staticmethod
    def _names(dataset: Dataset) -> list[str] | None:
        """The names of a SQL view whose columns are declared without types."""
        if not isinstance(dataset.schema, str):
            return None
        parts = [part.strip() for part in dataset.schema.split(",")]
        bare = all(len(part.split()) == 1 for part in parts)
        return [part.strip("`") for part in parts] if bare else None

    def _types(self, schema: Any) -> StructType:
        assert self._engine is not None
        if isinstance(schema, str):
            with self._engine.resolving(None):
                return cast("StructType", self._engine.spark._parse_ddl(schema))
        return cast("StructType", schema)

    def _given(self, flow: Flow, dataset: Dataset) -> DataFrame:
        """What a flow adds to its table, as an empty frame."""
        assert self._engine is not None
        table = self._lake.table(dataset.name)
        if flow.local is not None or (flow.cdc is not None and flow.cdc.snapshots is not None):
            if table.exists():
                from pyspark.sql.connect.proto import Plan

                plan = Plan(root=version_relation(table.path, table.version()))
                return dataframe(plan, self._engine.spark)
            raise PipelineError(
                f"the columns of '{dataset.name}' are asked for, but its function "
                f"({flow.location}) tells them only by running, and the table does not exist yet.",
                hint=f"Declare its schema, or run it first: shoal run --select {dataset.name}",
            )
        query = self.query(flow)
        try:
            frame = dataframe(self._empty(self.columns(query)), self._engine.spark)
            with self._engine.resolving(None):
                return frame if flow.cdc is None else _merged(frame, flow.cdc)
        except Exception as error:
            self._told = self._told or flow_error(flow.location, error)
            raise self._told from error

    def _empty(self, schema: StructType) -> Plan:
        from pyspark.sql.connect.proto import LocalRelation, Plan, Relation

        return Plan(root=Relation(local_relation=LocalRelation(schema=schema.json())))

    def _circle(self, flow: Flow) -> PipelineError:
        ring = self._calling[self._calling.index(flow) :]
        names = [str(one.target) for one in (*ring, flow)]
        places = ", ".join(f"{one.target} ({one.location})" for one in ring)
        return PipelineError(
            f"These tables read each other in a circle: {' → '.join(names)}.",
            hint=f"Break one of the reads: {places}",
        )


def _merged(frame: DataFrame, cdc: Cdc) -> DataFrame:
    """The columns of a table that change events, or snapshots, are merged into."""
    from pyspark.sql import functions as F

    kept = frame.select(*cdc.column_list) if cdc.column_list is not None else frame
    if cdc.except_column_list is not None:
        left_out = set(frame.select(*cdc.except_column_list).columns)
        kept = kept.select(*(F.col(f"`{c}`") for c in kept.columns if c not in left_out))
    if cdc.scd_type == 1:
        return kept
    order = cdc.sequence_by
    if order is None:
        at = F.lit(None).cast("timestamp")
    else:
        at = F.expr(order) if isinstance(order, str) else order
    kind = frame.select(at.alias("at")).schema["at"].dataType
    ends = [F.lit(None).cast(kind).alias(name) for name in ("__START_AT", "__END_AT")]
    return kept.select("*", *ends)
