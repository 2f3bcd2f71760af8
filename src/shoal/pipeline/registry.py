"""Shoal's side of pyspark's pipeline API: declarations are collected, nothing runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pyspark.pipelines import flow as spark_flow
from pyspark.pipelines import output as spark_output
from pyspark.pipelines.graph_element_registry import GraphElementRegistry

from shoal.errors import PipelineError
from shoal.lake import TableName
from shoal.pipeline.definitions import Dataset, Flow, Kind
from shoal.pipeline.expectations import Expectation, declared
from shoal.pipeline.sqlfile import parse_file

if TYPE_CHECKING:
    from pyspark.pipelines.source_code_location import SourceCodeLocation

    from shoal.lake import Lake

__all__ = ["Registry"]

_KINDS: dict[type[spark_output.Output], Kind] = {
    spark_output.StreamingTable: Kind.STREAMING_TABLE,
    spark_output.MaterializedView: Kind.MATERIALIZED_VIEW,
    spark_output.TemporaryView: Kind.TEMPORARY_VIEW,
    spark_output.Sink: Kind.SINK,
}


class Registry(GraphElementRegistry):
    """Collects datasets and flows.

    Args:
        lake: Gives names their schema.
        root: Project folder; locations are shown relative to it.
        configuration: Values for ``${key}`` in SQL files.
    """

    def __init__(
        self, lake: Lake, root: Path, configuration: Mapping[str, str] | None = None
    ) -> None:
        self.datasets: dict[TableName, Dataset] = {}
        self.flows: list[Flow] = []
        self.functions: dict[str, str] = {}  # registered in the session: name to what it does
        self._lake = lake
        self._root = root
        self._configuration = configuration or {}

    def register_output(self, output: spark_output.Output) -> None:
        """Adds a dataset.

        Raises:
            PipelineError: The kind is not supported, or the name is declared twice.
        """
        location = self._location(output.source_code_location)
        kind = _KINDS.get(type(output))
        if kind is None:
            raise PipelineError(
                f"{location}: '{output.name}' is a {type(output).__name__.lower()}, which Shoal "
                "does not run yet.",
                hint="Write into a streaming table: dp.create_streaming_table(...)",
            )
        table = output if isinstance(output, spark_output.Table) else None
        sink = output if isinstance(output, spark_output.Sink) else None
        if table is not None and table.format not in (None, "delta"):
            raise PipelineError(
                f"{location}: '{output.name}' asks for the format '{table.format}'; tables are "
                "Delta tables.",
                hint="Remove the format.",
            )
        self.add_dataset(
            Dataset(
                name=self._lake.name(output.name),
                kind=kind,
                location=location,
                comment=output.comment,
                partition_by=tuple(table.partition_cols or ()) if table else (),
                schema=table.schema if table else None,
                properties=dict(table.table_properties) if table else {},
                cluster_by=tuple(table.cluster_by or ()) if table else (),
                format=sink.format if sink else None,
                options=dict(sink.options) if sink else {},
            )
        )

    def register_flow(self, flow: spark_flow.Flow) -> None:
        """Adds a flow that a Python function defines."""
        self.add_flow(
            Flow(
                name=flow.name,
                target=self._lake.name(flow.target),
                query=flow.func,
                location=self._location(flow.source_code_location),
                expectations=declared(flow.func),
                local=getattr(flow.func, "__shoal_local__", None),
                once=getattr(flow, "once", False),
            )
        )

    def register_auto_cdc_flow(self, flow: spark_flow.AutoCdcFlow) -> None:
        """Adds a flow that merges change events into its target."""
        from shoal.pipeline import cdc

        self.add_flow(cdc.declare(flow, self._lake, self._location(flow.source_code_location)))

    def register_sql(self, sql_text: str, file_path: Path) -> None:
        """Adds the datasets and flows of a SQL file.

        Raises:
            PipelineError: A statement is none of those that a pipeline may have.
        """
        datasets, flows = parse_file(sql_text, str(file_path), self._lake, self._configuration)
        for dataset in datasets:
            self.add_dataset(dataset)
        for flow in flows:
            self.add_flow(flow)

    def add_dataset(self, dataset: Dataset) -> None:
        """Adds a dataset.

        Raises:
            PipelineError: The name is declared twice.
        """
        before = self.datasets.get(dataset.name)
        if before is not None:
            raise PipelineError(
                f"'{dataset.name}' is declared twice: {before.location} and {dataset.location}.",
                hint="Rename one, or write both into one table with @dp.append_flow(target=...).",
            )
        self.datasets[dataset.name] = dataset

    def expect(self, name: str, expected: tuple[Expectation, ...]) -> None:
        """Puts expectations on a dataset that was added before."""
        key = self._lake.name(name)
        self.datasets[key] = replace(self.datasets[key], expectations=expected)

    def add_flow(self, flow: Flow) -> None:
        """Adds a flow.

        Raises:
            PipelineError: The target has another flow of that name.
        """
        for other in self.flows:
            if (other.target, other.name) == (flow.target, flow.name):
                raise PipelineError(
                    f"'{flow.target}' has two flows named '{flow.name}': {other.location} and "
                    f"{flow.location}.",
                    hint="Give one another name.",
                )
        self.flows.append(flow)

    def _location(self, location: SourceCodeLocation) -> str:
        return self._shown(location.filename, location.line_number)

    def _shown(self, file: str, line: int | None) -> str:
        path = Path(file)
        shown = path.relative_to(self._root) if path.is_relative_to(self._root) else path
        return f"{shown}:{line}"
