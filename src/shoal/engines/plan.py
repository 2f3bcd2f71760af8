"""Reads in a Spark Connect plan: finding them, replacing them, and naming the plan's content.

Protocol: Spark Connect's ``relations.proto`` (a tree of ``Relation`` messages; a plan on the client
is unresolved, so tables are still names).
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from shoal.engines.functions import describe
from shoal.engines.sql import sql_qualifiers, sql_tables
from shoal.engines.sqlread import SqlSource, sql_sources
from shoal.errors import PipelineError

if TYPE_CHECKING:
    from google.protobuf.message import Message
    from pyspark.sql import DataFrame
    from pyspark.sql.connect.proto import Plan, Relation
    from pyspark.sql.connect.session import SparkSession

__all__ = [
    "ExecutionRefused",
    "FileRead",
    "KafkaRead",
    "Read",
    "TableRead",
    "dataframe",
    "fingerprint",
    "functions_of",
    "input_plan",
    "messages_of",
    "plan_of",
    "query_plan",
    "reads",
    "rewrite",
    "version_relation",
]


class ExecutionRefused(PipelineError):
    """A flow's function asks for rows while it should only say what to compute."""


@dataclass(frozen=True, kw_only=True)
class TableRead:
    """A table read by name.

    Args:
        name: The name as written, or ``delta.`path` `` of a table that is read by its folder.
        streaming: Read with ``readStream`` or ``STREAM``.
        options: Reader options, names in lower case.
    """

    name: str
    streaming: bool
    options: Mapping[str, str] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, kw_only=True)
class FileRead:
    """Files read by path.

    Args:
        format: For example ``json``; ``cloudFiles`` is already resolved to its file format.
        paths: Files, folders or globs, as written.
        schema: DDL or JSON of the declared columns; empty when none was declared.
        streaming: Read with ``readStream``.
        options: Reader options, names in lower case.
        metadata: The plan asks for ``_metadata``.
    """

    format: str
    paths: tuple[str, ...]
    schema: str
    streaming: bool
    options: Mapping[str, str] = field(default_factory=dict, hash=False)
    metadata: bool = False


@dataclass(frozen=True, kw_only=True)
class KafkaRead:
    """Messages read from Kafka.

    Args:
        options: Reader options as sorted pairs, names in lower case.
        streaming: Read with ``readStream`` or ``STREAM``.
    """

    options: tuple[tuple[str, str], ...] = field(repr=False)  # they may hold a password
    streaming: bool

    @classmethod
    def of(cls, options: Mapping[str, str], *, streaming: bool) -> KafkaRead:
        """A read by its options, or by the arguments of SQL's ``read_kafka``."""
        named = {key.lower(): text for key, text in options.items()}
        if "bootstrapservers" in named:
            named.setdefault("kafka.bootstrap.servers", named.pop("bootstrapservers"))
        return cls(options=tuple(sorted(named.items())), streaming=streaming)


_INPUT = re.compile(r"shoal_input_[0-9a-f]{12}_")  # as `_rewrite_sql` names them
_LIVE = re.compile(r"^`?live`?\.", re.IGNORECASE)  # Databricks' old word for "this pipeline"

Read = TableRead | FileRead | KafkaRead
Replace = Callable[[Read], "Relation | None"]


def plan_of(frame: DataFrame) -> Plan:
    """The unresolved plan of a DataFrame."""
    connected: Any = frame
    plan: Plan = connected._plan.to_proto(connected.sparkSession.client)
    return plan


def query_plan(text: str) -> Plan:
    """The unresolved plan of a SQL query."""
    from pyspark.sql.connect.proto import SQL, Plan, Relation

    return Plan(root=Relation(sql=SQL(query=text)))


def input_plan(tables: Mapping[str, bool]) -> Plan:
    """A plan that says which tables are read, and no more: for flows that no engine runs.

    Args:
        tables: Names, and whether the read streams.
    """
    from pyspark.sql.connect.proto import Plan, Relation, SetOperation
    from pyspark.sql.connect.proto import Read as ReadRelation

    found: Relation | None = None
    for name, streaming in tables.items():
        named = ReadRelation.NamedTable(unparsed_identifier=name)
        one = Relation(read=ReadRelation(named_table=named, is_streaming=streaming))
        if found is not None:
            kind = SetOperation.SET_OP_TYPE_UNION
            both = SetOperation(left_input=found, right_input=one, set_op_type=kind, is_all=True)
            one = Relation(set_op=both)
        found = one
    return Plan(root=found)


