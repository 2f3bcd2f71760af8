"""Refreshes one table: pin the inputs, let the engine write, commit files with progress."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shoal.engines import FileRead, InputFile, Read, dataframe, read_files, rewrite
from shoal.errors import ExpectationFailed, PipelineError
from shoal.lake import NULL_PARTITION, Progress, Staged, TableName, staged_files
from shoal.pipeline.decide import Decision, FlowWork
from shoal.pipeline.definitions import Dataset, Kind
from shoal.pipeline.expectations import Action, Expectation
from shoal.pipeline.graph import Graph, Node, Query
from shoal.pipeline.inputs import table_relation
from shoal.pipeline.load import flow_error
from shoal.pipeline.sources import relisted, unchanged

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import DataFrame
    from pyspark.sql.connect.proto import Relation

    from shoal.engines import Engine
    from shoal.lake import Lake, Table

__all__ = ["ExpectationCount", "Refresh", "Status", "refresh"]

# Rows go to a folder by which expectations they broke, one bit each: the files' footers then count
# them, and dropping them is leaving their files out. No second pass, no extra column in the table.
_BROKEN = "shoal_broken"
_RESCUED = ("_corrupt_record", "_rescued_data")


class Status(StrEnum):
    """How a table's refresh ended."""

    UNCHANGED = "unchanged"
    REFRESHED = "refreshed"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, kw_only=True)
class ExpectationCount:
    """One expectation's result in one refresh.

    Args:
        expectation: What was expected.
        passed: Rows that met it.
        failed: Rows that broke it.
    """

    expectation: Expectation
    passed: int
    failed: int


@dataclass(frozen=True, kw_only=True)
class Refresh:
    """The result of one table's refresh.

    Args:
        name: The table.
        kind: Streaming table or materialized view.
        status: How it ended.
        action: ``none``, ``incremental`` or ``full``.
        reason: Why it was (not) refreshed.
        version: The table's version afterwards, or None when there is none.
        rows: Rows written.
        files: Input files read.
        dropped: Rows that expectations left out.
        rescued: Malformed input rows that were kept for inspection.
        seconds: Wall time.
        expectations: Counts per expectation.
        notes: What was left alone, and why.
        error: The error, when it failed or was skipped.
    """

    name: TableName
    kind: Kind
    status: Status
    action: str
    reason: str
    version: int | None = None
    rows: int = 0
    files: int = 0
    dropped: int = 0
    rescued: int = 0
    seconds: float = 0.0
    expectations: tuple[ExpectationCount, ...] = ()
    notes: tuple[str, ...] = ()
    error: str | None = None


@dataclass(kw_only=True)
class _Output:
    """What the flows of one table wrote so far."""

    files: list[Staged] = field(default_factory=list)
    schemas: list[Any] = field(default_factory=list)
    counts: list[ExpectationCount] = field(default_factory=list)
    progress: list[tuple[Progress, Progress]] = field(default_factory=list)
    rescued: int = 0
    dropped: int = 0


def refresh(
    node: Node,
    decision: Decision,
    graph: Graph,
    engine: Engine,
    lake: Lake,
    *,
    run_id: str,
    stopped: Callable[[], bool] = lambda: False,
) -> Refresh:
    """Carries a decision out, in one commit or none.

    Args:
        node: The table.
        decision: What it needs.
        graph: Its graph.
        engine: Where its queries run.
        lake: Where the tables are.
        run_id: Kept in the commit.
        stopped: Asked before the commit; true means leave everything as it was.

    Raises:
        ExpectationFailed: A row broke an ``expect_or_fail``; nothing was committed.
        PipelineError: A query failed; nothing was committed.
    """
    start = time.perf_counter()
    table = lake.table(node.name)
    if decision.action == "none":
        return _result(decision, Status.UNCHANGED, start, version=table.version())
    output = _Output()
    full = decision.action == "full"
    with table.staging() as folder:
        for index, work in enumerate(decision.work):
            if work.new or full:
                part = Path(folder) / f"flow-{index}"
                _run_flow(node.dataset, work, graph, engine, lake, part, output)
        broken = [c for c in output.counts if c.failed and c.expectation.action == "fail"]
        if broken:
            raise ExpectationFailed(
                f"{decision.work[0].query.flow.location}: {broken[0].failed} of "
                f"{broken[0].passed + broken[0].failed} rows for '{node.name}' break "
                f"'{broken[0].expectation.name}' ({broken[0].expectation.condition}); nothing was "
                "committed.",
                hint="Mend the rows or the condition, or use expect_or_drop.",
                counts=tuple(output.counts),
            )
        if stopped():
            raise KeyboardInterrupt
        if full or output.files or output.progress:
            version = _commit(table, node.dataset, output, full=full, run_id=run_id)
        else:
            version = table.version()
    return _result(
        decision,
        Status.REFRESHED,
        start,
        version=version,
        rows=sum(file.rows for file in output.files),
        dropped=output.dropped,
        rescued=output.rescued,
        expectations=tuple(output.counts),
    )


