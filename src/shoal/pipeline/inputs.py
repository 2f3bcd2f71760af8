"""Relations over a pinned version of a Delta table, or over just what is new in it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from shoal.engines import TableRead, engine_path, plan_of, version_relation
from shoal.lake import version_asked

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pyspark.sql import Column, DataFrame
    from pyspark.sql.connect.proto import Relation
    from pyspark.sql.connect.session import SparkSession

    from shoal.lake import AddedFile, Table
    from shoal.pipeline.work import Input

__all__ = ["files_relation", "table_relation", "united"]


def table_relation(read: TableRead, table: Table, given: Input, spark: SparkSession) -> Relation:
    """The rows that a flow takes from a table in this run.

    Args:
        read: How the flow's plan reads it.
        table: The table.
        given: The pinned version and, for a stream that was read before, what is new.
        spark: The session.
    """
    asked = None if read.streaming else version_asked(table, read.options)
    if asked is not None:
        return version_relation(table.path, asked)
    if given.changes is None or not read.streaming:
        return version_relation(table.path, given.version)
    return files_relation(table, given.version, given.changes.files, spark)


def files_relation(
    table: Table,
    version: int,
    files: Sequence[AddedFile],
    spark: SparkSession,
    *,
    more: Mapping[str, str] | None = None,
) -> Relation:
    """The rows of some of a table's files, with the table's columns, and ``more`` of some types.

    A file does not hold its partition columns: files are read by partition, and the values added.
    """
    from pyspark.sql import functions as F
    from pyspark.sql.pandas.types import from_arrow_schema
    from pyspark.sql.types import StructType

    columns = from_arrow_schema(table.schema(version))
    for name, kind in (more or {}).items():
        columns = columns.add(name, kind)
    if not files:
        return plan_of(spark.createDataFrame([], columns)).root
    by = table.partitions()
    stored = StructType([field for field in columns.fields if field.name not in by])
    groups: dict[str, list[AddedFile]] = {}
    for file in files:
        groups.setdefault(json.dumps(dict(file.partition), sort_keys=True), []).append(file)
    frames: list[DataFrame] = []
    for group in groups.values():
        frame = spark.read.schema(stored).parquet(
            *(engine_path(file.path, spark) for file in group)
        )
        values: dict[str, Column] = {}
        for field in columns.fields:
            if field.name in by:
                value = F.lit(group[0].partition.get(field.name)).cast(field.dataType)
                # Sail 0.7.2 loses columns when it folds a filter over a constant inside a union,
                # so the value must not look constant.
                values[field.name] = F.when(F.rand() < 2, value)
        frames.append(
            frame.select(*(values.get(n, F.col(n)).alias(n) for n in columns.fieldNames()))
        )
    return plan_of(united(frames)).root


def united(frames: Sequence[DataFrame]) -> DataFrame:
    """All rows of frames with the same columns."""
    left = list(frames)
    while len(left) > 1:  # a balanced tree: plans may nest only about a hundred levels
        pairs = zip(left[::2], left[1::2], strict=False)
        odd = left[-1:] if len(left) % 2 else []
        left = [one.unionAll(other) for one, other in pairs] + odd
    return left[0]
