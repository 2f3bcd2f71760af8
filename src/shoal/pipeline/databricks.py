"""What Databricks' pipelines have beyond the open API, and ``dlt``, their old module.

The names are there only while sources load. Unlike pyspark's own, the decorators return the
function, so that a definition can be called in a plain test.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pyspark.pipelines import create_sink
from pyspark.pipelines.flow import Flow
from pyspark.pipelines.graph_element_registry import get_active_graph_element_registry
from pyspark.pipelines.output import MaterializedView, StreamingTable, TemporaryView
from pyspark.pipelines.source_code_location import (
    SourceCodeLocation,
    get_caller_source_code_location,
)

from shoal.errors import PipelineError
from shoal.pipeline import expectations

if TYPE_CHECKING:
    from pyspark.sql import DataFrame
    from pyspark.sql.connect.session import SparkSession

__all__ = ["databricks_names", "dlt_module", "either_kind"]

Query = Callable[..., Any]
_EITHER = "__shoal_either_kind__"
_WARN: expectations.Action = "warn"
_DROP: expectations.Action = "drop"
_FAIL: expectations.Action = "fail"


@dataclass(frozen=True)
class _Flow(Flow):
    """pyspark's declaration, with what it has no room for."""

    once: bool


def either_kind(query: object) -> bool:
    """True for a ``@dlt.table``: a streaming table if it reads a stream, else a view."""
    return bool(getattr(query, _EITHER, False))


def databricks_names(spark: SparkSession) -> dict[str, Any]:
    """The names that sources find in ``pyspark.pipelines``, by name.

    Args:
        spark: The session that ``read`` and ``read_stream`` read with.
    """
    from shoal.pipeline.cdc import DATABRICKS_NAMES

    def read(name: str) -> DataFrame:
        """A dataset of the pipeline, whole."""
        return spark.read.table(_without_live(name))

    def read_stream(name: str) -> DataFrame:
        """A dataset of the pipeline, as a stream."""
        return spark.readStream.table(_without_live(name))

    names = {
        name: getattr(expectations, name)
        for name in expectations.__all__
        if name.startswith("expect")
    }
    return {
        **names,
        **DATABRICKS_NAMES,
        "append_flow": append_flow,
        "create_streaming_table": create_streaming_table,
        "materialized_view": _decorator(MaterializedView),
        "read": read,
        "read_stream": read_stream,
        "table": _decorator(StreamingTable),
        "temporary_view": _decorator(TemporaryView),
        "view": _decorator(TemporaryView),
    }


def dlt_module(spark: SparkSession) -> types.ModuleType:
    """The module that ``import dlt`` gives, with the names of its last version."""
    module = types.ModuleType("dlt", "Databricks' old name of pyspark.pipelines.")
    names = databricks_names(spark)
    names["table"] = names["create_table"] = _decorator(StreamingTable, either=True)
    names["create_view"] = names["view"]
    names["create_sink"] = create_sink
    names["create_target_table"] = names["create_streaming_table"]
    names["create_streaming_live_table"] = names["create_streaming_table"]
    names.setdefault("apply_changes", names["create_auto_cdc_flow"])
    snapshots = names["create_auto_cdc_from_snapshot_flow"]
    names.setdefault("apply_changes_from_snapshot", snapshots)
    module.__dict__.update(names)
    return module


def _without_live(name: str) -> str:
    return name[5:] if name.upper().startswith("LIVE.") else name


def _decorator(kind: type, *, either: bool = False) -> Callable[..., Any]:
    """A decorator for a query function, with or without arguments in brackets."""

    def declare(query_function: Query | None = None, **options: Any) -> Any:
        place = get_caller_source_code_location(stacklevel=1)

        def decorate(function: Query) -> Query:
            if not callable(function):
                raise PipelineError(
                    f"a pipeline decorator was put on {type(function).__name__}.",
                    hint="Put it on a function that returns a DataFrame.",
                )
            given = dict(options)
            conf = given.pop("spark_conf", None) or {}
            name = given.pop("name", None) or function.__name__
            if either:
                setattr(function, _EITHER, True)
            registry = get_active_graph_element_registry()
            registry.register_output(_output(kind, name, place, given))
            registry.register_flow(
                Flow(
                    name=name,
                    target=name,
                    spark_conf=conf,
                    source_code_location=place,
                    func=function,
                )
            )
            expectations.mark_registered(function)
            return function

        return decorate if query_function is None else decorate(query_function)

    return declare