def _result(decision: Decision, status: Status, start: float, **values: Any) -> Refresh:
    return Refresh(
        name=decision.name,
        kind=decision.kind,
        status=status,
        action=decision.action,
        reason=decision.reason,
        files=decision.files,
        notes=decision.notes,
        seconds=time.perf_counter() - start,
        **values,
    )


def _run_flow(
    dataset: Dataset,
    work: FlowWork,
    graph: Graph,
    engine: Engine,
    lake: Lake,
    folder: Path,
    output: _Output,
) -> None:
    """Writes a flow's rows below ``folder``, again if an input file changed meanwhile."""
    expectations = (*dataset.expectations, *work.query.flow.expectations)
    attempt = 0
    while True:
        part = folder / f"try-{attempt}"
        try:
            frame = _frame(work, graph, engine, lake)
            schema = _write(frame, dataset, expectations, part, engine)
        except Exception as error:
            raise flow_error(work.query.flow.location, error) from error
        # A stream leaves a file that changed to its next run; a view reads it as it is now.
        steady = {
            read: tuple(unchanged(files) if read.streaming else relisted(files))
            for read, files in work.files.items()
        }
        if steady == dict(work.files):
            break
        attempt += 1
        if attempt == 3:
            raise PipelineError(
                f"{work.query.flow.location}: the input files keep changing while they are read.",
                hint="Let the writer finish, then run again.",
            )
        streams = any(read.streaming and files for read, files in steady.items())
        if not streams and all(read.streaming for read in steady):
            return
        work = replace(work, files=steady)
    _collect(part, schema, expectations, output)
    files = {f.path: [f.size, f.modified] for group in work.files.values() for f in group}
    kept = work.before.files if any(read.streaming for read in work.files) else {}
    output.progress.append(
        (
            work.before,
            Progress(
                flow=work.before.flow,
                number=work.before.number + 1,
                files={**kept, **files},
                versions={
                    str(name): (given.id, given.version) for name, given in work.tables.items()
                },
                definition=work.definition,
            ),
        )
    )


def _frame(work: FlowWork, graph: Graph, engine: Engine, lake: Lake) -> DataFrame:
    """The flow's DataFrame over pinned versions and listed files."""

    def relation(query: Query) -> Relation:
        def new(read: Read) -> Relation | None:
            if isinstance(read, FileRead):
                return _files(read, work.files[read], engine)
            name = lake.name(read.name)
            inner = graph.nodes.get(name)
            if inner is not None and inner.dataset.kind is Kind.TEMPORARY_VIEW:
                return relation(inner.queries[0])
            return table_relation(read, lake.table(name), work.tables[name], engine.spark)

        return rewrite(query.plan, new).root

    from pyspark.sql.connect.proto import Plan

    return dataframe(Plan(root=relation(work.query)), engine.spark)


def _files(read: FileRead, files: Sequence[InputFile], engine: Engine) -> Relation:
    return read_files(engine.spark, read, files, embedded=engine.embedded)


