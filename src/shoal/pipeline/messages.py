"""Reads Kafka messages into a Parquet file, in bounded memory, for an engine to go on with."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shoal.errors import PipelineError, Unavailable
from shoal.pipeline.broker import client_settings, kafka_refused, quiet
from shoal.pipeline.kafka import KafkaSource, Span

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql.connect.proto import Relation
    from pyspark.sql.types import StructType

    from shoal.engines import KafkaRead
    from shoal.pipeline.frames import Place

__all__ = ["message_columns", "message_relation", "write_messages"]

_PATIENCE_SECONDS = 60.0
_POLL_SECONDS = 0.1
_BATCH_BYTES = 16 * 1024 * 1024
_BATCH_MESSAGES = 20_000
_GROUP_ROWS, _GROUP_BYTES = 200_000, 64 * 1024 * 1024


def message_columns(*, headers: bool) -> StructType:
    """The columns of Spark's Kafka source.

    Args:
        headers: With the messages' headers.
    """
    from pyspark.sql.types import (
        ArrayType,
        BinaryType,
        DataType,
        IntegerType,
        LongType,
        StringType,
        StructField,
        StructType,
        TimestampType,
    )

    header = StructType([StructField("key", StringType()), StructField("value", BinaryType())])
    kinds: dict[str, DataType] = {
        "key": BinaryType(),
        "value": BinaryType(),
        "topic": StringType(),
        "partition": IntegerType(),
        "offset": LongType(),
        "timestamp": TimestampType(),
        "timestampType": IntegerType(),
    }
    if headers:
        kinds["headers"] = ArrayType(header)
    return StructType([StructField(name, kind) for name, kind in kinds.items()])


def _schema(*, headers: bool) -> pa.Schema:
    import pyarrow as pa

    header = pa.struct([("key", pa.string()), ("value", pa.binary())])
    return pa.schema(
        [
            ("key", pa.binary()),
            ("value", pa.binary()),
            ("topic", pa.string()),
            ("partition", pa.int32()),
            ("offset", pa.int64()),
            ("timestamp", pa.timestamp("ms", tz="UTC")),
            ("timestampType", pa.int32()),
            *([("headers", pa.list_(header))] if headers else []),
        ]
    )


def message_relation(read: KafkaRead, spans: Sequence[Span], place: Place) -> Relation:
    """The messages as a relation over a file in the flow's own folder.

    Args:
        read: How the flow's plan reads them.
        spans: Which.
        place: The flow's work.

    Raises:
        PipelineError: A message is gone meanwhile, or the broker refuses the right to read.
        Unavailable: The brokers stopped answering.
    """
    from shoal.engines import plan_of

    source = KafkaSource.of(read)
    columns, spark = message_columns(headers=source.headers), place.engine.spark
    if all(span.start == span.end for span in spans):
        return plan_of(spark.createDataFrame([], columns)).root
    number = list(place.work.messages).index(read)
    path = place.folder / f"messages-{number}.parquet"
    if not path.exists():  # a plan may name one source twice
        draft = path.with_suffix(".draft")
        write_messages(source, spans, draft, stopped=place.stopped)
        draft.rename(path)
    return plan_of(spark.read.schema(columns).parquet(place.hand(path))).root


def write_messages(
    source: KafkaSource,
    spans: Sequence[Span],
    path: Path,
    *,
    stopped: Callable[[], bool] = lambda: False,
) -> int:
    """Reads messages and writes them as one Parquet file.

    Args:
        source: Where they are.
        spans: Which.
        path: The file to make.
        stopped: Asked now and then; true means give up.

    Returns:
        How many messages there were; offsets may have gaps (transactions, compaction).

    Raises:
        PipelineError: A message is gone meanwhile, or the broker refuses the right to read.
        Unavailable: The brokers stopped answering.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = _schema(headers=source.headers)
    path.parent.mkdir(parents=True, exist_ok=True)
    count, size = 0, 0
    waiting: list[pa.RecordBatch] = []
    coded = ["topic", "partition", "timestampType"]
    with (
        contextlib.closing(_Reader(source, spans)) as reader,
        pq.ParquetWriter(path, schema, compression="lz4", use_dictionary=coded) as writer,
    ):
        for batch in reader.batches():
            if stopped():
                raise KeyboardInterrupt
            waiting.append(_rows(batch, schema))
            size += waiting[-1].nbytes
            count += len(batch)
            if size > _GROUP_BYTES or sum(rows.num_rows for rows in waiting) > _GROUP_ROWS:
                writer.write_table(pa.Table.from_batches(waiting))
                waiting, size = [], 0
        if waiting:
            writer.write_table(pa.Table.from_batches(waiting))
    return count


