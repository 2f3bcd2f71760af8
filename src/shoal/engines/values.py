"""Text as typed values, as Spark's text readers take it.

A whole column is cast at once; only one with a value that does not fit is looked at value by value.
Both ways take the same texts: the first is merely quicker.
"""

from __future__ import annotations

import base64
import datetime as dt
import decimal
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from shoal.errors import PipelineError

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Patterns", "patterns_of", "read_value", "typed"]

_INTEGER = re.compile(r"[+-]?\d+(\.0*)?")
_FLOAT = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_DATE = re.compile(r"(\d{4})(?:-(\d{1,2})(?:-(\d{1,2})(?:[ T].*)?)?)?")
_TIME = re.compile(
    r"(\d{4})-(\d{1,2})-(\d{1,2})(?:[ T](\d{1,2})(?::(\d{1,2})(?::(\d{1,2})(?:\.(\d{1,9}))?)?)?"
    r" ?(Z|UTC|GMT|[+-]\d{1,2}(?::?\d{2})?)?)?"
)
_SPECIAL = {
    "nan": math.nan,
    "inf": math.inf,
    "+inf": math.inf,
    "-inf": -math.inf,
    "infinity": math.inf,
    "+infinity": math.inf,
    "-infinity": -math.inf,
}
_EPOCH = dt.date(1970, 1, 1)
_START = dt.datetime(1970, 1, 1)  # noqa: DTZ001  (naive on purpose: instants are counted in UTC)
_MICROSECOND = dt.timedelta(microseconds=1)
# Java's pattern letters by their repetitions. Source: Spark SQL guide, "Datetime Patterns".
_LETTERS = {
    "yyyy": "%Y",
    "y": "%Y",
    "yy": "%y",
    "MM": "%m",
    "M": "%m",
    "MMM": "%b",
    "MMMM": "%B",
    "dd": "%d",
    "d": "%d",
    "HH": "%H",
    "H": "%H",
    "hh": "%I",
    "h": "%I",
    "mm": "%M",
    "m": "%M",
    "ss": "%S",
    "s": "%S",
    "a": "%p",
    "E": "%a",
    "EEE": "%a",
    "EEEE": "%A",
    "DDD": "%j",
    "X": "%z",
    "XX": "%z",
    "XXX": "%z",
    "Z": "%z",
    "z": "%Z",
}


@dataclass(frozen=True, kw_only=True)
class Patterns:
    """How dates and times are written, as ``strptime`` patterns; None is ISO 8601.

    Args:
        date: Of DATE columns.
        time: Of TIMESTAMP columns.
        local: Of TIMESTAMP_NTZ columns.
    """

    date: str | None = None
    time: str | None = None
    local: str | None = None


def patterns_of(options: Mapping[str, str]) -> Patterns:
    """The patterns that reader options name.

    Raises:
        PipelineError: A pattern has a letter without an equal here.
    """
    return Patterns(
        date=_strptime(options.get("dateformat")),
        time=_strptime(options.get("timestampformat")),
        local=_strptime(options.get("timestampntzformat")),
    )


def _strptime(pattern: str | None) -> str | None:
    if pattern is None:
        return None
    return "".join(_pieces(pattern))


def _pieces(pattern: str) -> Iterator[str]:
    for found in re.finditer(r"'((?:[^']|'')*)'|([A-Za-z])\2*|.", pattern):
        run = found.group(0)
        if run.startswith("'"):
            yield (found.group(1).replace("''", "'") or "'").replace("%", "%%")
        elif run[0] == "S":
            yield "%f"
        elif run in _LETTERS:
            yield _LETTERS[run]
        elif run[0].isalpha():
            raise PipelineError(
                f"The pattern '{pattern}' has '{run}', which the embedded engine cannot read.",
                hint="Read the column as STRING and use to_timestamp(column, pattern).",
            )
        elif run not in "[]":
            yield run.replace("%", "%%")


def typed(texts: pa.Array, kind: pa.DataType, patterns: Patterns) -> tuple[pa.Array, bool]:
    """Texts as values of a type, and whether some text did not fit; it is null then.

    Args:
        texts: ``string`` array.
        kind: An atomic type.
        patterns: How dates and times are written.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_string(kind):
        return texts, False
    quick = _quick(texts, kind, patterns)
    if quick is not None:
        return quick, False
    coded = pc.dictionary_encode(texts)
    read = read_value(kind, patterns)
    words = coded.dictionary.to_pylist()
    values = pa.array([None if word is None else read(word) for word in words], _held(kind))
    taken = values.cast(kind).take(coded.indices)
    return taken, taken.null_count > texts.null_count


def _held(kind: pa.DataType) -> pa.DataType:
    import pyarrow as pa

    if pa.types.is_timestamp(kind):
        return pa.timestamp("us", kind.tz)
    return kind


def _quick(texts: pa.Array, kind: pa.DataType, patterns: Patterns) -> pa.Array | None:
    """The whole column cast at once; None where one text is not written in the plain way."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if texts.null_count == len(texts):
        return pa.nulls(len(texts), kind)
    try:
        if pa.types.is_boolean(kind):
            lower = pc.utf8_lower(texts)
            true = pc.equal(lower, "true")
            plain = pc.all(pc.or_(true, pc.equal(lower, "false"))).as_py()
            return true if plain else None
        if pa.types.is_integer(kind):
            # Arrow also takes 0x10.
            found = pc.cast(texts, kind)
            return (
                None if pc.any(pc.match_substring(texts, "x", ignore_case=True)).as_py() else found
            )
        if pa.types.is_floating(kind):
            return pc.cast(texts, kind)
        if pa.types.is_date(kind) and patterns.date is None:
            return pc.cast(texts, kind)
        if pa.types.is_timestamp(kind):
            pattern = patterns.time if kind.tz else patterns.local
            if pattern is None:
                return pc.cast(pc.cast(texts, pa.timestamp("us")), kind)
    except pa.ArrowException:
        return None
    return None


