"""Columns of JSON lines and CSV files, found in a sample, as Spark's readers find them."""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

__all__ = ["infer"]

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
    with Path(path).open(encoding="utf-8", errors="replace") as stream:
        return [line for line in itertools.islice(stream, _LINES) if line.strip()]


def _json(paths: Sequence[str], *, typed: bool) -> str:
    kinds: dict[str, str | None] = {}
    for line in itertools.chain.from_iterable(_sample(path) for path in paths[:_FILES]):
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(row, dict):
            for name, value in row.items():
                kinds[name] = _wider(kinds.get(name), _kind(value))
    return ", ".join(
        f"`{name}` {(kind if typed else None) or 'string'}" for name, kind in sorted(kinds.items())
    )


def _kind(value: object) -> str | None:
    if isinstance(value, dict) and value:
        inner = ", ".join(f"`{k}`: {_kind(v) or 'string'}" for k, v in sorted(value.items()))
        return f"struct<{inner}>"
    if isinstance(value, list):
        element: str | None = None
        for item in value:
            element = _wider(element, _kind(item))
        return f"array<{element or 'string'}>"
    atoms = {bool: "boolean", int: "bigint", float: "double", type(None): None}
    return atoms.get(type(value), "string")


def _wider(one: str | None, other: str | None) -> str | None:
    if one is None or other is None or one == other:
        return one or other
    return "double" if {one, other} == {"bigint", "double"} else "string"


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
    kinds: list[str | None] = [None] * len(names)
    if typed:
        for row in rows:
            for index, text in enumerate(row[: len(names)]):
                kinds[index] = _wider(kinds[index], _text_kind(text))
    return ", ".join(f"`{n}` {k or 'string'}" for n, k in zip(names, kinds, strict=True))


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
