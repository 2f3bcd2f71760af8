"""Segment keys: a row's ``by`` values as one canonical text, the same in training and serving."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from shoal.errors import RequestError
from shoal.models.columns import one_column

__all__ = ["key_texts", "segment_codes", "segment_key", "segment_keys"]

# What JSON writes otherwise than it is.
_ESCAPED = r"""["\\\x00-\x1f]"""


def segment_key(values: Sequence[str | None]) -> str:
    """The canonical key of one segment: a JSON array of the values as text, nulls kept.

    Args:
        values: One text per ``by`` column, in their order.
    """
    return json.dumps(list(values), ensure_ascii=False, separators=(",", ":"))


def segment_keys(texts: Sequence[pa.Array]) -> pa.Array:
    """`segment_key` of many segments.

    Args:
        texts: One string array for each ``by`` column; see `key_texts`.

    Returns:
        A string array.
    """
    if any(pc.any(pc.match_substring_regex(column, _ESCAPED)).as_py() for column in texts):
        rows = zip(*(column.to_pylist() for column in texts), strict=True)
        return pa.array([segment_key(row) for row in rows], pa.string())
    quote = pa.scalar('"')
    quoted = [
        pc.fill_null(pc.binary_join_element_wise(quote, column, quote, ""), "null")
        for column in texts
    ]
    inside = pc.binary_join_element_wise(*quoted, ",")
    return pc.binary_join_element_wise(pa.scalar("["), inside, pa.scalar("]"), "")


def key_texts(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """A key column as text, so that ``7``, ``int8(7)``, ``7.0`` and ``"7"`` are one segment.

    Args:
        column: Text, integers, booleans, dates, timestamps or decimals; floats when they are
            whole numbers (pandas makes them of integers with gaps).

    Returns:
        A string array of the same length.

    Raises:
        RequestError: The type cannot be a key.
    """
    array = _whole(column)
    kind = array.type
    if pa.types.is_dictionary(kind):
        return key_texts(array.cast(kind.value_type))
    if pa.types.is_string(kind):
        return array
    if pa.types.is_floating(kind):
        missing = pc.is_nan(array).fill_null(False)
        array = pc.if_else(missing, pa.scalar(None, kind), array)
        whole = pc.and_(pc.equal(pc.round(array), array), pc.less(pc.abs(array), 2.0**63))
        if not pc.all(whole, min_count=0).as_py():
            first = array.filter(pc.invert(whole))[0].as_py()
            raise RequestError(
                "a segment key is text, a whole number, a boolean or a date; "
                f"found {first!r} of type {kind}."
            )
        return array.cast(pa.int64()).cast(pa.string())
    if pa.types.is_timestamp(kind):
        if kind.tz is not None:
            array = array.cast(pa.timestamp("us", "UTC"))
        text = array.cast(pa.timestamp("us")).cast(pa.string())
        # Midnight is a date: pandas makes timestamps of dates.
        return pc.replace_substring_regex(text, r"( 00:00:00)?(\.0*)?$", "")
    if pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        raise RequestError(f"a column of type {kind} cannot be a segment key.")
    return array.cast(pa.string())


def _whole(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if isinstance(array, pa.ChunkedArray):  # combine_chunks keeps very large text chunked
        array = pa.concat_arrays(array.chunks)
    return array


def segment_codes(
    rows: pa.Table, by: Sequence[str]
) -> tuple[np.ndarray[Any, Any], list[tuple[str | None, ...]]]:
    """Which segment each row belongs to.

    Args:
        rows: A table with the ``by`` columns.
        by: The key columns; may be empty, then all rows are one segment.

    Returns:
        An int64 code per row, and the key texts of each code.
    """
    codes = np.zeros(rows.num_rows, dtype=np.int64)
    keys: list[tuple[str | None, ...]] = [()]
    for name in by:
        column = one_column(rows, name)
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        key_texts(column.slice(0, 0))  # refuses a type that cannot be a key
        # Each value becomes text once, however many rows have it.
        encoded = pc.dictionary_encode(_whole(column), null_encoding="encode")
        texts = key_texts(encoded.dictionary).to_pylist()
        numbers = {text: i for i, text in enumerate(dict.fromkeys(texts))}
        found = np.asarray(encoded.indices, dtype=np.int64)
        if len(numbers) < len(texts):  # such as NaN and null
            found = np.array([numbers[text] for text in texts], dtype=np.int64)[found]
        values = list(numbers)
        if keys == [()]:
            codes, keys = found, [(value,) for value in values]
            continue
        # Renumbering after each column keeps the codes small, however many columns there are.
        both = pc.dictionary_encode(pa.array(codes * len(values) + found))
        codes = np.asarray(both.indices, dtype=np.int64)
        pairs = both.dictionary.to_pylist()
        keys = [(*keys[c // len(values)], values[c % len(values)]) for c in pairs]
    return codes, keys
