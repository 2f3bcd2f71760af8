"""Sinks: places outside the graph that streaming flows write to.

A sink's flows keep their progress as a table's flows do, in a Delta transaction. For a Delta sink
it is the target table's own; the other sinks have a *ledger* for it, a small Delta table at
``<lake>/_shoal/sinks/<schema>.<name>`` that holds one row, its last delivery.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlparse

from shoal.errors import PipelineError, ProjectError, TableError, nearest
from shoal.lake import Table, TableName
from shoal.pipeline.broker import client_settings
from shoal.pipeline.definitions import Dataset, Flow, Kind
from shoal.store import path_in, storage_url

if TYPE_CHECKING:
    from shoal.lake import Lake

__all__ = ["FILE_FORMATS", "checked_sink", "kept_in", "progress_name"]

FILE_FORMATS = ("csv", "json", "parquet")
_KNOWN = ("delta", "kafka", *FILE_FORMATS)
_DELTA_OPTIONS = ("path", "tablename", "mergeschema")


def checked_sink(
    dataset: Dataset, root: Path, lake: Lake, datasets: Mapping[TableName, Dataset]
) -> Dataset:
    """The sink with its format and option names in lower case, and its path in full.

    Args:
        dataset: The declaration.
        root: Project folder, at which relative paths start.
        lake: Where a Delta sink's ``tableName`` is looked up.
        datasets: All that the project declares.

    Raises:
        PipelineError: The format is not supported, or an option is missing or wrong; the message
            has the declaration's place.
    """
    kind = (dataset.format or "").lower()
    if kind not in _KNOWN:
        close = nearest(kind, _KNOWN)
        raise PipelineError(
            f"{dataset.location}: the sink '{dataset.name}' has the format '{dataset.format}'; "
            f"it can be {', '.join(_KNOWN)}.",
            hint=f"Did you mean '{close}'?" if close else "Write into a table instead.",
        )
    options = {str(key).lower(): str(value) for key, value in dataset.options.items()}
    try:
        if kind == "kafka":
            _check_kafka(options)
        elif kind == "delta":
            _check_delta(options, lake, datasets)
        if "path" in options or kind in FILE_FORMATS:
            options["path"] = _local(options.get("path", ""), root)
    except (PipelineError, TableError) as error:
        message = f"{dataset.location}: the sink '{dataset.name}': {error.message}"
        raise PipelineError(message, hint=error.hint) from error
    return replace(dataset, format=kind, options=options)


def _check_kafka(options: Mapping[str, str]) -> None:
    client_settings(options)
    for name in options:
        if name != "topic" and not name.startswith("kafka."):
            raise PipelineError(
                f"a Kafka sink has no option '{name}'.",
                hint="It has 'topic'; options of the Kafka client begin with 'kafka.'.",
            )


def _check_delta(
    options: Mapping[str, str], lake: Lake, datasets: Mapping[TableName, Dataset]
) -> None:
    for given in options:
        if given not in _DELTA_OPTIONS:
            raise PipelineError(
                f"a Delta sink has no option '{given}'; it has path, tableName and mergeSchema."
            )
    if ("path" in options) == ("tablename" in options):
        raise PipelineError(
            "a Delta sink needs either a path or a tableName.",
            hint='Add options={"tableName": "schema.table"}',
        )
    if "tablename" in options and (name := lake.name(options["tablename"])) in datasets:
        raise PipelineError(
            f"its table '{name}' is declared in this project: {datasets[name].location}.",
            hint=f'Write into the table itself: @dp.append_flow(target="{name}")',
        )


def _local(written: str, root: Path) -> str:
    if not written:
        raise PipelineError("it has no path.", hint='Add options={"path": "..."}')
    parsed = urlparse(written)
    if parsed.scheme == "file":
        return unquote(parsed.path)
    if "://" in written:
        try:
            return storage_url(written)
        except ProjectError as error:
            raise PipelineError(error.message, hint=error.hint) from error
    return str((root / written).absolute())


def progress_name(dataset: Dataset, flow: Flow) -> str:
    """The name under which a flow's progress is kept.

    A Delta sink's table may be written by other projects too, so its flows go by the sink's name.
    """
    return f"{dataset.name}:{flow.name}" if dataset.kind is Kind.SINK else flow.name


def kept_in(dataset: Dataset, lake: Lake) -> Table:
    """The table whose transactions hold the progress of a dataset's flows.

    Args:
        dataset: A table, which holds its own; or a sink.
        lake: Where the tables are.
    """
    if dataset.kind is not Kind.SINK:
        return lake.table(dataset.name)
    if "tablename" in dataset.options:
        return lake.table(dataset.options["tablename"])
    path = dataset.options["path"] if dataset.format == "delta" else ""
    ledger = path_in(str(lake.root), "_shoal/sinks", str(dataset.name))
    return Table(name=dataset.name, path=path or ledger)
