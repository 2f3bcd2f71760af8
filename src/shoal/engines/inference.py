"""Columns of JSON and CSV files, found in a sample, as Spark's readers find them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Union

from shoal.engines.blocks import encoding_of, readable
from shoal.engines.csvlines import Dialect, split_fields, split_records
from shoal.engines.fileoptions import loader_option

__all__ = ["infer", "text_type"]

# A name, None for not known yet, the columns of a struct, or the element of an array.
Type = Union[str, dict[str, "Type"], list["Type"], None]  # noqa: UP007  (a quoted name takes no |)

_NUMBERS = ("bigint", "double")
_TIMES = ("date", "timestamp")
_FILE_BYTES = 2 * 1024 * 1024
_ALL_BYTES = 32 * 1024 * 1024
_INTEGER = re.compile(r"[+-]?\d+")
_FLOAT = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?(inf|infinity)|nan", re.IGNORECASE)
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
_TIME = re.compile(r"\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}(:\d{2}(\.\d{1,9})?)?(Z|[+-]\d{2}:?\d{2})?")


def infer(kind: str, options: Mapping[str, str], paths: Sequence[str]) -> str:
    """The columns as DDL, from the beginnings of the files; empty when there are none.

    JSON columns get the narrowest type that holds all sampled values, sorted by name. CSV columns
    are strings unless ``inferSchema`` is true. Auto Loader's default, strings for both, holds for
    ``cloudFiles`` unless ``cloudFiles.inferColumnTypes`` is true.

    Args:
        kind: ``json``, ``csv`` or ``text``.
        options: Reader options, names in lower case.
        paths: The files.

    Raises:
        PipelineError: A file cannot be read.
    """
    if kind.lower() == "text":
        return "value STRING"
    loader = "cloudfiles.format" in options
    typed = (loader_option(options, "inferColumnTypes") if loader else None) or options.get(
        "inferschema", "" if loader or kind.lower() == "csv" else "true"
    )
    if options.get("primitivesasstring", "false").lower() == "true":
        typed = "false"
    if kind.lower() == "json":
        return _json(_samples(paths, options), options, typed=typed.lower() == "true")
    return _csv(_samples(paths, options), options, typed=typed.lower() == "true")


def _samples(paths: Sequence[str], options: Mapping[str, str]) -> Iterator[str]:
    """The first part of each file as text, whole lines of it."""
    left = _ALL_BYTES
    whole = options.get("multiline", "false").lower() == "true"
    for path in paths:
        if left <= 0:
            return
        with readable(path) as stream:
            data = stream.read() if whole else stream.read(_FILE_BYTES)
            more = not whole and bool(stream.read(1))
        left -= len(data)
        text = data.decode(encoding_of(options), "replace").removeprefix("\ufeff")
        yield text.rpartition("\n")[0] if more else text


def _json(samples: Iterator[str], options: Mapping[str, str], *, typed: bool) -> str:
    kinds: dict[str, Type] = {}
    whole = options.get("multiline", "false").lower() == "true"
    for text in samples:
        for row in _objects([text] if whole else text.split("\n")):
            for name, value in row.items():
                kinds[name] = _wider(kinds.get(name), _kind(value))
    return ", ".join(
        f"{_quoted(name)} {_ddl(kind) if typed else 'string'}"
        for name, kind in sorted(kinds.items())
    )


def _quoted(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"


def _objects(texts: Sequence[str]) -> Iterator[dict[str, object]]:
    for text in texts:
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            continue
        for row in found if isinstance(found, list) and len(texts) == 1 else [found]:
            if isinstance(row, dict):
                yield row


def _kind(value: object) -> Type:
    if isinstance(value, dict):
        return {name: _kind(inner) for name, inner in value.items()} or "string"
    if isinstance(value, list):
        element: Type = None
        for item in value:
            element = _wider(element, _kind(item))
        return [element]
    if isinstance(value, int) and not isinstance(value, bool) and not -(2**63) <= value < 2**63:
        return "double"
    atoms = {bool: "boolean", int: "bigint", float: "double", type(None): None}
    return atoms.get(type(value), "string")


def _wider(one: Type, other: Type) -> Type:
    """The narrowest type that holds values of both."""
    if one is None or other is None or one == other:
        return other if one is None else one
    if isinstance(one, dict) and isinstance(other, dict):
        return {name: _wider(one.get(name), other.get(name)) for name in {**one, **other}}
    if isinstance(one, list) and isinstance(other, list):
        return [_wider(one[0], other[0])]
    if one in _TIMES and other in _TIMES:
        return "timestamp"
    return "double" if one in _NUMBERS and other in _NUMBERS else "string"


def _ddl(kind: Type) -> str:
    if isinstance(kind, dict):
        inner = ", ".join(f"{_quoted(n)}: {_ddl(part)}" for n, part in sorted(kind.items()))
        return f"struct<{inner}>"
    if isinstance(kind, list):
        return f"array<{_ddl(kind[0])}>"
    return kind or "string"


def _csv(samples: Iterator[str], options: Mapping[str, str], *, typed: bool) -> str:
    dialect = Dialect(dict(options))
    by_name = "cloudfiles.format" in options and dialect.header
    kinds: dict[str, Type] = {}
    names: list[str] = []
    for text in samples:
        rows = _rows(text, options, dialect)
        if dialect.header and rows:
            header, *rows = rows
            if by_name or not names:
                names = header
        elif rows and not names:
            names = [f"_c{index}" for index in range(len(rows[0]))]
        for name in names:
            kinds.setdefault(name, None)
        for row in rows if typed else ():
            for name, word in zip(names, row, strict=False):
                if word and word != dialect.null:
                    kinds[name] = _wider(kinds[name], text_type(word))
    return ", ".join(f"{_quoted(name)} {_ddl(kind)}" for name, kind in kinds.items())


def _rows(text: str, options: Mapping[str, str], dialect: Dialect) -> list[list[str]]:
    text = text.replace("\r\n", "\n")
    if options.get("multiline", "false").lower() == "true":
        records = split_records(text, dialect) or []
    else:
        lines = (line for line in text.split("\n") if line.strip())
        kept = (
            line for line in lines if not dialect.comment or not line.startswith(dialect.comment)
        )
        records = [record for line in kept if (record := split_fields(line, dialect))]
    return [[word for word, _ in record] for record in records]


def text_type(text: str) -> str:
    """The narrowest type that takes a text.

    Args:
        text: A value, not empty.
    """
    if text.lower() in {"true", "false"}:
        return "boolean"
    if _INTEGER.fullmatch(text) and text.isascii():
        return "bigint" if -(2**63) <= int(text) < 2**63 else "double"
    if _FLOAT.fullmatch(text) and text.isascii():
        return "double"
    if _DATE.fullmatch(text):
        return "date"
    if _TIME.fullmatch(text):
        return "timestamp"
    return "string"
