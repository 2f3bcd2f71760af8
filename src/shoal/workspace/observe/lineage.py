"""OpenLineage: each refresh, training and scoring is a run of a job, with the datasets around it.

Names and facets are those of https://openlineage.io/docs/spec; the client is OpenLineage's own,
and its variables say where events go.
"""

from __future__ import annotations

import datetime as dt
import threading
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from shoal.errors import EngineError, ShoalError
from shoal.workspace.report import ModelReport, ScoreReport, TableReport

if TYPE_CHECKING:
    from openlineage.client.event_v2 import InputDataset, OutputDataset

    from shoal.workspace.opened import Opened

__all__ = ["LineageEvents"]

_BEGINS: dict[str, Any] = {"table": "start", "train": (0, 0), "score": 0}
_PRODUCER = "urn:shoal"
_ENDED = {"failed": "FAIL", "skipped": "ABORT"}


class LineageEvents:
    """Listens to a workspace, and sends what happens as OpenLineage's events.

    Args:
        space: The workspace.

    Raises:
        EngineError: OpenLineage's client is not installed.
    """

    def __init__(self, space: Opened) -> None:
        try:
            from openlineage.client import OpenLineageClient, set_producer
            from openlineage.client.uuid import generate_new_uuid
        except ImportError as error:
            raise EngineError(
                "OpenLineage's variables are set, and its client is not installed.",
                hint="pip install 'shoal[observe]'   (or unset OPENLINEAGE_URL)",
            ) from error
        set_producer(_PRODUCER)
        self._space, self._uuid = space, generate_new_uuid
        self._client: OpenLineageClient | None = OpenLineageClient()
        self._parent = str(generate_new_uuid())
        self._runs: dict[tuple[str, str], str] = {}
        self._lock = threading.Lock()

    def __call__(self, stage: str, name: str, value: Any) -> None:
        """Takes an event of the workspace; see `shoal.workspace.Workspace`."""
        begins = stage in _BEGINS and type(value) is not bool and value == _BEGINS[stage]
        with self._lock:
            if self._client is None:
                return
            if begins:
                self._runs[stage, name] = str(self._uuid())
                self._send("START", stage, name, [], [])
            elif isinstance(value, TableReport):
                self._table(name, value)
            elif isinstance(value, ModelReport):
                self._trained(name, value)
            elif isinstance(value, ScoreReport):
                self._scored(name, value)

    def _table(self, name: str, report: TableReport) -> None:
        from openlineage.client.facet_v2 import output_statistics_output_dataset as statistics

        edges = self._edges(name)
        inputs = [self._source(text) for text in sorted({edge.source for edge in edges})]
        outputs = []
        if report.version is not None:
            made = self._output(name, report.version)
            made.facets = {**(made.facets or {}), **_columns(self, edges)}
            if report.status == "refreshed":
                made.outputFacets = {
                    "outputStatistics": statistics.OutputStatisticsOutputDatasetFacet(
                        rowCount=report.rows
                    )
                }
            outputs = [made]
        self._end("table", name, report, inputs, outputs)
        if report.expectations:
            self._expectations(name, report)

    def _expectations(self, name: str, report: TableReport) -> None:
        """Tests of a dataset are a run of their own that reads it."""
        from openlineage.client.facet_v2 import data_quality_assertions_dataset as quality

        asserted = [
            quality.Assertion(
                assertion=expectation, success=not counts["failed"], severity=str(counts["action"])
            )
            for expectation, counts in report.expectations.items()
        ]
        tested = self._input(name, report.version)
        tested.inputFacets = {
            "dataQualityAssertions": quality.DataQualityAssertionsDatasetFacet(assertions=asserted)
        }
        self._runs["expectations", name] = str(self._uuid())
        self._send("COMPLETE", "expectations", name, [tested], [])

    def _trained(self, name: str, report: ModelReport) -> None:
        inputs = [self._input(report.table, report.table_version)] if report.table else []
        outputs = [self._model_output(name, report.version)] if report.version else []
        self._end("train", name, report, inputs, outputs)

    def _scored(self, name: str, report: ScoreReport) -> None:
        declared = self._space.models.get(name)
        inputs = [] if declared is None else [self._input(declared.table, None)]
        outputs = []
        if report.version is not None:
            inputs.append(self._model_input(name, report.version))
        if report.table and report.table_version is not None:
            outputs.append(self._output(report.table, report.table_version))
        self._end("score", name, report, inputs, outputs)

    def _end(
        self,
        stage: str,
        name: str,
        report: TableReport | ModelReport | ScoreReport,
        inputs: list[InputDataset],
        outputs: list[OutputDataset],
    ) -> None:
        if (stage, name) not in self._runs:  # it ended before it began, as a skipped one does
            self._runs[stage, name] = str(self._uuid())
        self._send(
            _ENDED.get(report.status, "COMPLETE"), stage, name, inputs, outputs, report.error
        )

    def _send(
        self,
        state: str,
        stage: str,
        name: str,
        inputs: list[InputDataset],
        outputs: list[OutputDataset],
        error: str | None = None,
    ) -> None:
        from openlineage.client.event_v2 import Job, Run, RunEvent, RunState
        from openlineage.client.facet_v2 import error_message_run, job_type_job, parent_run

        project = self._space.project.name
        job = name if stage == "table" else f"{stage}.{name}"
        facets: dict[str, Any] = {
            "parent": parent_run.ParentRunFacet(
                run=parent_run.Run(runId=self._parent),
                job=parent_run.Job(namespace=project, name="shoal"),
            )
        }
        if error is not None:
            facets["errorMessage"] = error_message_run.ErrorMessageRunFacet(
                message=error, programmingLanguage="python"
            )
        kind = job_type_job.JobTypeJobFacet(
            processingType="BATCH", integration="SHOAL", jobType=stage.upper()
        )
        event = RunEvent(
            eventType=RunState[state],
            eventTime=dt.datetime.now(dt.UTC).isoformat(),
            run=Run(runId=self._runs[stage, name], facets=facets),
            job=Job(namespace=project, name=job, facets={"jobType": kind}),
            inputs=inputs,
            outputs=outputs,
            producer=_PRODUCER,
        )
        assert self._client is not None
        try:
            self._client.emit(event)
        # Transports raise what their libraries raise; a run does not fail over who listens to it.
        except Exception as failure:  # noqa: BLE001
            self._client = None
            warnings.warn(
                f"OpenLineage's events are not taken, and no more are sent: {failure}",
                stacklevel=2,
            )

    def _edges(self, name: str) -> list[Any]:
        from shoal.pipeline import lineage_edges

        graph, lake = self._space.graph, self._space.lake
        node = next((node for node in graph.tables if str(node.name) == name), None)
        if node is None or graph.resolver is None:
            return []
        try:
            return lineage_edges(node, graph, lake)
        except ShoalError:  # as the refresh itself says
            return []

    def place(self, source: str) -> tuple[str, str]:
        """Namespace and name of a dataset: a table, ``files:<path>`` or ``topic:<name>``."""
        if source.startswith("topic:"):
            return "kafka", source.removeprefix("topic:")
        path = source.removeprefix("files:")
        if path == source:
            path = str(self._space.lake.table(source).path)
        if "://" not in path:
            return "file", str(Path(self._space.project.root, path).absolute())
        parts = urlsplit(path)
        return f"{parts.scheme}://{parts.netloc}", parts.path.strip("/")

    def _source(self, source: str) -> InputDataset:
        from openlineage.client.event_v2 import InputDataset

        if source.startswith(("files:", "topic:")):
            return InputDataset(*self.place(source))
        return self._input(source, None)

    def _input(self, name: str, version: int | None) -> InputDataset:
        from openlineage.client.event_v2 import InputDataset

        return InputDataset(*self.place(name), facets=self._described(name, version))

    def _output(self, name: str, version: int | None) -> OutputDataset:
        from openlineage.client.event_v2 import OutputDataset

        return OutputDataset(*self.place(name), facets=self._described(name, version))

    def _described(self, name: str, version: int | None) -> dict[str, Any]:
        from openlineage.client.facet_v2 import (
            dataset_version_dataset,
            schema_dataset,
            symlinks_dataset,
        )

        table = self._space.lake.table(name)
        if not table.exists():
            return {}
        fields = [
            schema_dataset.SchemaDatasetFacetFields(name=field.name, type=str(field.type))
            for field in table.schema()
        ]
        number = table.version() if version is None else version
        known = symlinks_dataset.Identifier(
            namespace=self._space.project.name, name=name, type="TABLE"
        )
        return {
            "schema": schema_dataset.SchemaDatasetFacet(fields=fields),
            "version": dataset_version_dataset.DatasetVersionDatasetFacet(
                datasetVersion=str(number)
            ),
            "symlinks": symlinks_dataset.SymlinksDatasetFacet(identifiers=[known]),
        }

    def _model_input(self, name: str, version: int) -> InputDataset:
        from openlineage.client.event_v2 import InputDataset

        return InputDataset(*self._registry(name), facets=_numbered(version))

    def _model_output(self, name: str, version: int) -> OutputDataset:
        from openlineage.client.event_v2 import OutputDataset

        return OutputDataset(*self._registry(name), facets=_numbered(version))

    def _registry(self, name: str) -> tuple[str, str]:
        """A registered model's namespace, which is MLflow's place without who asks there."""
        parts = urlsplit(self._space.project.tracking)
        host = parts.netloc.rpartition("@")[2]
        place = f"{parts.scheme}://{host}{parts.path if not host else ''}"
        return place, f"models/{name}"


def _numbered(version: int) -> dict[str, Any]:
    from openlineage.client.facet_v2 import dataset_version_dataset

    return {
        "version": dataset_version_dataset.DatasetVersionDatasetFacet(datasetVersion=str(version))
    }


def _columns(events: LineageEvents, edges: list[Any]) -> dict[str, Any]:
    """The facet of columns that come from columns."""
    from openlineage.client.facet_v2 import column_lineage_dataset as lineage

    found: dict[str, list[Any]] = {}
    for edge in edges:
        if edge.column is None or edge.source_column is None:
            continue
        space, name = events.place(edge.source)
        step = lineage.Transformation(type="DIRECT" if edge.kind == "direct" else "INDIRECT")
        found.setdefault(edge.column, []).append(
            lineage.InputField(
                namespace=space, name=name, field=edge.source_column, transformations=[step]
            )
        )
    if not found:
        return {}
    fields = {column: lineage.Fields(inputFields=given) for column, given in found.items()}
    return {"columnLineage": lineage.ColumnLineageDatasetFacet(fields=fields)}
