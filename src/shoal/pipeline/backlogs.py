"""What a flow reads from its Kafka sources in one run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from shoal.errors import PipelineError
from shoal.pipeline.definitions import Kind
from shoal.pipeline.kafka import KafkaSource, Span

if TYPE_CHECKING:
    from shoal.engines import KafkaRead
    from shoal.pipeline.graph import Graph, Query

__all__ = ["Backlogs", "backlogs"]


@dataclass(kw_only=True)
class Backlogs:
    """The messages that a flow reads.

    Args:
        spans: Per source, the messages by partition.
        offsets: Where each stream goes on afterwards.
        count: Messages to read.
        new: There is something to commit: messages, or where a stream begins.
        notes: What was lost or left for later.
    """

    spans: dict[KafkaRead, tuple[Span, ...]] = field(default_factory=dict)
    offsets: dict[str, dict[str, int]] = field(default_factory=dict)
    count: int = 0
    new: bool = False
    notes: list[str] = field(default_factory=list)


def backlogs(
    query: Query, graph: Graph, known: Mapping[str, Mapping[str, int]], *, batch: bool = False
) -> Backlogs:
    """Asks the brokers what there is to read, and fixes it for the run.

    Args:
        query: The flow; temporary views are seen through.
        graph: Its graph.
        known: Where its streams go on.
        batch: Give the ends of sources that do not stream too, as ``offsets``.

    Raises:
        PipelineError: Messages that were not read yet are gone, or two streams of the flow read
            one topic.
        Unavailable: The brokers do not answer, or a topic does not exist.
    """
    found = Backlogs()
    for read in _reads(query, graph):
        source = KafkaSource.of(read)
        before = {topic: ends for topic, ends in known.items() if source.covers(topic)}
        backlog = source.backlog(before if read.streaming else {})
        found.spans[read] = backlog.spans
        found.notes += backlog.notes
        if not (read.streaming or batch):
            continue
        found.count += backlog.count
        found.new |= bool(backlog.count) or not before
        twice = sorted(found.offsets.keys() & backlog.offsets.keys())
        if twice and read.streaming:
            raise PipelineError(
                f"two streams of one flow read the topic '{twice[0]}'.",
                hint="Read it once, or write two flows: @dp.append_flow(target=...)",
            )
        found.offsets |= backlog.offsets
        if backlog.waiting:
            found.notes.append(
                f"{backlog.waiting:,} messages wait for a later run (maxOffsetsPerTrigger)"
            )
    return found


def _reads(query: Query, graph: Graph) -> list[KafkaRead]:
    found = list(query.messages)
    for name in query.tables:
        inner = graph.nodes.get(name)
        if inner is not None and inner.dataset.kind is Kind.TEMPORARY_VIEW:
            for view in inner.queries:
                found += [read for read in _reads(view, graph) if read not in found]
    return found