def _write(
    frame: DataFrame,
    dataset: Dataset,
    expectations: Sequence[Expectation],
    folder: Path,
    engine: Engine,
) -> pa.Schema:
    """Lets the engine write Parquet files; gives the rows' Arrow schema."""
    from pyspark.sql import functions as F
    from pyspark.sql.pandas.types import to_arrow_schema

    frame = frame.drop("_metadata")
    if dataset.schema is not None:
        frame = _as_declared(frame, dataset, engine)
    schema = to_arrow_schema(frame.schema, timezone="UTC")
    missing = [column for column in dataset.partition_by if column not in schema.names]
    if missing:
        raise PipelineError(
            f"the partition column '{missing[0]}' is not among {', '.join(schema.names)}.",
            hint=f"Mend partition_cols of '{dataset.name}'.",
        )
    by = list(dataset.partition_by)
    if expectations:
        bits = [
            F.when(F.expr(f"({expected.condition})"), F.lit(0)).otherwise(F.lit(1 << index))
            for index, expected in enumerate(expectations)
        ]
        mask = bits[0]
        for bit in bits[1:]:
            mask = mask + bit
        frame = frame.withColumn(_BROKEN, mask.cast("bigint"))
        by = [_BROKEN, *by]
    # Folder names are text. Sail 0.7.2 would write a null number as 0 and a null date as 1970.
    for column in dataset.partition_by:
        text = F.coalesce(F.col(f"`{column}`").cast("string"), F.lit(NULL_PARTITION))
        frame = frame.withColumn(column, text)
    writer = frame.write.mode("append")
    (writer.partitionBy(*by) if by else writer).parquet(str(folder))
    return schema


def _as_declared(frame: DataFrame, dataset: Dataset, engine: Engine) -> DataFrame:
    from pyspark.sql import functions as F
    from pyspark.sql.types import StructType

    declared = dataset.schema
    if isinstance(declared, str):
        if all(len(part.split()) == 1 for part in declared.split(",")):
            return frame.toDF(*[part.strip().strip("`") for part in declared.split(",")])
        declared = engine.spark._parse_ddl(declared)
    assert isinstance(declared, StructType)
    have = {name.lower() for name in frame.columns}
    missing = [name for name in declared.fieldNames() if name.lower() not in have]
    extra = have - {name.lower() for name in declared.fieldNames()}
    if missing or extra:
        raise PipelineError(
            f"the declared schema of '{dataset.name}' and its query differ: "
            f"the query lacks {missing or 'nothing'} and adds {sorted(extra) or 'nothing'}.",
            hint="Make the columns equal, or leave the schema out.",
        )
    return frame.select(*(F.col(f.name).cast(f.dataType).alias(f.name) for f in declared.fields))


def _collect(
    folder: Path, schema: pa.Schema, expectations: Sequence[Expectation], output: _Output
) -> None:
    """Counts the staged rows by the expectations they broke, and keeps the files that stay."""
    # Readers that take partition values from folder names must not meet a column of ours there.
    for part in folder.glob(f"{_BROKEN}=*"):
        part.rename(folder / part.name.replace(f"{_BROKEN}=", "broken-"))
    files = staged_files(folder) if folder.exists() else []
    masks = [_mask(Path(file.path).relative_to(folder)) for file in files]
    actions: list[Action] = [expected.action for expected in expectations]
    for index, expected in enumerate(expectations):
        failed = sum(f.rows for f, mask in zip(files, masks, strict=True) if mask >> index & 1)
        output.counts.append(
            ExpectationCount(
                expectation=expected,
                passed=sum(file.rows for file in files) - failed,
                failed=failed,
            )
        )
    for file, mask in zip(files, masks, strict=True):
        if any(mask >> index & 1 and action == "drop" for index, action in enumerate(actions)):
            output.dropped += file.rows
            Path(file.path).unlink()
            continue
        output.files.append(file)
        output.rescued += sum(file.count_present(column) for column in _RESCUED)
    output.schemas.append(schema)


def _mask(path: Path) -> int:
    word, _, number = path.parts[0].partition("-")
    return int(number) if word == "broken" else 0


def _commit(table: Table, dataset: Dataset, output: _Output, *, full: bool, run_id: str) -> int:
    import pyarrow as pa

    try:
        schema = pa.unify_schemas(output.schemas) if output.schemas else table.schema()
    except pa.ArrowException as error:
        raise PipelineError(
            f"{dataset.location}: the flows of '{dataset.name}' give different types ({error}).",
            hint="Cast the column to one type in all flows, or declare the table's schema.",
        ) from error
    inputs = {
        name: str(version)
        for _, after in output.progress
        for name, (_, version) in after.versions.items()
    }
    return table.commit(
        output.files,
        schema,
        overwrite=full,
        progress=output.progress,
        partition_by=dataset.partition_by,
        comment=dataset.comment,
        properties=dataset.properties,
        metadata={
            "shoal.run": run_id,
            "shoal.refresh": "full" if full else "incremental",
            "shoal.inputs": ", ".join(f"{name}@{version}" for name, version in inputs.items()),
        },
    )
