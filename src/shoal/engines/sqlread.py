"""Table functions in SQL text that read files, messages or a table's changes.

``read_files`` and ``read_kafka`` are Databricks' functions, ``cloud_files`` the older name of a
streaming ``read_files``. Their arguments are literals, so what they read is known from the text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shoal.errors import PipelineError, nearest

if TYPE_CHECKING:
    from sqlglot.tokenizer_core import Token

__all__ = ["SqlSource", "sql_sources"]

_FUNCTIONS = {"read_files", "cloud_files", "read_kafka", "table_changes"}
# Arguments that are options of the Auto Loader itself; the others are the format's reader options.
_LOADER = {
    "allowoverwrites",
    "includeexistingfiles",
    "infercolumntypes",
    "maxbytespertrigger",
    "maxfilespertrigger",
    "partitioncolumns",
    "schemaevolutionmode",
    "schemahints",
    "schemalocation",
}
_RENAMED = {"filenamepattern": "pathglobfilter", "globfilter": "pathglobfilter"}


@dataclass(frozen=True, kw_only=True)
class SqlSource:
    """One call of a table function.

    Args:
        kafka: It reads messages, not files.
        path: The files' path; empty for messages.
        options: Reader options, names in lower case; ``cloudfiles.format`` is the files' format.
        streaming: Written with ``STREAM``, or as ``cloud_files``.
        start: Offset of its first character in the text, with the ``STREAM`` before it.
        end: Offset behind its last character.
        table: The table whose changes it reads; else empty.
    """

    kafka: bool
    path: str
    options: Mapping[str, str]
    streaming: bool
    start: int
    end: int
    table: str = ""


def sql_sources(text: str) -> list[SqlSource]:
    """Every call of ``read_files``, ``cloud_files`` or ``read_kafka`` in a query that parses.

    Raises:
        PipelineError: An argument is no literal, or the path is missing.
    """
    lowered = text.lower()
    if not any(name in lowered for name in _FUNCTIONS):
        return []
    import sqlglot

    tokens = sqlglot.tokenize(text, dialect="databricks")
    return [
        _source(tokens, index)
        for index, token in enumerate(tokens[:-1])
        if token.text.lower() in _FUNCTIONS
        and token.token_type.name != "STRING"
        and tokens[index + 1].text == "("
    ]


def _source(tokens: Sequence[Token], first: int) -> SqlSource:
    name = tokens[first].text.lower()
    last = _closing(tokens, first + 1)
    positional, options = _arguments(tokens[first + 2 : last], name)
    before = [token.text.upper() for token in tokens[max(0, first - 2) : first]]
    start, end = first, last
    streaming = name == "cloud_files"
    if before[-1:] == ["STREAM"]:
        streaming, start = True, first - 1
    elif before == ["STREAM", "("]:
        streaming, start, end = True, first - 2, last + 1
    table = ""
    if name == "table_changes":
        table, options = _changes(positional, options)
    elif name != "read_kafka":
        path = options.pop("path", "") or (positional[0] if positional else "")
        kind = options.pop("format", "") or (positional[1] if len(positional) > 1 else "")
        if not path:
            raise _wrong(name, "has no path")
        options = _file_options(options, kind)
    return SqlSource(
        kafka=name == "read_kafka",
        path=path if name not in {"read_kafka", "table_changes"} else "",
        options=options,
        streaming=streaming,
        start=tokens[start].start,
        end=tokens[end].end + 1,
        table=table,
    )


def _changes(given: Sequence[str], named: Mapping[str, str]) -> tuple[str, dict[str, str]]:
    """The table of ``table_changes(table, start [, end])``, and the options that say the same.

    A whole number is a version, any other text a time.
    """
    if named or len(given) not in {2, 3}:
        raise _wrong("table_changes", "takes a table, a first version or time, and maybe a last")
    table, *bounds = given
    options = {"readchangefeed": "true"}
    for word, bound in zip(("starting", "ending"), bounds, strict=False):
        options[f"{word}{'version' if bound.isdigit() else 'timestamp'}"] = bound
    return table, options


def _closing(tokens: Sequence[Token], opening: int) -> int:
    depth = 0
    for index in range(opening, len(tokens)):
        depth += {"L_PAREN": 1, "R_PAREN": -1}.get(tokens[index].token_type.name, 0)
        if depth == 0:
            return index
    raise PipelineError("This SQL does not parse: a ')' is missing.")


def _arguments(tokens: Sequence[Token], name: str) -> tuple[list[str], dict[str, str]]:
    """Literals by position, and by name: ``name => literal`` or pairs of ``map(...)``."""
    positional: list[str] = []
    named: dict[str, str] = {}
    at = 0
    while at < len(tokens):
        if tokens[at].text.lower() == "map":
            close = _closing(tokens, at + 1)
            pairs, _ = _arguments(tokens[at + 2 : close], name)
            named |= {k.lower(): v for k, v in zip(pairs[::2], pairs[1::2], strict=False)}
            at = close + 1
        else:
            key = ""
            if at + 1 < len(tokens) and tokens[at + 1].text == "=>":
                key, at = tokens[at].text.lower(), at + 2
            sign = ""
            if at < len(tokens) and tokens[at].text == "-":
                sign, at = "-", at + 1
            if at >= len(tokens):
                raise _wrong(name, f"has no value for '{key}'")
            if tokens[at].token_type.name not in {"STRING", "NUMBER", "TRUE", "FALSE"}:
                raise _wrong(name, f"has an argument that is no literal ('{tokens[at].text}')")
            value = sign + tokens[at].text
            if tokens[at].token_type.name in {"TRUE", "FALSE"}:
                value = value.lower()
            at += 1
            if key:
                named[key] = value
            else:
                positional.append(value)
        if at < len(tokens) and tokens[at].text != ",":
            raise _wrong(name, f"has an argument that is no literal ('{tokens[at].text}')")
        at += 1
    return positional, named


def _file_options(given: Mapping[str, str], kind: str) -> dict[str, str]:
    options: dict[str, str] = {}
    for key, value in given.items():
        plain = key.removeprefix("cloudfiles.")
        plain = _RENAMED.get(plain, plain)
        options[f"cloudfiles.{plain}" if plain in _LOADER or plain == "format" else plain] = value
    if kind:
        options["cloudfiles.format"] = kind.lower()
    if "cloudfiles.format" not in options:
        raise PipelineError(
            "read_files(...) has no format.",
            hint="Write: read_files('path', format => 'json')",
        )
    close = nearest(options["cloudfiles.format"], _FORMATS)
    if options["cloudfiles.format"] not in _FORMATS:
        raise PipelineError(
            f"read_files(...) has the format '{options['cloudfiles.format']}'; known are "
            f"{', '.join(_FORMATS)}.",
            hint=f"Did you mean '{close}'?" if close else "Write: format => 'json'",
        )
    return options


_FORMATS = ("avro", "binaryfile", "csv", "json", "parquet", "text")


def _wrong(name: str, what: str) -> PipelineError:
    if name == "table_changes":
        return PipelineError(f"{name}(...) {what}.", hint="Write: table_changes('silver.t', 2)")
    example = (
        "read_kafka(bootstrapServers => 'host:9092', subscribe => 'topic')"
        if name == "read_kafka"
        else "read_files('path', format => 'json', schemaHints => 'id BIGINT')"
    )
    return PipelineError(f"{name}(...) {what}.", hint=f"Write: {example}")
