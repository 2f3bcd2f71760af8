"""JSON text as rows: whole blocks at once where every line is well-formed, else line by line."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from shoal.engines.layout import Layout, Number, Parsed, json_text
from shoal.engines.values import Patterns, patterns_of, read_value, typed

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["JsonBlocks", "json_values"]

_CONFLICT = re.compile(r"Column\(/([^/]*)\) changed from ")
_CHUNK = 1 << 20
_LOADS = json.JSONDecoder(parse_int=Number, parse_float=Number, parse_constant=Number).decode


class JsonBlocks:
    """Reads blocks of JSON lines.

    Args:
        layout: The columns.
    """

    def __init__(self, layout: Layout) -> None:
        import pyarrow as pa

        self.layout = layout
        self.patterns = patterns_of(layout.options)
        self.nested = {n: _reader(layout.types[n], layout, self.patterns) for n in layout.data}
        self.direct = all(_is_direct(layout.types[name], top=True) for name in layout.data)
        self.deep = any(pa.types.is_nested(layout.types[name]) for name in layout.data)
        self.loose: set[str] = set()

    def parse(self, data: bytes) -> Parsed:
        """The rows of a block of whole lines; blank ones are left out.

        Args:
            data: UTF-8 without a byte order mark, lines ended by a line feed.
        """
        found = self._quick(data) if self.direct else None
        return found if found is not None else self.parse_lines(data)

    def _quick(self, data: bytes) -> Parsed | None:
        """The block read at once; None unless each line is one object and all values fit."""
        data = data.strip(b"\n")
        rows = _objects(data) if not self.deep or b"Inf" not in data else 0
        table = self._table(data) if rows else None
        if table is None or table.num_rows != rows:
            return None
        columns: dict[str, Any] = {}
        for name in table.column_names:
            column = table.column(name).combine_chunks()
            wanted = self.layout.types.get(name) if name in self.layout.data else None
            if wanted is None:
                if self.layout.rescued and column.null_count < len(column):
                    return None
                continue
            fitting = self._fitted(column, wanted)
            if fitting is None:
                return None
            columns[name] = fitting
        return Parsed(rows=rows, columns=columns)

    def _fitted(self, column: pa.Array, wanted: pa.DataType) -> pa.Array | None:
        import pyarrow as pa
        import pyarrow.compute as pc

        kind = column.type
        if pa.types.is_floating(kind) and pc.any(pc.is_inf(column)).as_py():
            return None  # Arrow takes Inf for a number, which JSON's lenient readers do not
        if kind == wanted:
            return column
        if pa.types.is_string(wanted):
            # Of other types, the text that was written is not to be told from the value.
            same = pa.types.is_int64(kind) or pa.types.is_boolean(kind) or pa.types.is_null(kind)
            return pc.cast(column, wanted) if same else None
        if not pa.types.is_string(kind):
            return None
        values, misfit = typed(column, wanted, self.patterns)
        return None if misfit else values

    def _table(self, data: bytes) -> pa.Table | None:
        import pyarrow as pa
        import pyarrow.json as pj

        layout = self.layout
        while True:
            fields = [(n, _parsed_as(layout.types[n])) for n in layout.data if n not in self.loose]
            others = "infer" if layout.rescued or self.loose else "ignore"
            try:
                return pj.read_json(
                    pa.BufferReader(data),
                    read_options=pj.ReadOptions(block_size=_CHUNK),
                    parse_options=pj.ParseOptions(
                        explicit_schema=pa.schema(fields), unexpected_field_behavior=others
                    ),
                )
            except (pa.ArrowException, UnicodeDecodeError) as error:
                conflict = _CONFLICT.search(str(error))
                name = conflict.group(1) if conflict else None
                if name not in layout.data or name in self.loose:
                    return None
                if not pa.types.is_string(layout.types[name]):
                    return None
                self.loose.add(name)

    def parse_lines(self, data: bytes) -> Parsed:
        """The same rows as `parse` gives, with each line looked at on its own."""
        lines = [line for line in data.decode("utf-8", "replace").split("\n") if line.strip()]
        rows: list[Any] = []
        for line in lines:
            try:
                rows.append(_LOADS(line))
            except (ValueError, RecursionError):
                rows.append(None)
        return self.parse_rows(rows, lambda: lines)

    def parse_rows(self, rows: Sequence[Any], lines: Callable[[], Sequence[str]]) -> Parsed:
        """Rows from decoded values; those that are no objects count as malformed.

        Args:
            rows: Values as `json_values` decodes them.
            lines: Gives the rows' text.
        """
        parsed = Parsed(rows=len(rows), columns={}, lines=lines)
        parsed.bad = {index for index, row in enumerate(rows) if not isinstance(row, dict)}
        objects = [row if isinstance(row, dict) else {} for row in rows]
        for name in self.layout.data:
            given = [row.get(name) for row in objects]
            self._column(name, given, parsed)
        if self.layout.rescued:
            known = set(self.layout.data)
            for index, row in enumerate(objects):
                left = {k: v for k, v in row.items() if k not in known and v is not None}
                if left:
                    parsed.extra[index] = left
        return parsed

    def _column(self, name: str, given: list[Any], parsed: Parsed) -> None:
        import pyarrow as pa

        kind = self.layout.types[name]
        if pa.types.is_nested(kind):
            values = []
            for index, value in enumerate(given):
                found, fits = self.nested[name](value)
                if not fits:
                    parsed.misfits.setdefault(index, {})[name] = value
                values.append(found)
            parsed.columns[name] = pa.array(values, kind)
            return
        texts = _text_array([_text(value, kind) for value in given])
        column, misfit = typed(texts, kind, self.patterns)
        parsed.columns[name] = column
        if misfit:
            parsed.misfit(name, texts, column)
            for row, wrong in parsed.misfits.items():
                if name in wrong:
                    wrong[name] = given[row]


def _objects(data: bytes) -> int:
    """The number of lines, if each begins and ends like an object; else 0."""
    import numpy as np

    if not data.startswith(b"{") or not data.endswith(b"}"):
        return 0
    letters = np.frombuffer(data, np.uint8)
    breaks = np.flatnonzero(letters == ord("\n"))
    whole = (letters[breaks + 1] == ord("{")).all() and (letters[breaks - 1] == ord("}")).all()
    return len(breaks) + 1 if whole else 0


def json_values(text: str) -> list[Any]:
    """The rows of a file that is one JSON value: an object, or an array of them.

    Raises:
        ValueError: It is no JSON.
    """
    value = _LOADS(text)
    return value if isinstance(value, list) else [value]


def _text_array(texts: list[str | None]) -> pa.Array:
    import pyarrow as pa

    try:
        return pa.array(texts, pa.string())
    except UnicodeEncodeError:  # half of a surrogate pair
        clean = (
            t and t.encode("utf-16", "surrogatepass").decode("utf-16", "replace") for t in texts
        )
        return pa.array(list(clean), pa.string())


def _text(value: Any, kind: pa.DataType) -> str | None:
    import pyarrow as pa

    if value is None:
        return None
    if isinstance(value, Number):
        if pa.types.is_timestamp(kind):  # as in Spark: seconds since 1970
            return _moment(value)
        return str(value)
    return value if isinstance(value, str) else json_text(value)


def _moment(seconds: str) -> str:
    import datetime as dt

    try:
        start = dt.datetime(1970, 1, 1)  # noqa: DTZ001
        return (start + dt.timedelta(seconds=float(seconds))).isoformat(" ")
    except (ValueError, OverflowError):
        return str(seconds)


def _is_direct(kind: pa.DataType, *, top: bool = False) -> bool:
    """Whether Arrow's parser gives values of the type as they are meant."""
    import pyarrow as pa

    if pa.types.is_map(kind):
        return False
    if pa.types.is_struct(kind):
        return all(_is_direct(kind.field(i).type) for i in range(kind.num_fields))
    if pa.types.is_list(kind):
        return _is_direct(kind.value_type)
    plain = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    return top or plain or pa.types.is_string(kind)


