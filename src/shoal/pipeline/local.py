"""Flows that are plain functions of tables: Polars, Arrow, pandas and R.

They run in this process (R in one of its own), also when the engine is a remote one: whole tables
are read from the lake's files at the run's pinned version, views and a stream's new rows come
through the engine. What a function gives becomes a Parquet file that the engine then writes as it
writes any flow's rows: with expectations, partitions and the declared schema.
"""

from __future__ import annotations

import inspect
import tempfile
import traceback
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from shoal.engines import describe, input_plan
from shoal.errors import PipelineError, ShoalError
from shoal.pipeline.definitions import Kind, LocalFunction
from shoal.pipeline.expectations import registered
from shoal.pipeline.frames import Built, Place, pinned
from shoal.pipeline.localtables import (
    arrow_table,
    pandas_frame,
    write_arrow,
    write_pandas,
    write_polars,
)
from shoal.store import path_in

if TYPE_CHECKING:
    import polars as pl

__all__ = ["arrow", "build", "checked", "declare", "pandas", "polars", "stream"]

Function = TypeVar("Function", bound=Callable[..., Any])
_ATTRIBUTE = "__shoal_local__"  # where the registry looks for it


class _Streamed(str):
    """A table's name, of which only the new rows are wanted."""

    __slots__ = ()


def stream(table: str) -> str:
    """Marks an input of a plain function: it gets only the rows that are new since the last run.

    Args:
        table: The table's or view's name.

    Example:
        ``@shoal.polars(shoal.stream("bronze.events"), "silver.kinds")``
    """
    return _Streamed(table)


def polars(*tables: str, **named: str) -> Callable[[Function], Function]:
    """Declares a flow that is a function of Polars LazyFrames.

    It goes *below* the table's decorator::

        @dp.materialized_view(name="gold.delays")
        @shoal.polars("silver.flights", airlines="bronze.airlines")
        def delays(flights, airlines):
            return flights.join(airlines, on="carrier").group_by("name").agg(pl.mean("delay"))

    The function gets one LazyFrame a table, each at the version that the run is pinned to, and
    returns a LazyFrame or DataFrame; a LazyFrame is written by Polars' streaming engine, so that
    it need not fit into memory.

    Args:
        tables: Inputs by position; `stream` marks those of which only new rows are wanted.
        named: Inputs by the name of the function's argument.

    Raises:
        PipelineError: The function does not take these inputs.
    """
    return _decorator("polars", tables, named)


def arrow(*tables: str, **named: str) -> Callable[[Function], Function]:
    """Declares a flow that is a function of pyarrow Tables; see `polars`.

    The function returns a Table, a RecordBatch, or a RecordBatchReader, which is written batch by
    batch.
    """
    return _decorator("arrow", tables, named)


def pandas(*tables: str, **named: str) -> Callable[[Function], Function]:
    """Declares a flow that is a function of pandas DataFrames, and returns one; see `polars`.

    Whole numbers and booleans with nulls come as pandas' nullable types (``Int64``, ``boolean``),
    dates as ``datetime.date``, timestamps in UTC. The index of what it returns must be the default
    one: ``reset_index()`` makes columns of any other.
    """
    return _decorator("pandas", tables, named)


def _decorator(
    language: Literal["polars", "arrow", "pandas"],
    tables: tuple[str, ...],
    named: Mapping[str, str],
) -> Callable[[Function], Function]:
    count = len(tables)

    def decorate(function: Function) -> Function:
        def call(*frames: Any) -> Any:
            return function(*frames[:count], **dict(zip(named, frames[count:], strict=True)))

        return declare(language, tables, named, function, call, lambda: describe(function))

    checked(language, (*tables, *named.values()))
    return decorate


def checked(language: str, tables: tuple[str, ...]) -> None:
    """Refuses inputs that are no names, or are both streamed and read whole.

    Raises:
        PipelineError: The message has what to write instead.
    """
    for table in tables:
        if not isinstance(table, str) or not table:
            raise PipelineError(
                f"@shoal.{language} takes names of tables; found {_shown(table)}.",
                hint=f'Write for example: @shoal.{language}("silver.flights")',
            )
    streamed = {str(table) for table in tables if isinstance(table, _Streamed)}
    for table in tables:
        if not isinstance(table, _Streamed) and table in streamed:
            raise PipelineError(
                f"@shoal.{language} both streams '{table}' and reads it whole.",
                hint="Read it once, or through a @dp.temporary_view of another name.",
            )


