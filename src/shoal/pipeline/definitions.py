"""What sources declare: datasets, and the flows that fill them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from shoal.lake import TableName
from shoal.pipeline.expectations import Expectation

__all__ = ["Dataset", "Flow", "Kind"]


class Kind(StrEnum):
    """Kinds of datasets."""

    STREAMING_TABLE = "streaming table"
    MATERIALIZED_VIEW = "materialized view"
    TEMPORARY_VIEW = "temporary view"


@dataclass(frozen=True, kw_only=True)
class Flow:
    """A query that fills a dataset.

    Args:
        name: The flow's name; its progress is kept under it.
        target: The dataset it fills.
        query: A function that gives a DataFrame, or SQL text.
        location: ``file:line`` of the declaration.
        expectations: Conditions on the rows it gives.
    """

    name: str
    target: TableName
    query: Callable[[], Any] | str
    location: str
    expectations: tuple[Expectation, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A declared table or view.

    Args:
        name: Its name.
        kind: Streaming table, materialized view or temporary view.
        location: ``file:line`` of the declaration.
        comment: Description for the catalog.
        partition_by: Partition columns.
        schema: Declared columns: a ``StructType`` or DDL text.
        properties: Delta table properties.
        expectations: Conditions on all rows, whichever flow gives them.
    """

    name: TableName
    kind: Kind
    location: str
    comment: str | None = None
    partition_by: tuple[str, ...] = ()
    schema: Any = None
    properties: Mapping[str, str] = field(default_factory=dict)
    expectations: tuple[Expectation, ...] = ()