def append_flow(
    *,
    target: str,
    name: str | None = None,
    comment: str | None = None,
    spark_conf: Mapping[str, str] | None = None,
    once: bool = False,
) -> Callable[[Query], Query]:
    """A decorator for a flow that appends to a streaming table or a sink.

    Args:
        target: The table or sink.
        name: The flow's name; the function's when it is None.
        comment: What it is for.
        spark_conf: Settings of the flow.
        once: A backfill: the flow reads its sources as a whole, once, and again at a full refresh.
    """
    del comment  # a flow is in no catalog
    place = get_caller_source_code_location(stacklevel=1)

    def decorate(function: Query) -> Query:
        flow = _Flow(
            name=name or function.__name__,
            target=target,
            spark_conf=dict(spark_conf or {}),
            source_code_location=place,
            func=function,
            once=once,
        )
        get_active_graph_element_registry().register_flow(flow)
        expectations.mark_registered(function)
        return function

    return decorate


def create_streaming_table(
    name: str,
    *,
    expect_all: Mapping[str, str] | None = None,
    expect_all_or_drop: Mapping[str, str] | None = None,
    expect_all_or_fail: Mapping[str, str] | None = None,
    **options: Any,
) -> None:
    """Declares a streaming table that flows fill.

    Args:
        name: Its name.
        expect_all: Conditions on all its rows that are counted.
        expect_all_or_drop: Conditions whose breakers are left out.
        expect_all_or_fail: Conditions that fail the update.
        **options: As for ``table``.
    """
    place = get_caller_source_code_location(stacklevel=1)
    output = _output(StreamingTable, name, place, dict(options))
    found = tuple(
        expectations.Expectation(name=key, condition=condition, action=action)
        for conditions, action in (
            (expect_all, _WARN),
            (expect_all_or_drop, _DROP),
            (expect_all_or_fail, _FAIL),
        )
        for key, condition in (conditions or {}).items()
    )
    registry: Any = get_active_graph_element_registry()
    registry.register_output(output)
    if found:
        registry.expect(name, found)


_NAMED = ("comment", "schema", "format", "table_properties", "partition_cols", "cluster_by")
# Who may see a table, and how its files lie by themselves, are matters of a catalog.
_IGNORED = {"private", "temporary", "cluster_by_auto", "refresh_policy"}


def _output(kind: type, name: str, place: SourceCodeLocation, given: dict[str, Any]) -> Any:
    if type(name) is not str:
        raise PipelineError(
            f"a dataset's name must be text; it is {name!r}.", hint='Write: name="silver.orders"'
        )
    if given.get("path") is not None:
        raise PipelineError(
            f"'{name}' has a path; the project's storage holds all tables.",
            hint="Remove path=..., or set storage: in spark-pipeline.yml.",
        )
    known = ("comment",) if kind is TemporaryView else _NAMED
    unknown = sorted(set(given) - set(known) - _IGNORED - {"path"})
    if unknown:
        raise PipelineError(
            f"'{name}' has the argument {unknown[0]}, which is not supported.",
            hint=f"Known are: {', '.join(('name', *known))}.",
        )
    values: dict[str, Any] = {key: given.get(key) for key in known}
    if kind is not TemporaryView:
        values["table_properties"] = values["table_properties"] or {}
        for key in ("partition_cols", "cluster_by"):
            columns = values[key]
            if columns is not None and not (
                isinstance(columns, Sequence)
                and not isinstance(columns, str)
                and all(isinstance(column, str) for column in columns)
            ):
                raise PipelineError(
                    f"{key} of '{name}' must be a list of column names; it is {columns!r}.",
                    hint=f'Write: {key}=["day"]',
                )
    return kind(name=name, source_code_location=place, **values)