def _parsed_as(kind: pa.DataType) -> pa.DataType:
    import pyarrow as pa

    own = pa.types.is_nested(kind) or _is_direct(kind) or pa.types.is_decimal(kind)
    return kind if own else pa.string()


Reader = Callable[[Any], tuple[Any, bool]]


def _reader(kind: pa.DataType, layout: Layout, patterns: Patterns) -> Reader:
    """A function from a decoded value to one for Arrow, and whether all of it fits."""
    import pyarrow as pa

    if pa.types.is_struct(kind):
        fields = [kind.field(index) for index in range(kind.num_fields)]
        readers = {f.name: _reader(f.type, layout, patterns) for f in fields}
        return lambda value: _struct(value, readers, strict=layout.rescued is not None)
    if pa.types.is_map(kind):
        item = _reader(kind.item_type, layout, patterns)
        return lambda value: _map(value, item)
    if pa.types.is_list(kind):
        element = _reader(kind.value_type, layout, patterns)
        return lambda value: _list(value, element)
    read = read_value(kind, patterns)

    def leaf(value: Any) -> tuple[Any, bool]:
        text = _text(value, kind)
        if text is None:
            return None, True
        found = read(text)
        return found, found is not None

    return leaf


def _struct(value: Any, readers: dict[str, Reader], *, strict: bool) -> tuple[Any, bool]:
    if not isinstance(value, dict):
        return None, value is None
    found = {name: read(value.get(name)) for name, read in readers.items()}
    fits = all(fit for _, fit in found.values()) and not (strict and value.keys() - readers.keys())
    return {name: item for name, (item, _) in found.items()}, fits


def _map(value: Any, item: Reader) -> tuple[Any, bool]:
    if not isinstance(value, dict):
        return None, value is None
    found = [(key, *item(inner)) for key, inner in value.items()]
    return [(key, inner) for key, inner, _ in found], _all(fit for *_, fit in found)


def _list(value: Any, element: Reader) -> tuple[Any, bool]:
    if not isinstance(value, list):
        return None, value is None
    found = [element(item) for item in value]
    return [item for item, _ in found], _all(fit for _, fit in found)


def _all(fits: Iterable[bool]) -> bool:
    return all(fits)
