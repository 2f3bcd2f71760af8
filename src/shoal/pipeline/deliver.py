"""Delivers the rows of streaming flows to sinks.

To files each row goes exactly once: a delivery is prepared in a folder of its own, the ledger's
commit makes it true together with the flows' progress, and then its files are moved to their names.
Whatever stops in between, the next run moves the files of a committed delivery, and removes those
of one that was not. To Delta tables rows and progress are one transaction. To Kafka each row goes
at least once: a run that is killed after sending and before its commit sends again.
"""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from shoal.engines import engine_path
from shoal.errors import PipelineError
from shoal.lake import Staged, TableName, staged_files
from shoal.pipeline.definitions import Kind
from shoal.pipeline.sinks import FILE_FORMATS
from shoal.pipeline.streams import decide_stream
from shoal.pipeline.work import Decision, Pins
from shoal.store import hand_on, open_store, path_in, write_parquet

if TYPE_CHECKING:
    import pyarrow as pa

    from shoal.engines import Engine
    from shoal.lake import Table
    from shoal.pipeline.definitions import Dataset
    from shoal.pipeline.graph import Graph, Node

__all__ = ["begin", "decide_sink", "end", "hand_over"]

_TAKEN_BY_SINK = {"path"}


def decide_sink(
    node: Node, graph: Graph, pins: Pins, root: Path, *, full: bool, changing: frozenset[TableName]
) -> Decision:
    """What a sink gets now; see `decide`. A full refresh delivers everything again."""
    following = sorted(str(name) for name in graph.stored_inputs(node) & changing)
    if following:
        reason = f"follows {', '.join(following)}"
        return Decision(name=node.name, kind=node.dataset.kind, action="incremental", reason=reason)
    decision = decide_stream(node, graph, pins, root, full=full, exists=True)
    if decision.action != "full":
        return decision
    note = f"{node.name} is a sink: its rows are delivered again, and what it has stays"
    news = any(work.new for work in decision.work)
    return replace(
        decision, action="incremental" if news else "none", notes=(*decision.notes, note)
    )


def begin(node: Node, table: Table) -> Node:
    """Gets a sink ready: ends what an earlier run left, and lays rows out as its table has them.

    Args:
        node: A sink, or any other node, which stays as it is.
        table: What holds its flows' progress.
    """
    sink = node.dataset
    if sink.kind is not Kind.SINK or not table.exists():
        return node
    if sink.format in FILE_FORMATS:
        _settle(sink, table)
    if sink.format != "delta":
        return node
    return replace(node, dataset=replace(sink, partition_by=table.partitions()))


def end(node: Node, table: Table) -> None:
    """Ends a delivery that was committed; nothing for any other node."""
    sink = node.dataset
    if sink.kind is not Kind.SINK or sink.format == "delta" or not table.exists():
        return
    if sink.format in FILE_FORMATS:
        _settle(sink, table)
    _tidy(table)


def hand_over(
    sink: Dataset, table: Table, files: Sequence[Staged], schema: pa.Schema, engine: Engine,
    folder: str,
) -> tuple[list[Staged], pa.Schema]:  # fmt: skip
    """Brings rows as far as they may go before the commit.

    Args:
        sink: The sink.
        table: The Delta sink's table, or the ledger.
        files: The rows, as staged Parquet files.
        schema: Their columns.
        engine: It writes the other file formats.
        folder: Staging folder, for the ledger's row.

    Returns:
        Files and schema to commit to ``table``: the rows themselves for a Delta sink, else the
        ledger's row.

    Raises:
        PipelineError: The rows do not fit the sink.
        Unavailable: The brokers stopped answering.
    """
    if sink.format == "delta":
        merge = sink.options.get("mergeschema", "").lower() == "true"
        have = table.schema().names if table.exists() and not merge else schema.names
        if extra := [name for name in schema.names if name not in have]:
            raise PipelineError(
                f"{sink.location}: the table of the sink '{sink.name}' has no column "
                f"'{extra[0]}'; it has {', '.join(have)}.",
                hint='Add options={"mergeSchema": "true"} to add columns to it.',
            )
        return list(files), schema
    prepared = ""
    if sink.format == "kafka":
        from shoal.pipeline.produce import produce

        produce(sink, files, schema)
    elif files:
        prepared = _prepare(sink, files, engine)
    store = open_store(folder)
    store.delete([store.name(file.path) for file in files])
    return _entry(folder, sum(file.rows for file in files), prepared)