def read_value(kind: pa.DataType, patterns: Patterns) -> Callable[[str], Any]:
    """A function from one text to a value for an Arrow array, None where it does not fit.

    Args:
        kind: An atomic type.
        patterns: How dates and times are written.
    """
    import pyarrow as pa

    if pa.types.is_boolean(kind):
        return lambda text: {"true": True, "false": False}.get(text.lower())
    if pa.types.is_integer(kind):
        limit = 1 << (kind.bit_width - 1)
        return lambda text: _integer(text, limit)
    if pa.types.is_floating(kind):
        return _float
    if pa.types.is_decimal(kind):
        return lambda text: _decimal(text, kind.precision, kind.scale)
    if pa.types.is_date(kind):
        return lambda text: _date(text, patterns.date)
    if pa.types.is_timestamp(kind):
        zoned = kind.tz is not None
        pattern = patterns.time if zoned else patterns.local
        return lambda text: _timestamp(text, pattern, zoned=zoned)
    if pa.types.is_binary(kind):
        return _binary
    return lambda text: text


def _integer(text: str, limit: int) -> int | None:
    # A number may be written 5.0 where the schema says INT: whole values are kept.
    if not text.isascii() or not _INTEGER.fullmatch(text):
        return None
    value = int(text.partition(".")[0])
    return value if -limit <= value < limit else None


def _float(text: str) -> float | None:
    if _FLOAT.fullmatch(text) and text.isascii():
        return float(text)
    return _SPECIAL.get(text.lower())


def _decimal(text: str, precision: int, scale: int) -> decimal.Decimal | None:
    if not _FLOAT.fullmatch(text) or not text.isascii():
        return None
    with decimal.localcontext() as context:
        context.prec = 100
        try:
            value = decimal.Decimal(text).quantize(
                decimal.Decimal(1).scaleb(-scale), rounding=decimal.ROUND_HALF_UP
            )
        except decimal.InvalidOperation:
            return None
        return value if abs(value) < decimal.Decimal(10) ** (precision - scale) else None


def _date(text: str, pattern: str | None) -> int | None:
    """Days since 1970."""
    try:
        if pattern is not None:
            return (dt.datetime.strptime(text, pattern).date() - _EPOCH).days  # noqa: DTZ007
        found = _DATE.fullmatch(text)
        if found is None:
            return None
        year, month, day = (int(part or 1) for part in found.groups())
        return (dt.date(year, month, day) - _EPOCH).days
    except ValueError:
        return None


def _timestamp(text: str, pattern: str | None, *, zoned: bool) -> int | None:
    """Microseconds since 1970."""
    try:
        if pattern is not None:
            moment = dt.datetime.strptime(text, pattern)  # noqa: DTZ007
            if moment.tzinfo is not None:
                moment = (moment.astimezone(dt.UTC) if zoned else moment).replace(tzinfo=None)
            return (moment - _START) // _MICROSECOND
        found = _TIME.fullmatch(text)
        if found is None:
            return None
        numbers = [int(part or 0) for part in found.groups()[:6]]
        micros = int((found.group(7) or "0").ljust(6, "0")[:6])
        moment = dt.datetime(*numbers, microsecond=micros)  # type: ignore[misc,arg-type]  # noqa: DTZ001
        return (moment - _START) // _MICROSECOND - (_offset(found.group(8)) if zoned else 0)
    except ValueError:
        return None


def _offset(zone: str | None) -> int:
    """Microseconds that a zone is ahead of UTC."""
    if zone is None or zone[0] not in "+-":
        return 0
    digits = zone[1:].replace(":", "")
    hours, minutes = (digits[:-2], digits[-2:]) if len(digits) > 2 else (digits, "0")
    if int(hours) > 18 or int(minutes) > 59:
        raise ValueError(zone)
    return (1 if zone[0] == "+" else -1) * (int(hours) * 3600 + int(minutes) * 60) * 1_000_000


def _binary(text: str) -> bytes | None:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        return None
