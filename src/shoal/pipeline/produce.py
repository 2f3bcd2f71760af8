"""Sends rows to Kafka: the columns of Spark's Kafka sink, each row at least once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from shoal.errors import PipelineError, Unavailable
from shoal.pipeline.broker import client_settings, kafka_refused, quiet
from shoal.store import open_file

if TYPE_CHECKING:
    import pyarrow as pa

    from shoal.lake import Staged
    from shoal.pipeline.definitions import Dataset

__all__ = ["produce"]

_COLUMNS = ("key", "value", "topic", "partition", "headers")
_BATCH_ROWS = 10_000
_FLUSH_SECONDS = 90.0
_DEFAULTS = {
    "acks": "all",
    "enable.idempotence": True,  # a send that is tried again makes no second message
    "linger.ms": 20,
    "compression.type": "lz4",
    "delivery.timeout.ms": 60_000,
    "topic.metadata.propagation.max.ms": 3_000,
}


def produce(sink: Dataset, files: Sequence[Staged], schema: pa.Schema) -> None:
    """Sends the rows of Parquet files and waits until the brokers have all of them.

    Args:
        sink: The sink.
        files: The rows.
        schema: Their columns: ``value``, and where wanted ``key`` (both text or binary),
            ``topic``, ``partition`` and ``headers``.

    Raises:
        PipelineError: The columns are no messages; nothing was sent.
        Unavailable: The brokers did not take a message.
    """
    from confluent_kafka import Producer

    _check(sink, files, schema)
    settings = {**quiet(), **_DEFAULTS, **client_settings(sink.options)}
    failures: list[Any] = []

    def delivered(error: Any, _message: Any) -> None:
        if error is not None and len(failures) < 10:
            failures.append(error)

    producer: Any = Producer(settings)
    default = sink.options.get("topic")
    for file in files:
        for batch in _batches(file):
            columns = {name: batch.column(name).to_pylist() for name in batch.schema.names}
            for index in range(batch.num_rows):
                given = {name: column[index] for name, column in columns.items()}
                _send(producer, given, default, delivered)
            if failures:
                break
    left = producer.flush(_FLUSH_SECONDS)
    if failures or left:
        servers = str(settings["bootstrap.servers"])
        what = f"whether it took {left or 'all'} messages of the sink '{sink.name}'"
        _raise(sink, servers, failures[0] if failures else None, what)


def _batches(file: Staged) -> Iterator[pa.RecordBatch]:
    import pyarrow.parquet as pq

    with open_file(file.path, file.size) as stream:
        yield from pq.ParquetFile(stream).iter_batches(_BATCH_ROWS)


def _send(producer: Any, row: dict[str, Any], default: str | None, delivered: Any) -> None:
    headers = row.get("headers")
    more = {} if row.get("partition") is None else {"partition": row["partition"]}
    if headers:
        more["headers"] = [(header["key"], header["value"]) for header in headers]
    while True:
        try:
            producer.produce(
                row.get("topic") or default,
                row["value"],
                row.get("key"),
                on_delivery=delivered,
                **more,
            )
        except BufferError:
            producer.poll(0.1)  # the client's buffer is full: let it send
        else:
            producer.poll(0)
            return


def _raise(sink: Dataset, servers: str, error: Any, what: str) -> None:
    from confluent_kafka import KafkaError

    missing = {KafkaError._UNKNOWN_TOPIC, KafkaError.UNKNOWN_TOPIC_OR_PART}
    if error is not None and error.code() in missing | {KafkaError._UNKNOWN_PARTITION}:
        raise Unavailable(
            f"{sink.location}: Kafka at {servers} has no such topic or partition as the rows of "
            f"the sink '{sink.name}' name.",
            hint="Create it, then run again; messages of this attempt will be sent again.",
        )
    kafka_refused(servers, error, what)


def _check(sink: Dataset, files: Sequence[Staged], schema: pa.Schema) -> None:
    import pyarrow.types as kinds

    place = f"{sink.location}: the sink '{sink.name}'"
    unknown = [name for name in schema.names if name not in _COLUMNS]
    if "value" not in schema.names or unknown:
        found = f"has the column '{unknown[0]}'" if unknown else "lacks the column 'value'"
        raise PipelineError(
            f"{place} {found}; a message has {', '.join(_COLUMNS)}.",
            hint='Put the row into one: F.to_json(F.struct("*")).alias("value")',
        )
    for name in ("key", "value"):
        if name not in schema.names:
            continue
        kind = schema.field(name).type
        texts = (kinds.is_string, kinds.is_large_string, kinds.is_string_view)
        if not any(is_(kind) for is_ in (*texts, kinds.is_binary, kinds.is_large_binary)):
            raise PipelineError(
                f"{place} has {kind} in the column '{name}'; it must be text or binary.",
                hint=f'Cast it: .withColumn("{name}", F.col("{name}").cast("string"))',
            )
    rows = sum(file.rows for file in files)
    named = sum(file.count_present("topic") for file in files)
    if named < rows and not sink.options.get("topic"):
        raise PipelineError(
            f"{place} has {rows - named} rows without a topic.",
            hint='Add the option "topic", or a column "topic".',
        )
