"""Columns of JSON lines and CSV files, found in a sample, as Spark's readers find them."""

from __future__ import annotations

import csv
import io
import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Union

__all__ = ["infer"]

# A name, None for not known yet, the columns of a struct, or the element of an array.
Type = Union[str, dict[str, "Type"], list["Type"], None]  # noqa: UP007  (a quoted name takes no |)

_NUMBERS = ("bigint", "double")
_FILES = 10
_LINES = 1000


def infer(kind: str, options: Mapping[str, str], paths: Sequence[str]) -> str:
    """The columns as DDL, from the first lines of the first files; empty when there are none.

    JSON columns get the narrowest type that holds all sampled values, sorted by name. CSV columns
    are strings unless ``inferSchema`` is true. Auto Loader's default, strings for both, holds for
    ``cloudFiles`` unless ``cloudFiles.inferColumnTypes`` is true.

    Args:
        kind: ``json``, ``csv`` or ``text``.
        options: Reader options, names in lower case.
        paths: The files.
    """
    if kind.lower() == "text":
        return "value STRING"
    loader = "cloudfiles.format" in options
    typed = options.get("cloudfiles.infercolumntypes" if loader else "inferschema", "").lower()
    if kind.lower() == "json":
        return _json(paths, typed=typed == "true" or not loader)
    return _csv(paths, options, typed=typed == "true")


def _sample(path: str) -> list[str]:
    import pyarrow as pa

    with (
        pa.input_stream(path, compression="detect") as stream,
        io.TextIOWrapper(stream, encoding="utf-8-sig", errors="replace") as text,
    ):
        return [line for line in itertools.islice(text, _LINES) if line.strip()]


def _json(paths: Sequence[str], *, typed: bool) -> str:
    kinds: dict[str, Type] = {}
    for line in itertools.chain.from_iterable(_sample(path) for path in paths[:_FILES]):
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(row, dict):
            for name, value in row.items():
                kinds[name] = _wider(kinds.get(name), _kind(value))
    return ", ".join(
        f"`{name}` {_ddl(kind) if typed else 'string'}" for name, kind in sorted(kinds.items())
    )


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
    return "double" if one in _NUMBERS and other in _NUMBERS else "string"


def _ddl(kind: Type) -> str:
    if isinstance(kind, dict):
        inner = ", ".join(f"`{name}`: {_ddl(part)}" for name, part in sorted(kind.items()))
        return f"struct<{inner}>"
    if isinstance(kind, list):
        return f"array<{_ddl(kind[0])}>"
    return kind or "string"


def _csv(paths: Sequence[str], options: Mapping[str, str], *, typed: bool) -> str:
    separator = options.get("sep", options.get("delimiter", ","))
    rows: list[list[str]] = []
    names: list[str] = []
    for path in paths[:_FILES]:
        found = list(csv.reader(_sample(path), delimiter=separator))
        if options.get("header", "false").lower() == "true" and found:
            names = names or found[0]
            found = found[1:]
        rows += found
    if not names and rows:
        names = [f"_c{index}" for index in range(len(rows[0]))]
    kinds: list[Type] = [None] * len(names)
    if typed:
        for row in rows:
            for index, text in enumerate(row[: len(names)]):
                kinds[index] = _wider(kinds[index], _text_kind(text))
    return ", ".join(f"`{n}` {_ddl(k)}" for n, k in zip(names, kinds, strict=True))


def _text_kind(text: str) -> str | None:
    if not text:
        return None
    if text.lower() in {"true", "false"}:
        return "boolean"
    for kind, read in (("bigint", int), ("double", float)):
        try:
            read(text)
        except ValueError:
            continue
        return kind
    return "string"