def dataframe(plan: Plan, spark: SparkSession) -> DataFrame:
    """A DataFrame over a plan, for example a rewritten one."""
    from pyspark.sql.connect.dataframe import DataFrame
    from pyspark.sql.connect.plan import LogicalPlan

    root = plan.root

    class Given(LogicalPlan):
        def plan(self, session: Any) -> Relation:
            del session
            return root

    return DataFrame(Given(None), spark)


def version_relation(path: str, version: int) -> Relation:
    """A Delta table at one version, to put in the place of a name."""
    from pyspark.sql.connect.proto import Read as ReadRelation
    from pyspark.sql.connect.proto import Relation

    source = ReadRelation.DataSource(
        format="delta", paths=[path], options={"versionAsOf": str(version)}
    )
    return Relation(read=ReadRelation(data_source=source))


def reads(plan: Plan) -> list[Read]:
    """What a plan reads, each source once, in order of appearance.

    Raises:
        PipelineError: SQL text inside the plan does not parse.
    """
    found: list[Read] = []

    def note(read: Read) -> None:
        if read not in found:
            found.append(read)

    rewrite(plan, note)
    return found


def rewrite(plan: Plan, replace: Replace) -> Plan:
    """A copy of the plan in which reads are replaced.

    Names inside SQL text are replaced by aliases that refer to the new relations (the protocol's
    ``WithRelations``), so the text keeps its meaning in any engine.

    Args:
        plan: The plan; it is not changed.
        replace: Gives the relation to read instead, or None to leave the read as it is.

    Raises:
        PipelineError: SQL text inside the plan does not parse.
    """
    from pyspark.sql.connect.proto import Plan

    copy = Plan()
    copy.CopyFrom(plan)
    metadata = b"_metadata" in plan.SerializeToString()
    bound = {
        reference.subquery_alias.alias.lower()
        for message in messages_of(plan)
        if message.DESCRIPTOR.name == "WithRelations"
        for reference in message.references
    }
    _rewrite(copy, replace, metadata, bound)
    return copy


def messages_of(message: Message) -> Iterator[Message]:
    """A message and all that are in it."""
    yield message
    for descriptor, value in message.ListFields():
        if descriptor.type != descriptor.TYPE_MESSAGE:
            continue
        for part in _parts(value):
            yield from messages_of(part)


def _parts(value: Any) -> list[Message]:
    """The messages in a message-typed field: one, a list, or a map's values."""
    if hasattr(value, "ListFields"):
        return [value]
    items = value.values() if hasattr(value, "items") else value
    return [item for item in items if hasattr(item, "ListFields")]


def _rewrite(message: Message, replace: Replace, metadata: bool, bound: set[str]) -> None:
    if message.DESCRIPTOR.name == "Relation":
        relation: Any = message
        kind = relation.WhichOneof("rel_type")
        if kind == "read":
            new = replace(_read(relation.read, metadata))
            if new is not None:
                _put(relation, new)
            return
        if kind == "sql":
            _rewrite_sql(relation, replace, bound)
            return
    for descriptor, value in message.ListFields():
        if descriptor.type != descriptor.TYPE_MESSAGE:
            continue
        for part in _parts(value):
            _rewrite(part, replace, metadata, bound)


def _put(relation: Any, new: Relation) -> None:
    # Columns picked from a DataFrame (df["x"]) refer to its plan id: the new relation keeps it.
    plan_id = relation.common.plan_id if relation.common.HasField("plan_id") else None
    relation.CopyFrom(new)
    if plan_id is not None:
        relation.common.plan_id = plan_id


def _read(read: Any, metadata: bool) -> Read:
    if read.WhichOneof("read_type") == "named_table":
        return TableRead(
            name=_LIVE.sub("", read.named_table.unparsed_identifier),
            streaming=read.is_streaming,
            options={key.lower(): text for key, text in read.named_table.options.items()},
        )
    source = read.data_source
    options = {key.lower(): text for key, text in source.options.items()}
    kind = source.format or "parquet"
    if kind.lower() == "kafka":
        return KafkaRead.of(options, streaming=read.is_streaming)
    if kind.lower() == "cloudfiles":
        kind = options.get("cloudfiles.format", "json")
    paths = tuple(source.paths) or ((options["path"],) if "path" in options else ())
    if kind.lower() == "delta" and len(paths) == 1:
        options.pop("path", None)
        return TableRead(name=f"delta.`{paths[0]}`", streaming=read.is_streaming, options=options)
    return FileRead(
        format=kind,
        paths=paths,
        schema=source.schema,
        streaming=read.is_streaming,
        options=options,
        metadata=metadata,
    )


