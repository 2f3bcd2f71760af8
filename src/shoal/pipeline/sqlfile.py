"""SQL sources: ``CREATE STREAMING TABLE``, ``MATERIALIZED VIEW``, ``TEMPORARY VIEW`` and ``FLOW``.

Grammar: Spark Declarative Pipelines SQL, with Databricks' ``CONSTRAINT ... EXPECT``, ``AUTO CDC``
and the older ``LIVE`` words. Only the frame of a statement is read here; the query itself goes to
the engine as it is written.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from shoal.errors import PipelineError, ShoalError
from shoal.pipeline.definitions import Dataset, Flow, Kind
from shoal.pipeline.sqlcdc import read_cdc
from shoal.pipeline.sqlcolumns import read_columns
from shoal.pipeline.sqltext import Reader, substituted

if TYPE_CHECKING:
    from sqlglot.tokenizer_core import Token

    from shoal.lake import Lake

__all__ = ["parse_file"]

_KINDS = {
    "STREAMING TABLE": Kind.STREAMING_TABLE,
    "STREAMING LIVE TABLE": Kind.STREAMING_TABLE,
    "MATERIALIZED VIEW": Kind.MATERIALIZED_VIEW,
    "LIVE TABLE": Kind.MATERIALIZED_VIEW,
    "TEMPORARY VIEW": Kind.TEMPORARY_VIEW,
    "TEMP VIEW": Kind.TEMPORARY_VIEW,
    "TEMPORARY LIVE VIEW": Kind.TEMPORARY_VIEW,
    "TEMPORARY STREAMING LIVE VIEW": Kind.TEMPORARY_VIEW,
    "LIVE VIEW": Kind.TEMPORARY_VIEW,
    "STREAMING LIVE VIEW": Kind.TEMPORARY_VIEW,
}
_ELSEWHERE = {"LOCATION", "PATH", "SCHEDULE", "TRIGGER"}


def parse_file(
    text: str,
    shown: str,
    lake: Lake,
    configuration: Mapping[str, str] = MappingProxyType({}),
) -> tuple[list[Dataset], list[Flow]]:
    """Reads the statements of a SQL file.

    Args:
        text: The file's text.
        shown: Its path for messages.
        lake: Gives names their schema.
        configuration: Values for ``${key}``.

    Raises:
        PipelineError: A statement is none of those that a pipeline may have.
    """
    import sqlglot
    from sqlglot.errors import SqlglotError

    text = substituted(text, shown, configuration)
    try:
        tokens = sqlglot.tokenize(text, dialect="databricks")
    except SqlglotError as error:
        raise PipelineError(f"{shown}: {error}", hint=f"Mend {shown}.") from error
    statements: list[list[Token]] = [[]]
    for token in tokens:
        if token.token_type.name == "SEMICOLON":
            statements.append([])
        else:
            statements[-1].append(token)
    datasets: list[Dataset] = []
    flows: list[Flow] = []
    for statement in filter(None, statements):
        reader = Reader(text, statement, f"{shown}:{statement[0].line}", lake)
        try:
            dataset, flow = _statement(reader)
        except ShoalError as error:
            if f"{shown}:" not in error.message:
                error.message = f"{reader.location}: {error.message}"
            raise
        datasets += [dataset] if dataset else []
        flows += [flow] if flow else []
    return datasets, flows


def _statement(reader: Reader) -> tuple[Dataset | None, Flow | None]:
    if reader.take("SET"):
        return None, None  # already in the text
    if reader.take("APPLY CHANGES INTO"):
        target = reader.name()
        return None, read_cdc(reader, target, str(target))
    if not reader.take("CREATE"):
        raise reader.error("CREATE")
    reader.take("OR REFRESH") or reader.take("OR REPLACE")
    if reader.take("FLOW"):
        return None, _flow(reader)
    for words in ("", "PRIVATE ", "TEMPORARY "):
        for name, kind in _KINDS.items():
            if reader.take(f"{words}{name}"):
                reader.take("IF NOT EXISTS")
                return _dataset(reader, kind)
    raise reader.error("STREAMING TABLE, MATERIALIZED VIEW, TEMPORARY VIEW or FLOW")


def _flow(reader: Reader) -> Flow:
    name = reader.next("a name")
    if reader.take("COMMENT"):
        reader.next("a comment")
    once = reader.take("AS AUTO CDC ONCE INTO") or reader.take("AS APPLY CHANGES ONCE INTO")
    if once or reader.take("AS AUTO CDC INTO") or reader.take("AS APPLY CHANGES INTO"):
        once = reader.take("ONCE") or once
        return read_cdc(reader, reader.name(), name, once=once)
    if not reader.take("AS INSERT INTO"):
        raise reader.error("AS INSERT INTO or AS AUTO CDC INTO")
    once = reader.take("ONCE")
    target = reader.name()
    reader.take("BY NAME")
    return Flow(name=name, target=target, query=reader.rest(), location=reader.location, once=once)


def _dataset(reader: Reader, kind: Kind) -> tuple[Dataset, Flow | None]:
    name = reader.name()
    settings: dict[str, Any] = {}
    while not reader.ended and not reader.sees("AS") and not reader.sees("FLOW AUTO CDC"):
        _clause(reader, settings)
    dataset = Dataset(name=name, kind=kind, location=reader.location, **settings)
    if reader.take("FLOW AUTO CDC"):
        return dataset, read_cdc(reader, name, str(name))
    if not reader.take("AS"):
        if kind is not Kind.STREAMING_TABLE:
            raise reader.error("AS and a query")
        return dataset, None
    flow = Flow(name=str(name), target=name, query=reader.rest(), location=reader.location)
    return dataset, flow


def _clause(reader: Reader, settings: dict[str, Any]) -> None:
    """Reads one clause between the name and the query into the dataset's settings."""
    if reader.word() == "(" and "expectations" not in settings:
        columns, expectations = read_columns(reader)
        settings["schema"] = ", ".join(columns) or None
        settings["expectations"] = tuple(expectations)
    elif reader.take("PARTITIONED BY"):
        settings["partition_by"] = tuple(reader.list_())
    elif reader.take("CLUSTER BY"):
        if not reader.take("AUTO") and not reader.take("NONE"):
            settings["cluster_by"] = tuple(reader.list_())
    elif reader.take("COMMENT"):
        settings["comment"] = reader.next("a comment")
    elif reader.take("TBLPROPERTIES"):
        settings["properties"] = dict(_pair(reader, text) for text in reader.list_())
    elif reader.word() in _ELSEWHERE:
        raise PipelineError(
            f"{reader.location}: a {reader.word()} clause is not supported in a pipeline.",
            hint="Remove it: the project's storage holds all tables, and shoal run refreshes them.",
        )
    elif not reader.take("USING DELTA"):
        raise reader.error("AS, PARTITIONED BY, CLUSTER BY, COMMENT or TBLPROPERTIES")


def _pair(reader: Reader, text: str) -> tuple[str, str]:
    key, sign, value = text.partition("=")
    if not sign:
        raise PipelineError(
            f"{reader.location}: expected 'key' = 'value' in TBLPROPERTIES, found '{text}'.",
            hint="Write: TBLPROPERTIES ('quality' = 'silver')",
        )
    return key, value