def declare(
    language: Literal["polars", "arrow", "pandas", "r"],
    tables: tuple[str, ...],
    named: Mapping[str, str],
    function: Function,
    call: Callable[..., Any],
    source: Callable[[], str],
) -> Function:
    """Marks a function as a flow of its own, and returns it.

    Args:
        language: What the function takes and gives.
        tables: Inputs by position.
        named: Inputs by argument name.
        function: The function that the source file defines.
        call: Takes the inputs in order and gives the rows.
        source: Gives the text whose change is a change of definition.

    Raises:
        PipelineError: It is no function, or does not take these inputs.
    """
    if registered(function):
        raise PipelineError(
            f"@shoal.{language} stands above the table's decorator.",
            hint=f"Put @dp.table or @dp.materialized_view on top, @shoal.{language} below it.",
        )
    if language != "r":
        try:
            inspect.signature(function).bind(*tables, **named)
        except TypeError as error:
            raise PipelineError(
                f"@shoal.{language} gives {function.__name__}() the tables "
                f"{', '.join((*tables, *named.values())) or '(none)'}: {error}.",
                hint="Name one table for each argument.",
            ) from None
    inputs = (*tables, *named.values())
    local = LocalFunction(
        language=language,
        inputs=tuple(str(table) for table in inputs),
        streaming=frozenset(str(table) for table in inputs if isinstance(table, _Streamed)),
        call=call,
        source=lambda: f"{language} {sorted(named)} {source()}",
    )
    setattr(function, _ATTRIBUTE, local)
    return function


def _shown(value: object) -> str:
    return f"the function {value.__name__}" if inspect.isfunction(value) else repr(value)


def build(place: Place) -> Built:
    """Calls a flow's function over its pinned inputs.

    Raises:
        PipelineError: The function failed, or gives what no table can hold.
    """
    local = place.work.query.flow.local
    assert local is not None
    place.folder.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=place.folder))  # readable by this user only
    frames = [
        _input(name, place, f"{folder.name}/input-{i}") for i, name in enumerate(local.inputs)
    ]
    written = folder / "rows.parquet"
    notes: tuple[str, ...] = ()
    if local.language == "polars":
        write_polars(_called(local.call, frames), written)
    else:
        tables = [arrow_table(frame) for frame in frames]
        if local.language == "r":
            result = local.call(*tables, folder=folder, stopped=place.stopped)
            notes = result.notes
            write_arrow(result.rows, written)
        elif local.language == "pandas":
            given = _called(local.call, [pandas_frame(table) for table in tables])
            write_pandas(given, written, tables)
        else:
            write_arrow(_called(local.call, tables), written)
    frame = place.engine.spark.read.parquet(place.hand(written))
    return Built(frame=frame, overwrite=place.full, notes=notes)


def _called(function: Callable[..., Any], frames: list[Any]) -> Any:
    """What the function gives; its errors get the line at which it failed."""
    try:
        return function(*frames)
    except ShoalError:
        raise
    except Exception as error:
        trace = traceback.extract_tb(error.__traceback__)
        own = [frame for frame in trace if "site-packages" not in frame.filename]
        text = str(error).strip().splitlines()
        raise PipelineError(
            f"{type(error).__name__}: {text[0] if text else ''} "
            f"({Path(own[-1].filename).name}:{own[-1].lineno})"
        ) from error


def _input(name: str, place: Place, folder: str) -> pl.LazyFrame:
    """One input's rows: a version's, or just the new ones of a stream."""
    import polars as pl

    work = place.work
    local = work.query.flow.local
    assert local is not None
    known = place.lake.name(name)
    node = place.graph.nodes.get(known)
    streaming = name in local.streaming
    view = node is not None and node.dataset.kind is Kind.TEMPORARY_VIEW
    if not view and not (streaming and work.tables[known].changes is not None):
        return place.lake.table(known).scan(work.tables[known].version)
    alone = replace(work.query, plan=input_plan({name: streaming}))
    rows = pinned(replace(place, work=replace(work, query=alone)))
    written = place.handed(folder)
    rows.write.parquet(written)
    return pl.scan_parquet(
        path_in(written, "*.parquet"), hive_partitioning=False, credential_provider=None
    )
