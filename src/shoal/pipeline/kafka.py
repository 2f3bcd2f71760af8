"""Kafka as a source: its options, and which messages a run reads, fixed before it runs.

The options are those of Spark's "Structured Streaming + Kafka Integration Guide"; what begins with
``kafka.`` goes to the client (librdkafka). How far a flow has read is never committed to the
broker: it is part of the flow's progress, in the same Delta transaction as the rows.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from shoal.engines import KafkaRead
from shoal.errors import PipelineError, nearest
from shoal.pipeline.broker import Broker, client_settings

__all__ = ["Backlog", "KafkaSource", "Span"]

Offsets = Mapping[str, Mapping[str, int]]
Partition = tuple[str, int]

_SUBSCRIPTIONS = {"subscribe": "subscribe", "subscribepattern": "subscribePattern"}
_SUBSCRIPTIONS["assign"] = "assign"
_BOUNDS = ("Offsets", "Timestamp", "OffsetsByTimestamp")
_OPTIONS = {
    *_SUBSCRIPTIONS.values(),
    *(f"{side}{bound}" for side in ("starting", "ending") for bound in _BOUNDS),
    "failOnDataLoss",
    "includeHeaders",
    "maxOffsetsPerTrigger",
    "path",
}
# They steer Spark's own executors and polling; here they change nothing that could be seen.
_WITHOUT_EFFECT = {
    "fetchOffset.numRetries",
    "fetchOffset.retryIntervalMs",
    "groupIdPrefix",
    "kafkaConsumer.pollTimeoutMs",
    "maxRecordsPerPartition",
    "minPartitions",
}
_BEGIN, _END = -2, -1  # as Spark writes them in JSON offsets


@dataclass(frozen=True, kw_only=True, order=True)
class Span:
    """Messages of one partition.

    Args:
        topic: The topic.
        partition: The partition.
        start: Offset of the first message.
        end: Offset behind the last message.
    """

    topic: str
    partition: int
    start: int
    end: int


@dataclass(frozen=True, kw_only=True)
class Backlog:
    """What a run reads from one Kafka source.

    Args:
        spans: The messages, by partition; empty ones too.
        waiting: Messages that ``maxOffsetsPerTrigger`` leaves to a later run.
        notes: What was lost, where the source was told to go on.
    """

    spans: tuple[Span, ...]
    waiting: int = 0
    notes: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        """Offsets to read: at least as many as there are messages."""
        return sum(span.end - span.start for span in self.spans)

    @property
    def offsets(self) -> dict[str, dict[str, int]]:
        """Where the next run goes on: topic to partition to offset."""
        found: dict[str, dict[str, int]] = {}
        for span in self.spans:
            found.setdefault(span.topic, {})[str(span.partition)] = span.end
        return found


@dataclass(frozen=True)
class KafkaSource:
    """A Kafka source as its options describe it.

    Args:
        options: Reader options, names in lower case.
        streaming: The flow goes on where it stopped; otherwise all messages are read each time.
    """

    options: Mapping[str, str]
    streaming: bool

    @classmethod
    def of(cls, read: KafkaRead) -> KafkaSource:
        """Checks the options of a read. No broker is asked.

        Raises:
            PipelineError: An option is unknown, missing, or says nothing that could be done.
        """
        source = cls(dict(read.options), read.streaming)
        known = {name.lower(): name for name in (*_OPTIONS, *_WITHOUT_EFFECT)}
        for name in source.options:
            if name not in known and not name.startswith("kafka."):
                close = nearest(name, known)
                raise PipelineError(
                    f"the Kafka source has no option '{name}'.",
                    hint=f"Did you mean '{known[close]}'?"
                    if close
                    else "Options of the Kafka client itself begin with 'kafka.'.",
                )
        given = [name for name in _SUBSCRIPTIONS if name in source.options]
        if len(given) != 1:
            raise PipelineError(
                "the Kafka source needs exactly one of subscribe, subscribePattern and assign; "
                f"it has {' and '.join(_SUBSCRIPTIONS[name] for name in given) or 'none'}.",
                hint='Add .option("subscribe", "topic")',
            )
        if source.streaming and any(name.startswith("ending") for name in source.options):
            raise PipelineError(
                "a stream has no ending offsets.",
                hint="Read it with spark.read in a materialized view, or leave the option out.",
            )
        client_settings(source.options)
        _ = source.limit, source.pattern, source.assigned
        for side in ("starting", "ending"):
            source._bound(side)
        return source

    @property
    def servers(self) -> str:
        """The brokers' addresses."""
        return self.options["kafka.bootstrap.servers"]

    @property
    def tolerant(self) -> bool:
        """Go on where messages were lost."""
        return self.options.get("failondataloss", "true").lower() == "false"

    @property
    def headers(self) -> bool:
        """Read the messages' headers too."""
        return self.options.get("includeheaders", "false").lower() == "true"

    @cached_property
    def limit(self) -> int | None:
        """At most so many offsets in one run of a stream."""
        text = self.options.get("maxoffsetspertrigger")
        if text is None:
            return None
        if not text.isdigit() or not int(text):
            raise PipelineError(
                f"maxOffsetsPerTrigger is '{text}'; it must be a number of messages above 0."
            )
        return int(text) if self.streaming else None

    @cached_property
    def pattern(self) -> re.Pattern[str] | None:
        """The topics' pattern, of ``subscribePattern``."""
        text = self.options.get("subscribepattern")
        try:
            return None if text is None else re.compile(text)
        except re.error as error:
            raise PipelineError(
                f"subscribePattern '{text}' is no regular expression: {error}."
            ) from error

    @cached_property
    def assigned(self) -> dict[str, list[int]] | None:
        """The partitions of ``assign``."""
        text = self.options.get("assign")
        if text is None:
            return None
        try:
            given = json.loads(text)
            return {str(topic): [int(n) for n in numbers] for topic, numbers in given.items()}
        except (ValueError, TypeError, AttributeError) as error:
            raise PipelineError(
                f"assign is {text!r}; it must be JSON of topics and partitions.",
                hint='For example: {"flights": [0, 1]}',
            ) from error

    def _bound(self, side: str) -> str | dict[Partition, int] | tuple[str, Any]:
        """``earliest``, ``latest``, offsets by partition, or ``("time", milliseconds)``."""
        name = f"{side}OffsetsByTimestamp"
        if (text := self.options.get(name.lower())) is not None:
            return "time", _by_partition(name, text)
        name = f"{side}Timestamp"
        if (text := self.options.get(name.lower())) is not None:
            if not text.isdigit():
                raise PipelineError(f"{name} is '{text}'; it must be milliseconds since 1970.")
            return "time", int(text)
        name = f"{side}Offsets"
        default = "latest" if side == "ending" or self.streaming else "earliest"
        text = self.options.get(name.lower(), default)
        if text.lower() in {"earliest", "latest"}:
            if side == "ending" and text.lower() == "earliest":
                raise PipelineError("endingOffsets is 'earliest': nothing would ever be read.")
            return text.lower()
        return _by_partition(name, text)

    def covers(self, topic: str) -> bool:
        """Whether a topic is one of the source's."""
        if self.pattern is not None:
            return self.pattern.fullmatch(topic) is not None
        return topic in (self._subscribed if self.assigned is None else self.assigned)

    @property
    def _subscribed(self) -> list[str]:
        names = [name.strip() for name in self.options["subscribe"].split(",")]
        return [name for name in names if name]

    def backlog(self, known: Offsets) -> Backlog:
        """Asks the broker what there is to read, and fixes it.

        Args:
            known: Where a stream goes on; empty at its first run. Partitions that appeared since
                are read from their beginning.

        Raises:
            PipelineError: Messages that were not read yet are gone, or an option names a
                partition that does not exist.
            Unavailable: The brokers do not answer, or a topic does not exist.
        """
        with Broker(client_settings(self.options)) as broker:
            partitions = self._partitions(broker)
            first = broker.offsets(partitions, "earliest")
            last = broker.offsets(partitions, "latest")
            goes_on = {
                (topic, int(number)): offset
                for topic, numbers in known.items()
                for number, offset in numbers.items()
            }
            if goes_on:
                # What appeared after the first run has no message that was meant to be left out.
                start = {one: goes_on.get(one, first[one]) for one in partitions}
            else:
                start = self._resolved("starting", broker, first, last)
            end = last if self.streaming else self._resolved("ending", broker, first, last)
        gone = sorted(set(goes_on) - set(partitions))
        lost = [f"{topic}-{number} no longer exists" for topic, number in gone]
        for one in partitions:
            at, name = start[one], f"{one[0]}-{one[1]}"
            if at < first[one]:
                lost.append(f"{name} begins at offset {first[one]}, and {at} was next to read")
                start[one] = first[one]
            elif at > last[one]:
                lost.append(f"{name} ends at offset {last[one]}, and {at} was next to read")
                start[one] = first[one]
        if lost and not self.tolerant:
            raise PipelineError(
                f"messages are gone that were not read yet: {'; '.join(lost)}.",
                hint='.option("failOnDataLoss", "false") goes on with what there is.',
            )
        spans = [
            Span(
                topic=one[0],
                partition=one[1],
                start=start[one],
                end=max(start[one], min(end[one], last[one])),
            )
            for one in partitions
        ]
        shortened = _limited(spans, self.limit)
        whole, now = (sum(s.end - s.start for s in some) for some in (spans, shortened))
        notes = tuple(f"{what}: messages were lost" for what in lost)
        return Backlog(spans=tuple(shortened), waiting=whole - now, notes=notes)

    def _partitions(self, broker: Broker) -> list[Partition]:
        there = broker.partitions()
        if self.assigned is not None:
            wanted = {topic: set(numbers) for topic, numbers in self.assigned.items()}
        elif self.pattern is not None:
            wanted = {topic: set() for topic in there if self.pattern.fullmatch(topic)}
        else:
            wanted = {name: set() for name in self._subscribed}
        found = []
        for topic, numbers in wanted.items():
            broker.check(topic, there)
            if unknown := sorted(numbers - set(there[topic])):
                raise PipelineError(
                    f"the topic '{topic}' has no partition {unknown[0]}; it has "
                    f"{len(there[topic])}."
                )
            found += [(topic, number) for number in numbers or there[topic]]
        if not found:
            broker.check(f"matching '{self.options.get('subscribepattern', '')}'", there)
        return sorted(found)

    def _resolved(
        self,
        side: str,
        broker: Broker,
        first: Mapping[Partition, int],
        last: Mapping[Partition, int],
    ) -> dict[Partition, int]:
        bound = self._bound(side)
        if isinstance(bound, str):
            return dict(first if bound == "earliest" else last)
        given = bound[1] if isinstance(bound, tuple) else bound
        if isinstance(given, Mapping):
            missing = sorted(set(first) - set(given))
            unknown = sorted(set(given) - set(first))
            if missing or unknown:
                topic, number = (missing or unknown)[0]
                verb = "leaves out" if missing else "names"
                what = "" if missing else ", which is not read"
                raise PipelineError(
                    f"the {side} offsets must name each partition; it {verb} partition {number} of "
                    f"'{topic}'{what}.",
                    hint="In JSON offsets, -2 is a partition's beginning and -1 its end.",
                )
        if isinstance(bound, tuple):
            times = given if isinstance(given, Mapping) else dict.fromkeys(first, given)
            found = broker.offsets(list(first), times)
            return {one: last[one] if at < 0 else at for one, at in found.items()}
        ends = {_BEGIN: first, _END: last}
        return {one: ends[at][one] if at in ends else at for one, at in bound.items()}


def _by_partition(name: str, text: str) -> dict[Partition, int]:
    try:
        given = json.loads(text)
        return {
            (str(topic), int(number)): int(value)
            for topic, numbers in given.items()
            for number, value in numbers.items()
        }
    except (ValueError, TypeError, AttributeError) as error:
        raise PipelineError(
            f"{name} is {text!r}; it must be 'earliest', 'latest' or JSON of partitions.",
            hint='For example: {"flights": {"0": 23, "1": -2}}',
        ) from error


def _limited(spans: Sequence[Span], limit: int | None) -> list[Span]:
    """As many offsets as the limit allows, each partition by its share, at least one."""
    whole = sum(span.end - span.start for span in spans)
    if limit is None or whole <= limit:
        return list(spans)
    kept = []
    for span in spans:
        size = span.end - span.start
        share = max(1, size * limit // whole) if size else 0
        kept.append(
            Span(
                topic=span.topic,
                partition=span.partition,
                start=span.start,
                end=span.start + min(size, share),
            )
        )
    return kept
