"""Refreshes one table: pin the inputs, let the engine write, commit files with progress."""

from __future__ import annotations

import contextlib
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shoal.errors import ExpectationFailed, PipelineError
from shoal.lake import (
    FEED,
    NULL_PARTITION,
    Progress,
    Staged,
    feed_on,
    record_changes,
    staged_files,
)
from shoal.pipeline.constraints import not_null, required, row_key
from shoal.pipeline.damaged import damaged
from shoal.pipeline.definitions import Dataset, Kind
from shoal.pipeline.deliver import begin, end, hand_over
from shoal.pipeline.expectations import Action, Expectation
from shoal.pipeline.explain import described
from shoal.pipeline.frames import Place, build, rows_of
from shoal.pipeline.graph import Graph, Node
from shoal.pipeline.journal import metadata
from shoal.pipeline.load import flow_error
from shoal.pipeline.outcome import ExpectationCount, Refresh, Status
from shoal.pipeline.sinks import kept_in
from shoal.pipeline.sources import relisted, unchanged
from shoal.pipeline.viewchecks import view_counts
from shoal.pipeline.work import Decision
from shoal.store import LocalStore, Store, open_store, path_in, store_error

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import DataFrame

    from shoal.engines import Engine
    from shoal.lake import Lake, Table

__all__ = ["refresh"]

# Rows go to a folder by which expectations they broke, one bit each: the files' footers then count
# them, and dropping them is leaving their files out. No second pass, no extra column in the table.
_BROKEN = "shoal_broken"
_RENAMED = (f"{_BROKEN}=", "broken-", 1)
_RESCUED = ("_corrupt_record", "_rescued_data")


@dataclass(kw_only=True)
class _Output:
    """What the flows of one table wrote so far."""

    files: list[Staged] = field(default_factory=list)
    schemas: list[Any] = field(default_factory=list)
    counts: list[ExpectationCount] = field(default_factory=list)
    progress: list[tuple[Progress, Progress]] = field(default_factory=list)
    rows: int = 0
    rescued: int = 0
    dropped: int = 0
    overwrite: bool = False
    notes: list[str] = field(default_factory=list)


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
    table = kept_in(node.dataset, lake)
    node = begin(node, table)
    if _lacks_feed(node.dataset, table):
        record_changes(table)
    if decision.action == "none":
        version = table.version() if table.exists() else None
        return _result(decision, Status.UNCHANGED, start, version=version)
    output = _Output()
    full = decision.action == "full"
    with table.staging() as folder, _scratch(table, folder) as scratch:
        todo = [work for work in decision.work if work.new or full]
        for index, work in enumerate(todo):
            part = path_in(folder, f"flow-{index}")
            place = Place(
                node=node,
                work=work,
                graph=graph,
                engine=engine,
                lake=lake,
                full=full,
                folder=scratch,
                shared=path_in(folder, "scratch"),
                stopped=stopped,
                last=index == len(todo) - 1,
                states={p.flow: p.state for _, p in output.progress if p.state is not None},
            )
            _run_flow(place, part, output)
            shutil.rmtree(scratch, ignore_errors=True)
            if not (table.local or engine.embedded):
                open_store(place.shared).remove("")
        broken = [c for c in output.counts if c.failed and c.expectation.action == "fail"]
        if broken:
            name = broken[0].view or node.name
            raise ExpectationFailed(
                f"{decision.work[0].query.flow.location}: {broken[0].failed} of "
                f"{broken[0].passed + broken[0].failed} rows for '{name}' break "
                f"'{broken[0].expectation.name}' ({broken[0].expectation.condition}); nothing was "
                "committed.",
                hint="Mend the rows or the condition, or use expect_or_drop.",
                counts=tuple(output.counts),
            )
        if stopped():
            raise KeyboardInterrupt
        output.rows = sum(file.rows for file in output.files)
        if node.dataset.kind is Kind.SINK and output.schemas:
            _deliver(node, table, output, engine, folder)
        changed = full or bool(output.files or output.progress)
        if changed:
            version = _commit(table, node, output, engine, full=full, run_id=run_id)
        else:
            version = table.version() if table.exists() else None
    end(node, table)
    return _result(
        decision,
        Status.REFRESHED if changed else Status.UNCHANGED,
        start,
        version=version,
        rows=output.rows,
        dropped=output.dropped,
        rescued=output.rescued,
        expectations=tuple(output.counts),
        notes=(*decision.notes, *output.notes),
    )


@contextlib.contextmanager
def _scratch(table: Table, folder: str) -> Iterator[Path]:
    """Where files lie that are needed only until rows are written: beside them if on a disk."""
    if table.local:
        yield Path(folder) / "scratch"
        return
    with tempfile.TemporaryDirectory(prefix="shoal-") as made:
        yield Path(made) / "scratch"


def _lacks_feed(dataset: Dataset, table: Table) -> bool:
    asked = dataset.properties.get(FEED, "").lower() == "true"
    return asked and table.exists() and not feed_on(table)


def _result(decision: Decision, status: Status, start: float, **values: Any) -> Refresh:
    return Refresh(
        name=decision.name,
        kind=decision.kind,
        status=status,
        action=decision.action,
        reason=decision.reason,
        files=decision.files,
        seconds=time.perf_counter() - start,
        **{"notes": decision.notes, **values},
    )


