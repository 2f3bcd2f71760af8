"""The same fits on an engine: each segment where its rows are, the members written by the engine.

The engine brings a segment's rows together and sorts them; the kernel that a worker process runs
then runs in the engine's Python workers, and gives the same members, bit for bit. Any Spark
Connect endpoint will do; its Python must have Shoal and the estimator's libraries.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from shoal.errors import TrainingError
from shoal.models.columns import is_moment_type, seconds_of
from shoal.models.segments import segment_codes, segment_key
from shoal.store import open_store, path_in
from shoal.training.fitting import AT_ONCE, Fits, Progress, refuse_parameters, without_state
from shoal.training.groups import SAMPLE, fit_sample, sample_rows
from shoal.training.job import FitJob
from shoal.training.joined import joined, open_run
from shoal.training.members import Group, groups_of
from shoal.training.plan import Plan
from shoal.training.rows import TARGET, TIME, WEIGHT
from shoal.training.ship import pickled_job
from shoal.training.sorting import NO_TIME
from shoal.training.task import Job, Task, checked, fit_task
from shoal.training.tuned import TunedJob

if TYPE_CHECKING:
    from pyspark.sql import DataFrame
    from pyspark.sql.connect.session import SparkSession

__all__ = ["fit_on_engine"]

# An engine may run several Python functions in one process; what Python keeps for all its
# threads, such as the filters of warnings, is one fit's at a time.
_ALONE = threading.Lock()

Function = Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]


@dataclass(frozen=True, kw_only=True)
class _Shape:
    """How the engine's columns become the kernel's.

    Attributes:
        keys: Number of key columns, "by0", "by1", ....
        features: Number of features, "0", "1", ....
        classes: The target's values by class code, as the table has them; None for regression.
        timed: Whether there is a time.
        weighted: Whether there is a weight.
    """

    keys: int
    features: int
    classes: tuple[Any, ...] | None
    timed: bool
    weighted: bool = False

    def rows(self, table: pa.Table) -> pa.Table:
        """The kernel's rows."""
        columns = {str(i): _number(table.column(str(i))) for i in range(self.features)}
        target = table.column(TARGET)
        if self.classes is not None:
            target = pc.index_in(target, pa.array(self.classes, target.type))
        columns[TARGET] = _number(target)
        if self.weighted:
            columns[WEIGHT] = _number(table.column(WEIGHT))
        if self.timed:
            moment = table.column(TIME)
            if pa.types.is_date32(moment.type):
                moment = moment.cast(pa.int32())
            columns[TIME] = moment.cast(pa.int64()).fill_null(NO_TIME)
        return pa.table(columns)


def fit_on_engine(plan: Plan, spark: SparkSession, folder: str, progress: Progress | None) -> Fits:
    """Fit every segment on an engine, and the groups that segments fall back to here.

    Args:
        plan: What to fit.
        spark: A session on the engine.
        folder: Where the engine writes what it fitted; both sides must see it.
        progress: Called when all segments are fitted.

    Raises:
        TrainingError: The engine failed, or the declaration asks for what it cannot do.
    """
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    begun = time.perf_counter()
    declaration = plan.declaration
    if plan.job.timeout:
        raise TrainingError(
            f"Model {declaration.name!r} ({declaration.location}): timeout= ends the process that "
            "fits, and an engine's processes are its own.",
            hint='leave timeout out, or train in processes here: training = "local" in shoal.toml',
        )
    classes: tuple[Any, ...] | None = plan.target.classes
    if classes is not None and pa.types.is_floating(
        plan.source.schema.field(declaration.target).type
    ):
        classes = tuple(float(value) for value in classes)
    shape = _Shape(
        keys=len(declaration.by),
        features=plan.job.features,
        classes=classes,
        timed=plan.job.timed,
        weighted=plan.job.weighted,
    )
    rows = _rows(plan, spark)
    keys = [f"by{i}" for i in range(shape.keys)]
    job = pickled_job(plan.shared, declaration)
    # As repartition(keys).sortWithinPartitions(keys, time), which Sail 0.7.2 leaves unsorted before
    # a Python function: a window's order it keeps, and Spark does the same work for both.
    place = F.row_number().over(
        Window.partitionBy(*keys).orderBy(TIME if shape.timed else keys[-1])
    )
    sorted_rows = rows.withColumn("place", place)
    members = _written(
        sorted_rows.mapInArrow(_fits(job, shape, open_run()), _schema(plan.job)),
        path_in(folder, "members"),
    )
    fitted = _in_order(members, plan)
    refuse_parameters(declaration, fitted)
    if progress:
        progress(len(fitted), len(fitted))
    segments, levels = plan.segments, len(declaration.by)
    whole = Group(level=levels, first=0, end=len(segments.texts), key="[]")
    found = _fit_groups(plan, rows, shape, [whole], path_in(folder, "whole"))
    missing = without_state(fitted)
    for level in range(1, levels):
        if not missing:
            break
        wanted = groups_of(segments, level, missing)
        fits = _fit_groups(plan, rows, shape, wanted, path_in(folder, f"level{level}"))
        found += fits
        lost = [group for group, row in fits if not row.column("state")[0].is_valid]
        missing = [i for group in lost for i in range(group.first, group.end) if i in set(missing)]
    return fitted, found, time.perf_counter() - begun


