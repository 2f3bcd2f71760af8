"""The tables that a SQL text names, with their places in the text."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from shoal.errors import PipelineError

if TYPE_CHECKING:
    from sqlglot import exp
    from sqlglot.tokenizer_core import Token

__all__ = ["SqlTable", "parse_sql", "sql_qualifiers", "sql_tables"]


@dataclass(frozen=True, kw_only=True)
class SqlTable:
    """One mention of a table in a query.

    Args:
        name: The name as written, dots between the parts, no backquotes.
        start: Offset of its first character in the text, with a ``STREAM(`` before it.
        end: Offset behind its last character, with the closing ``)``.
        streaming: Written as ``STREAM(name)`` or ``STREAM name``.
        aliased: The query gives it an alias.
        options: ``versionasof`` or ``timestampasof``, where the query asks for an older version.
    """

    name: str
    start: int
    end: int
    streaming: bool
    aliased: bool
    options: Mapping[str, str] = field(default_factory=dict)


def parse_sql(text: str) -> exp.Expression:
    """Parses one query in Spark's dialect.

    Raises:
        PipelineError: It does not parse; the message has the place.
    """
    import sqlglot
    from sqlglot.errors import SqlglotError

    try:
        found = sqlglot.parse_one(text, dialect="databricks")
    except SqlglotError as error:
        raise PipelineError(f"This SQL does not parse: {_short(error)}") from error
    return found  # type: ignore[return-value]


def _short(error: Exception) -> str:
    # sqlglot underlines the place with terminal codes; a plain sentence travels better.
    return str(error).replace("\x1b[4m", ">>>").replace("\x1b[0m", "<<<").strip()


def sql_tables(text: str) -> list[SqlTable]:
    """Every mention of a stored table in a query; common table expressions are left out.

    Raises:
        PipelineError: The text does not parse.
    """
    import sqlglot
    from sqlglot import exp

    tree = parse_sql(text)
    tokens = sqlglot.tokenize(text, dialect="databricks")
    by_start = {token.start: index for index, token in enumerate(tokens)}
    by_end = {token.end: index for index, token in enumerate(tokens)}
    found = []
    for table in tree.find_all(exp.Table):
        parts = table.parts
        if not all(isinstance(part, exp.Identifier) for part in parts):
            continue
        if len(parts) == 1 and _is_cte(table):
            continue
        start, end = parts[0].meta["start"], parts[-1].meta["end"] + 1
        first, last = by_start[start], by_end[end - 1]
        streaming = False
        before = [token.text.upper() for token in tokens[max(0, first - 2) : first]]
        if before[-1:] == ["STREAM"]:
            streaming, start = True, tokens[first - 1].start
        elif before == ["STREAM", "("] and tokens[last + 1].text == ")":
            streaming, start, end = True, tokens[first - 2].start, tokens[last + 1].end + 1
            last += 1
        options, more = _time_travel(tokens[last + 1 :])
        if more:
            last += more
            end = tokens[last].end + 1
        following = tokens[last + 1].token_type.name if last + 1 < len(tokens) else ""
        aliased = bool(table.alias) or following in {"ALIAS", "VAR", "IDENTIFIER"}
        found.append(
            SqlTable(
                name=_written(parts),
                start=start,
                end=end,
                streaming=streaming,
                aliased=aliased,
                options=options,
            )
        )
    return sorted(found, key=lambda mention: mention.start)


def _written(parts: Sequence[Any]) -> str:
    names = [part.name for part in parts]
    if len(names) == 2 and names[0].lower() == "delta":  # a table by its folder
        return f"delta.`{names[1]}`"
    return ".".join(names)


def _time_travel(tokens: Sequence[Token]) -> tuple[dict[str, str], int]:
    """``VERSION AS OF 3``, ``TIMESTAMP AS OF '...'`` or ``@v3`` as options; how many tokens.

    Raises:
        PipelineError: The version is no literal.
    """
    words = [token.text.upper() for token in tokens[:6]]
    if words[:1] == ["@"] and re.fullmatch(r"V\d+", "".join(words[1:2])):
        return {"versionasof": words[1][1:]}, 2
    at = 1 if words[:1] == ["FOR"] else 0
    kinds = {"VERSION": "versionasof", "SYSTEM_VERSION": "versionasof"}
    kinds |= {"TIMESTAMP": "timestampasof", "SYSTEM_TIME": "timestampasof"}
    if words[at + 1 : at + 3] != ["AS", "OF"] or words[at] not in kinds:
        return {}, 0
    given = at + 3
    if words[given : given + 1] in (["DATE"], ["TIMESTAMP"]):
        given += 1
    literal = tokens[given] if given < len(tokens) else None
    if literal is None or literal.token_type.name not in {"NUMBER", "STRING"}:
        raise PipelineError(
            f"{' '.join(words[at : at + 3])} needs a number or a time in quotes.",
            hint="For example VERSION AS OF 3, or TIMESTAMP AS OF '2026-11-23 18:00:00'.",
        )
    return {kinds[words[at]]: literal.text}, given + 1


def _is_cte(table: exp.Table) -> bool:
    from sqlglot import exp

    name = table.name.lower()
    inside: Any = table
    scope: Any = table.parent
    while scope is not None:
        clause = scope.args.get("with_") or scope.args.get("with")
        if isinstance(scope, exp.With):
            # One of its queries: it sees those before it, itself only where it is recursive.
            earlier = itertools.takewhile(lambda cte: cte is not inside, scope.expressions)  # noqa: B023
            visible = scope.expressions if scope.recursive else list(earlier)
        else:
            seen = isinstance(clause, exp.With) and clause is not inside
            visible = clause.expressions if seen else []
        if any(cte.alias.lower() == name for cte in visible):
            return True
        inside, scope = scope, scope.parent
    return False


def sql_qualifiers(text: str) -> list[tuple[int, int]]:
    """Places of the schema in ``schema.table.column``, with its dot, for tables without an alias.

    Args:
        text: A query that parses.
    """
    from sqlglot import exp

    tree = parse_sql(text)
    plain = {
        ".".join(part.name.lower() for part in table.parts)
        for table in tree.find_all(exp.Table)
        if len(table.parts) > 1 and not table.alias
    }
    found = []
    for column in tree.find_all(exp.Column):
        *qualifier, _ = column.parts
        if len(qualifier) > 1 and ".".join(part.name.lower() for part in qualifier) in plain:
            found.append((qualifier[0].meta["start"], qualifier[-1].meta["start"]))
    return sorted(found)