def _rewrite_sql(relation: Any, replace: Replace, bound: set[str]) -> None:
    from pyspark.sql.connect.proto import Relation, SubqueryAlias, WithRelations

    text = relation.sql.query
    edits: list[tuple[int, int, str]] = []
    references: list[Relation] = []

    # Spark makes views of the session of them, which other threads' queries must not meet.
    own = secrets.token_hex(6)

    def put(new: Relation, start: int, end: int, name: str) -> None:
        alias = f"shoal_input_{own}_{len(references)}"
        reference = Relation(subquery_alias=SubqueryAlias(input=new, alias=alias))
        reference.common.plan_id = secrets.randbits(48)  # the client's own ids count from zero
        references.append(reference)
        edits.append((start, end, f"{alias} AS `{name}`" if name else alias))

    for source in sql_sources(text):
        new = replace(_source_read(source, "_metadata" in text))
        if new is not None:
            put(new, source.start, source.end, "")
    for mention in sql_tables(text):
        if mention.name.lower() in bound:
            continue
        new = replace(
            TableRead(name=mention.name, streaming=mention.streaming, options=mention.options)
        )
        if new is None:
            continue
        # Columns may be qualified by the table's own last name: keep it as the alias.
        plain = not mention.aliased and "`" not in mention.name
        name = mention.name.split(".")[-1] if plain else ""
        put(new, mention.start, mention.end, name)
    if not references:
        return
    edits += [(start, end, "") for start, end in sql_qualifiers(text)]
    pieces: list[str] = []
    at = 0
    for start, end, new_text in sorted(edits):
        pieces += [text[at:start], new_text]
        at = end
    root = Relation()
    root.CopyFrom(relation)
    root.sql.query = "".join([*pieces, text[at:]])
    relation.with_relations.CopyFrom(WithRelations(root=root, references=references))


def _source_read(source: SqlSource, metadata: bool) -> Read:
    if source.table:
        return TableRead(name=source.table, streaming=source.streaming, options=source.options)
    if source.kafka:
        return KafkaRead.of(source.options, streaming=source.streaming)
    return FileRead(
        format=source.options["cloudfiles.format"],
        paths=(source.path,),
        schema=source.options.get("schema", ""),
        streaming=source.streaming,
        options={key: text for key, text in source.options.items() if key != "schema"},
        metadata=metadata,
    )


def fingerprint(plan: Plan) -> str:
    """A name for what the plan says, the same in every process.

    Numbers that the client counts up (plan ids) and the inputs' own names are left out, and Python
    functions count by their code, not by their serialised bytes.
    """
    from pyspark.sql.connect.proto import Plan

    copy = Plan()
    copy.CopyFrom(plan)
    numbers: dict[int, int] = {}
    functions: list[str] = []
    for message in messages_of(copy):
        name = message.DESCRIPTOR.name
        fields: Any = message
        if name == "RelationCommon":
            fields.ClearField("source_info")
            fields.ClearField("origin")
        if "plan_id" in message.DESCRIPTOR.fields_by_name and fields.HasField("plan_id"):
            fields.plan_id = numbers.setdefault(fields.plan_id, len(numbers))
        if name == "ExpressionCommon":
            fields.Clear()
        if name == "SQL":
            fields.query = _INPUT.sub("shoal_input_", fields.query)
        if name == "SubqueryAlias":
            fields.alias = _INPUT.sub("shoal_input_", fields.alias)
        if name == "PythonUDF":
            functions.append(function_text(fields.command))
            fields.command = b""
    digest = hashlib.sha256(copy.SerializeToString(deterministic=True))
    for text in functions:
        digest.update(text.encode())
    return digest.hexdigest()


def functions_of(plan: Plan) -> list[str]:
    """The names of the Python functions that a plan maps over rows."""
    found = []
    for message in messages_of(plan):
        if message.DESCRIPTOR.name == "CommonInlineUserDefinedFunction":
            function: Any = message
            found.append(str(function.function_name))
    return found


def function_text(command: bytes) -> str:
    """A Python function by its code, constants and names (the pickled bytes vary by process)."""
    from pyspark import cloudpickle

    loaded = cloudpickle.loads(command)
    return describe(loaded[0] if isinstance(loaded, tuple) else loaded)