class _Reader:
    """One client over the partitions of some spans, each until its end.

    Args:
        source: Where the messages are.
        spans: Which.
    """

    def __init__(self, source: KafkaSource, spans: Sequence[Span]) -> None:
        from confluent_kafka import Consumer, TopicPartition

        self.source = source
        begin = {(span.topic, span.partition): span.start for span in spans}
        self.left = {(s.topic, s.partition): s.end for s in spans if s.end > s.start}
        self._count = sum(span.end - span.start for span in spans)
        self._trouble: list[Any] = []
        self._consumer: Any = Consumer(
            {
                **quiet(),
                "group.id": "shoal",  # the client wants one; nothing is ever committed under it
                "fetch.message.max.bytes": 8 * 1024 * 1024,
                **client_settings(source.options),
                "auto.offset.reset": "error",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "error_cb": self._trouble.append,
            }
        )
        self._consumer.assign([TopicPartition(*one, begin[one]) for one in self.left])

    def batches(self) -> Iterator[list[Any]]:
        """The messages in lists of at most some megabytes; in order within a partition."""
        number, heard = 1000, time.monotonic()
        missing = self._count
        while self.left:
            # It waits for all that are asked for: the last few must not be asked for in vain.
            asked = max(1, min(number, missing))
            batch = self._wanted(self._consumer.consume(asked, timeout=_POLL_SECONDS))
            missing -= len(batch)
            if batch:
                heard = time.monotonic()
                sizes = [len(message.value() or b"") for message in batch[:200]]
                mean = sum(sizes) / len(sizes)
                number = int(min(_BATCH_MESSAGES, max(1, _BATCH_BYTES / (mean + 100))))
                yield batch
            elif self.left and time.monotonic() - heard > _PATIENCE_SECONDS:
                topic, partition = min(self.left)
                what = f"any message of {topic}-{partition} for {_PATIENCE_SECONDS:.0f} s"
                cause = self._trouble[-1] if self._trouble else None
                kafka_refused(self.source.servers, cause, what)

    def _wanted(self, messages: Sequence[Any]) -> list[Any]:
        """Leaves out what lies behind the ends, and notes which partitions are done."""
        from confluent_kafka import KafkaError, TopicPartition

        batch = []
        for message in messages:
            one, offset = (message.topic(), message.partition()), message.offset()
            error = message.error()
            at_end = error is not None and error.code() == KafkaError._PARTITION_EOF
            if error is not None and not at_end:
                _check(self.source, error, one)
                continue
            end = self.left.get(one)
            if end is None:
                continue
            if not at_end and offset < end:
                batch.append(message)
            # Behind the last message there may be marks of transactions, which are no messages.
            if offset >= (end if at_end else end - 1):
                del self.left[one]
                self._consumer.incremental_unassign([TopicPartition(*one)])
        return batch

    def close(self) -> None:
        self._consumer.close()


def _check(source: KafkaSource, error: Any, one: tuple[str, int]) -> None:
    """Raises for errors that the client will not mend by itself."""
    from confluent_kafka import KafkaError

    name = f"{one[0]}-{one[1]}"
    if error.code() in {KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE}:
        raise PipelineError(
            f"messages of {name} were removed from Kafka while they were read: {error.str()}",
            hint="Run again: what is left is read, or the loss is named.",
        )
    if error.code() in {KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_PARTITION}:
        raise Unavailable(
            f"Kafka at {source.servers} no longer has {name}.", hint="Run again; nothing was lost."
        )
    if error.code() in {KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError._AUTHENTICATION}:
        kafka_refused(source.servers, error, f"the messages of {name}")


def _rows(batch: Sequence[Any], schema: pa.Schema) -> pa.RecordBatch:
    import pyarrow as pa

    stamps = [message.timestamp() for message in batch]
    columns: list[list[Any]] = [
        [message.key() for message in batch],
        [message.value() for message in batch],
        [message.topic() for message in batch],
        [message.partition() for message in batch],
        [message.offset() for message in batch],
        [at if kind else None for kind, at in stamps],
        [kind - 1 for kind, _ in stamps],  # Spark: -1 none, 0 when created, 1 when appended
    ]
    if "headers" in schema.names:
        found = [message.headers() for message in batch]
        columns.append(
            [
                None if given is None else [{"key": key, "value": value} for key, value in given]
                for given in found
            ]
        )
    arrays = [pa.array(values, field.type) for values, field in zip(columns, schema, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)