def _rows(plan: Plan, spark: SparkSession) -> DataFrame:
    """The table's rows at their version, under the kernel's names."""
    from pyspark.sql import functions as F

    declaration, source = plan.declaration, plan.source
    named = {f"by{i}": name for i, name in enumerate(declaration.by)}
    named |= {str(i): field.name for i, field in enumerate(source.features)}
    named[TARGET] = declaration.target
    if declaration.weight:
        named[WEIGHT] = declaration.weight
    if declaration.time:
        kind = source.schema.field(declaration.time).type
        if not (pa.types.is_timestamp(kind) or pa.types.is_date(kind) or pa.types.is_integer(kind)):
            raise TrainingError(
                f"Model {declaration.name!r} ({declaration.location}): on an engine, time column "
                f"{declaration.time!r} must be a date, a timestamp or whole numbers; it is {kind}."
            )
        named[TIME] = declaration.time
    table = spark.read.format("delta").option("versionAsOf", str(source.version))
    rows = table.load(str(source.table.path))
    return rows.select(
        *(F.col("`" + name.replace("`", "``") + "`").alias(new) for new, name in named.items())
    )


def _fits(job: bytes, shape: _Shape, told: Mapping[str, str]) -> Function:
    def fit(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        from shoal.training.cluster import fit_sorted

        return fit_sorted(batches, job, shape, told)

    return fit


def fit_sorted(
    batches: Iterator[pa.RecordBatch], job: bytes, shape: _Shape, told: Mapping[str, str]
) -> Iterator[pa.RecordBatch]:
    """Fit the segments of one partition, in bounded memory.

    Args:
        batches: Rows sorted by segment and time.
        job: A pickled `Job`.
        shape: What their columns are.
        told: The run that the model's own code logs into; see `joined`.
    """
    import cloudpickle

    # The driver, which already runs code on this worker, has made it.
    fast: Job = cloudpickle.loads(job)
    current = checked(fast)
    waiting: list[pa.RecordBatch] = []
    count, enough = 0, AT_ONCE
    done: set[str] = set()
    for batch in batches:
        waiting.append(batch)
        count += batch.num_rows
        if count >= enough:
            table = pa.Table.from_batches(waiting)
            cut = _last_segment(table, shape)
            if cut:
                yield _fit(table.slice(0, cut), current, shape, done, told)
                current = fast
            waiting, count = table.slice(cut).to_batches(), count - cut
            enough = count + AT_ONCE
    if count:
        yield _fit(pa.Table.from_batches(waiting), current, shape, done, told)


def _last_segment(table: pa.Table, shape: _Shape) -> int:
    """Where the last segment's rows begin: more of them may come."""
    codes, _ = segment_codes(table, [f"by{i}" for i in range(shape.keys)])
    other = np.flatnonzero(codes != codes[-1])
    return int(other[-1]) + 1 if len(other) else 0


def _fit(
    table: pa.Table, job: Job, shape: _Shape, done: set[str], told: Mapping[str, str]
) -> pa.RecordBatch:
    from threadpoolctl import threadpool_limits

    codes, keys = segment_codes(table, [f"by{i}" for i in range(shape.keys)])
    starts = np.flatnonzero(np.r_[True, codes[1:] != codes[:-1]])
    names = [segment_key(keys[code]) for code in codes[starts]]
    if len(set(names)) < len(names) or not done.isdisjoint(names):
        raise TrainingError("The engine gave a segment's rows in pieces: it did not sort them.")
    done.update(names)
    task = Task(first=0, offsets=np.append(starts, len(codes)))
    if isinstance(job, TunedJob):
        task = job.chosen(task, [keys[code] for code in codes[starts]])
    with _ALONE, threadpool_limits(1), joined(told):
        batch = fit_task(shape.rows(table), task, job)
    columns = {"segment": pa.array(names, pa.string())}
    for name in batch.schema.names:
        column = batch.column(name)
        if name == "template":
            column = column.cast(pa.string())
        elif name == "state":
            column = column.cast(pa.binary())
        columns[name] = column
    return pa.RecordBatch.from_pydict(columns)


def _schema(job: FitJob) -> str:
    sums = [f"sums_{name} array<double>" for name in (*job.metrics, "baseline")]
    return ", ".join(
        [
            "segment string, status string, reason string, error string, rows_train bigint",
            "rows_holdout bigint, rows_dropped bigint, fit_seconds double, core_seconds double",
            "template string, state binary, interval double",
            *sums,
            "rows_hash string",
        ]
    )


def _written(rows: DataFrame, folder: str) -> pa.Table:
    """What the engine wrote of these rows."""
    import pyarrow.parquet as pq
    from pyspark.errors import PySparkException

    try:
        rows.write.parquet(folder)
    except PySparkException as error:
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise TrainingError(
            f"The engine could not fit: {said[0][:500]}",
            hint="its Python workers need shoal and the estimator's libraries",
        ) from error
    store = open_store(folder)
    tables = []
    for file in store.files():
        if file.name.endswith(".parquet"):
            with store.open(file.name, file.size) as stream:
                tables.append(pq.read_table(stream))
    return pa.concat_tables(tables)


def _in_order(members: pa.Table, plan: Plan) -> pa.Table:
    """The kernel's rows in the order of the segments."""
    keys = plan.segments.keys
    at = pc.index_in(pa.array(keys), members.column("segment").combine_chunks())
    if at.null_count or len(members) != len(keys):
        raise TrainingError(
            f"The engine gave {len(members):,} segments of {len(keys):,}.",
            hint="does it see the same table? Its storage must be the lake's",
        )
    rows = members.take(at)
    kinds = {"state": pa.large_binary()}
    columns = {
        name: rows.column(name).cast(kinds[name]) if name in kinds else rows.column(name)
        for name in rows.column_names
        if name != "segment"
    }
    columns["template"] = columns["template"].dictionary_encode()
    return pa.table(columns).combine_chunks()


def _fit_groups(
    plan: Plan, rows: DataFrame, shape: _Shape, groups: list[Group], folder: str
) -> list[tuple[Group, pa.Table]]:
    """Fit groups here, on samples that the engine's partitions give."""
    from threadpoolctl import threadpool_limits

    levels = len(plan.declaration.by)
    length = levels - groups[0].level
    wanted = {group.key: i for i, group in enumerate(groups)}
    # The whole table as it is read: what is sampled does not depend on where rows lie.
    names = [*(str(i) for i in range(shape.features)), TARGET]
    names += [WEIGHT] if shape.weighted else []
    kinds = [f"`{name}` double" for name in names] + ([f"{TIME} bigint"] if shape.timed else [])
    sampled = rows.mapInArrow(
        _samples(wanted, length, plan.job.seed, shape), ", ".join(["group int", *kinds])
    )
    found = _written(sampled, folder)
    fits = []
    for i, group in enumerate(groups):
        part = found.filter(pc.equal(found.column("group"), i)).drop_columns("group")
        count = int(plan.segments.offsets[group.end] - plan.segments.offsets[group.first])
        chosen, _ = sample_rows(part.combine_chunks(), plan.job.seed)
        with threadpool_limits(1):
            row = fit_sample(chosen, count, replace(plan.job_of(group), batched=False))
        fits.append((group, pa.Table.from_batches([row])))
    return fits


def _samples(wanted: dict[str, int], length: int, seed: int, shape: _Shape) -> Function:
    def sample(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        from shoal.training.cluster import sample_groups

        return sample_groups(batches, wanted, length, seed, shape)

    return sample


def sample_groups(
    batches: Iterator[pa.RecordBatch],
    wanted: dict[str, int],
    length: int,
    seed: int,
    shape: _Shape,
) -> Iterator[pa.RecordBatch]:
    """Of one partition's rows, those that may be in a group's sample.

    Args:
        batches: Rows.
        wanted: Keys of the groups, with their numbers.
        length: How many key columns name a group.
        seed: Seeds the samples.
        shape: What their columns are.

    Yields:
        The kernel's rows, with ``group``.
    """
    kept: dict[int, list[pa.Table]] = {}
    sizes: dict[int, int] = {}
    for batch in batches:
        table = pa.Table.from_batches([batch])
        rows = shape.rows(table)
        codes, keys = segment_codes(table, [f"by{i}" for i in range(length)])
        for code, key in enumerate(keys):
            group = wanted.get(segment_key(key))
            if group is None:
                continue
            part = rows.filter(pa.array(codes == code)) if len(keys) > 1 else rows
            kept.setdefault(group, []).append(part)
            sizes[group] = sizes.get(group, 0) + len(part)
            if sizes[group] > 2 * SAMPLE:
                kept[group] = [sample_rows(pa.concat_tables(kept[group]), seed)[0]]
                sizes[group] = SAMPLE
    for group, parts in kept.items():
        rows, _ = sample_rows(pa.concat_tables(parts), seed)
        rows = rows.add_column(0, "group", pa.array(np.full(len(rows), group, dtype=np.int32)))
        yield from rows.combine_chunks().to_batches()


def _number(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if is_moment_type(column.type):
        column = seconds_of(column)
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.int8())
    return column.cast(pa.float64()).fill_null(float("nan"))