def _entry(folder: str, rows: int, prepared: str) -> tuple[list[Staged], pa.Schema]:
    """The ledger's row of one delivery, staged."""
    import pyarrow as pa

    kinds = {"at": pa.timestamp("us", tz="UTC"), "rows": pa.int64(), "delivery": pa.string()}
    row = {"at": dt.datetime.now(dt.UTC), "rows": rows, "delivery": prepared}
    schema = pa.schema(kinds)
    place = path_in(folder, "ledger")
    write_parquet(pa.Table.from_pylist([row], schema=schema), path_in(place, "entry.parquet"))
    return staged_files(place), schema


def _waiting(sink: Dataset) -> str:
    """Where a file sink's deliveries wait; readers leave out what begins with an underscore."""
    return f"_shoal/{sink.name}"


def _prepare(sink: Dataset, files: Sequence[Staged], engine: Engine) -> str:
    """Writes the rows in the sink's format where no reader looks yet; gives the delivery's name."""
    delivery = uuid.uuid4().hex[:16]
    place = open_store(path_in(sink.options["path"], _waiting(sink), delivery))
    kind = str(sink.format)
    if kind == "parquet":
        for index, file in enumerate(files):
            hand_on(file.path, place, f"part-{index:05}-{delivery}.parquet")
        return delivery
    options = {k: v for k, v in sink.options.items() if k not in _TAKEN_BY_SINK}
    frame = engine.spark.read.parquet(*(engine_path(f.path, engine.spark) for f in files))
    try:
        frame.write.format(kind).options(**options).save(place.path("_written"))
    except Exception as error:
        place.remove("")
        text = str(error).strip().splitlines()
        raise PipelineError(
            f"{sink.location}: the rows for the sink '{sink.name}' cannot be written as {kind}: "
            f"{text[0] if text else error}",
            hint="Cast the columns to what the format can hold.",
        ) from error
    names = (PurePosixPath(file.name) for file in place.files("_written"))
    data = (path for path in names if not path.name.startswith((".", "_")))
    for index, path in enumerate(data):
        suffix = "".join(path.suffixes) or f".{kind}"
        place.move(str(path), f"part-{index:05}-{delivery}{suffix}")
    place.remove("_written")
    return delivery


def _tidy(ledger: Table) -> None:
    """Removes the files of earlier rows of a ledger; nobody asks for them again."""
    newest = ledger.version()
    files = ledger.changes(after=newest - 1, until=newest).files
    kept = {ledger.store.name(file.path).partition("/")[0] for file in files}
    for folder in ledger.store.folders():
        if folder.startswith("part-") and folder not in kept:
            ledger.store.remove(folder)


def _settle(sink: Dataset, ledger: Table) -> None:
    """Moves the files of a delivery that was committed; removes those of one that was not."""
    store, waiting = open_store(sink.options["path"]), _waiting(sink)
    files = store.files(waiting)
    if not files and not (store.local and store.folders(waiting)):
        return
    # Each refresh settles first: no delivery but the last can be committed and waiting.
    last = list(ledger.scan(columns=["delivery"]).collect()["delivery"])
    for file in files:
        delivery, _, name = file.name.removeprefix(f"{waiting}/").partition("/")
        if delivery in last and "/" not in name:
            store.move(file.name, name)
    store.remove(waiting)
    if store.local and not store.folders("_shoal") and not store.files("_shoal"):
        store.remove("_shoal")