def _run_flow(place: Place, folder: str, output: _Output) -> None:
    """Writes a flow's rows below ``folder``, again if an input file changed meanwhile."""
    work, dataset = place.work, place.node.dataset
    expectations = (*dataset.expectations, *work.query.flow.expectations)
    expectations += required(dataset, kept_in(dataset, place.lake), place.engine)
    attempt = 0
    while True:
        part = path_in(folder, f"try-{attempt}")
        try:
            current = replace(place, work=work)
            built = build(current)
            counts, dropped = view_counts(current, partial(rows_of, place=current))
            schema = None
            if built.frame is not None:
                schema = _write(built.frame, dataset, expectations, part, place.engine)
        except Exception as error:
            # Who was faster also removes the state that this flow goes on from.
            place.table.refuse_past(work.before.application, work.before.number)
            named = store_error(error, place.table.path) or damaged(work, place.lake, error)
            raise flow_error(work.query.flow.location, named or error) from error
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
    output.notes += built.notes
    if built.idle:
        return
    output.counts += counts
    output.dropped += dropped
    if schema is not None:
        _collect(part, dataset, schema, expectations, output)
    output.overwrite |= built.overwrite
    files = {f.path: [f.size, f.modified] for group in work.files.values() for f in group}
    kept = work.before.files if any(read.streaming for read in work.files) else {}
    output.progress.append(
        (
            work.before,
            Progress(
                flow=work.before.flow,
                number=work.before.number + 1,
                files={**kept, **work.passed, **files},
                versions={
                    str(name): (given.id, given.version) for name, given in work.tables.items()
                },
                definition=work.definition,
                offsets=work.offsets,
                schemas=work.schemas,
                state=built.state,
                described=described(place.node, work.query, place.graph),
            ),
        )
    )


def _write(
    frame: DataFrame,
    dataset: Dataset,
    expectations: Sequence[Expectation],
    folder: str,
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
    (writer.partitionBy(*by) if by else writer).parquet(folder)
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
    folder: str,
    dataset: Dataset,
    schema: pa.Schema,
    expectations: Sequence[Expectation],
    output: _Output,
) -> None:
    """Counts the staged rows by the expectations they broke, and keeps the files that stay."""
    store = open_store(folder)
    _rename_broken(store, dataset)
    files = staged_files(folder)
    masks = [_mask(store.name(file.path)) for file in files]
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
    dropped = []
    for file, mask in zip(files, masks, strict=True):
        if any(mask >> index & 1 and action == "drop" for index, action in enumerate(actions)):
            output.dropped += file.rows
            dropped.append(store.name(file.path))
            continue
        output.files.append(file)
        output.rescued += sum(file.count_present(column) for column in _RESCUED)
    store.delete(dropped)
    output.schemas.append(schema)


def _rename_broken(store: Store, dataset: Dataset) -> None:
    """Takes the column of ours out of the names of folders, where a reader would look for columns.

    On a disk that is a rename. In an object store each file would be copied: there it is done only
    where a table has partitions, whose values Polars takes from the folders.
    """
    if isinstance(store, LocalStore):
        for folder in store.folders():
            if folder.startswith(f"{_BROKEN}="):
                Path(store.path(folder)).rename(store.path(folder.replace(*_RENAMED)))
    elif dataset.partition_by:
        for file in store.files():
            if file.name.startswith(f"{_BROKEN}="):
                store.move(file.name, file.name.replace(*_RENAMED))


def _mask(name: str) -> int:
    found = re.match(rf"(?:broken-|{_BROKEN}=)(\d+)/", name)
    return int(found[1]) if found else 0


def _deliver(node: Node, table: Table, output: _Output, engine: Engine, folder: str) -> None:
    """Hands rows over to a sink; what is left to commit takes their place."""
    schema = _unified(node.dataset, output.schemas)
    files, schema = hand_over(node.dataset, table, output.files, schema, engine, folder)
    output.files, output.schemas = files, [schema]
    output.overwrite = node.dataset.format != "delta"  # a ledger holds its last delivery


def _commit(
    table: Table, node: Node, output: _Output, engine: Engine, *, full: bool, run_id: str
) -> int:
    dataset = node.dataset
    schema = _unified(dataset, output.schemas) if output.schemas else table.schema()
    inputs = {
        name: str(version)
        for _, after in output.progress
        for name, (_, version) in after.versions.items()
    }
    return table.commit(
        output.files,
        schema,
        overwrite=full or output.overwrite,
        progress=output.progress,
        partition_by=dataset.partition_by,
        not_null=not_null(dataset, engine) if dataset.kind is not Kind.SINK else (),
        comment=dataset.comment,
        properties=dataset.properties,
        metadata={
            **metadata(run_id, output.rows, output.counts),
            "shoal.kind": str(dataset.kind),
            "shoal.key": row_key(node),
            "shoal.refresh": "full" if full else "incremental",
            "shoal.inputs": ", ".join(f"{name}@{version}" for name, version in inputs.items()),
        },
        checked=[
            c.expectation.condition
            for c in output.counts
            if c.expectation.action == "fail" and c.view is None
        ],
    )


def _unified(dataset: Dataset, schemas: Sequence[pa.Schema]) -> pa.Schema:
    """One schema for the rows of all flows."""
    import pyarrow as pa

    try:
        return pa.unify_schemas(schemas)
    except pa.ArrowException as error:
        raise PipelineError(
            f"{dataset.location}: the flows of '{dataset.name}' give different types ({error}).",
            hint="Cast the column to one type in all flows, or declare the table's schema.",
        ) from error
