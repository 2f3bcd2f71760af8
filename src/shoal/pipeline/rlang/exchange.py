"""Arrow tables to and from files that R reads and writes with ``readBin``; see ``exchange.R``.

What becomes what: BOOLEAN logical; TINYINT, SMALLINT and INT integer; BIGINT ``bigint`` (a double
that behaves like an integer, exact up to 2^53); FLOAT, DOUBLE and DECIMAL double; STRING character;
DATE Date; TIMESTAMP and TIMESTAMP_NTZ POSIXct in UTC; NULL NA, also in doubles, where it is not
NaN. Back: factors become STRING, POSIXct TIMESTAMP to the microsecond.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shoal.errors import PipelineError

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

__all__ = ["read_frame", "write_frame"]

_LOGICAL, _INTEGER, _DOUBLE, _BIGINT, _DATE, _POSIXCT, _TEXT, _INTEGER64 = range(1, 9)
_NA_INTEGER = -(2**31)
_NA_REAL = (
    0x7FF00000000007A2  # R's NA: the NaN with 1954 in its lower word (R sources, arithmetic.c)
)
_NAN = 0x7FF8000000000000
_EXACT = 2**53
_MICROS = 1_000_000
_HINT = "Read it through a temporary view that casts it or leaves it out."


def write_frame(table: pa.Table, path: Path, shown: str = "the table") -> None:
    """Writes a table for R.

    Args:
        table: The rows.
        path: The file to make.
        shown: The table's name, for messages.

    Raises:
        PipelineError: A column has a type or a value that R cannot hold exactly.
    """
    if table.num_rows >= 2**31:
        raise PipelineError(
            f"'{shown}' has {table.num_rows} rows; a data frame of R has at most {2**31 - 1}.",
            hint="Give R fewer rows, for example an aggregate or a sample.",
        )
    with path.open("wb") as file:
        file.write(struct.pack("<ii", table.num_columns, table.num_rows))
        for name, column in zip(table.column_names, table.columns, strict=True):
            kind, parts = _encoded(column, f"the column '{name}' of '{shown}'")
            title = name.encode()
            file.write(struct.pack("<ii", kind, len(title)))
            file.write(title)
            for part in parts:
                file.write(part)


def _encoded(column: Any, shown: str) -> tuple[int, list[Any]]:
    import pyarrow as pa

    kind, is_ = column.type, pa.types
    if is_.is_null(kind) or is_.is_boolean(kind):
        bits = column.cast(pa.bool_()).cast(pa.int32())
        return _LOGICAL, [_filled(bits, _NA_INTEGER)]
    if is_.is_integer(kind):
        return _whole(column, shown)
    if is_.is_floating(kind) or is_.is_decimal(kind):
        values = _filled(column.cast(pa.float64()), 0.0)
        values.view("<u8")[_is_na(values)] = _NAN  # a NaN that R would take for NA
        return _DOUBLE, [_doubles(column, values)]
    if is_.is_date(kind):
        days = _filled(column.cast(pa.date32()).cast(pa.int32()), 0)
        return _DATE, [_doubles(column, days.astype("<f8"))]
    if is_.is_timestamp(kind):
        micros = _filled(column.cast(pa.timestamp("us", tz=kind.tz)).cast(pa.int64()), 0)
        seconds = micros // _MICROS + (micros % _MICROS) / _MICROS
        return _POSIXCT, [_doubles(column, seconds.astype("<f8"))]
    if is_.is_string(kind) or is_.is_large_string(kind) or is_.is_string_view(kind):
        return _TEXT, _coded(column, shown)
    raise PipelineError(
        f"{shown} is of the type {kind}, which R functions do not take.", hint=_HINT
    )


def _whole(column: Any, shown: str) -> tuple[int, list[Any]]:
    import pyarrow as pa
    import pyarrow.compute as pc

    small = column.type.bit_width <= 32 and column.type != pa.uint32()
    ends = pc.min_max(column).as_py()
    for value in (ends["min"], ends["max"]):
        if small and value == _NA_INTEGER:
            raise PipelineError(f"{shown} has {value}, which is NA in R.", hint=_HINT)
        if value is not None and abs(value) > _EXACT:
            raise PipelineError(
                f"{shown} has {value}; R holds whole numbers exactly up to 2^53 only.",
                hint="Read it through a temporary view: CAST(... AS STRING).",
            )
    if small:
        return _INTEGER, [_filled(column.cast(pa.int32()), _NA_INTEGER)]
    return _BIGINT, [_doubles(column, _filled(column.cast(pa.int64()), 0).astype("<f8"))]


def _is_na(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Where doubles are R's NA: a NaN, as arithmetic leaves it, with 1954 in its lower word."""
    import numpy as np

    found: np.ndarray[Any, Any] = np.isnan(values) & (
        values.view("<u8") & 0xFFFFFFFF == _NA_REAL & 0xFFFFFFFF
    )
    return found


def _filled(column: Any, null: float) -> Any:
    """A writable numpy copy, nulls replaced."""
    import numpy as np

    return np.array(column.fill_null(null).to_numpy())


def _doubles(column: Any, values: np.ndarray[Any, Any]) -> Any:
    """Doubles with R's NA where the column is null."""
    if column.null_count:
        values.view("<u8")[column.is_null().to_numpy()] = _NA_REAL
    return values


def _coded(column: Any, shown: str) -> list[Any]:
    """Codes from 1, the number of strings, their lengths, and their bytes."""
    import numpy as np
    import pyarrow as pa

    whole = pa.chunked_array([column.cast(pa.large_string()).combine_chunks()])
    coded = whole.unify_dictionaries().dictionary_encode().combine_chunks()
    coded = coded.chunk(0) if isinstance(coded, pa.ChunkedArray) else coded
    strings = coded.dictionary
    data = strings.buffers()[2] or b""
    offsets = (
        np.frombuffer(strings.buffers()[1], "<i8")[: len(strings) + 1] if len(strings) else [0]
    )
    lengths = np.diff(offsets).astype("<i4")
    used = memoryview(data)[offsets[0] : offsets[-1]]
    if b"\0" in bytes(used):
        raise PipelineError(
            f"{shown} has text with a NUL character, which R cannot hold.", hint=_HINT
        )
    codes = np.array(coded.indices.cast(pa.int32()).fill_null(-1).to_numpy()) + 1
    codes[codes == 0] = _NA_INTEGER
    return [codes.astype("<i4"), struct.pack("<i", len(strings)), lengths, used]


def read_frame(path: Path) -> pa.Table:
    """Reads a table that R wrote.

    Raises:
        PipelineError: A column's value has no place in its type.
    """
    import pyarrow as pa

    data = memoryview(path.read_bytes())
    columns, rows = struct.unpack_from("<ii", data)
    place = 8
    names, arrays = [], []
    for _ in range(columns):
        kind, size = struct.unpack_from("<ii", data, place)
        name = bytes(data[place + 8 : place + 8 + size]).decode()
        array, place = _decoded(kind, data, place + 8 + size, rows, f"the column '{name}' from R")
        names.append(name)
        arrays.append(array)
    return pa.Table.from_arrays(arrays, names=names)


def _decoded(
    kind: int, data: memoryview, place: int, rows: int, shown: str
) -> tuple[pa.Array, int]:
    import numpy as np
    import pyarrow as pa

    if kind == _TEXT:
        return _strings(data, place, rows, shown)
    if kind in (_LOGICAL, _INTEGER):
        whole = np.frombuffer(data, "<i4", rows, place)
        array = pa.array(whole, mask=whole == _NA_INTEGER)
        return (array.cast(pa.bool_()) if kind == _LOGICAL else array), place + 4 * rows
    after = place + 8 * rows
    values = np.frombuffer(data, "<f8", rows, place)
    if kind == _INTEGER64:
        whole = values.view("<i8")
        return pa.array(whole, mask=whole == -(2**63)), after
    nan = np.isnan(values)
    if kind == _DOUBLE:
        return pa.array(values, mask=_is_na(values)), after
    given = np.where(nan, 0.0, values)
    if kind == _BIGINT:
        odd = (given != np.floor(given)) | (np.abs(given) > _EXACT)
        _refuse(given[odd], shown, "a bigint holds whole numbers up to 2^53")
        return pa.array(given.astype("<i8"), mask=nan), after
    if kind == _DATE:
        _refuse(given[np.abs(given) >= 2**31], shown, "that is no day")
        return pa.array(np.floor(given).astype("<i4"), pa.date32(), mask=nan), after
    seconds = np.floor(given)
    _refuse(given[np.abs(given) >= 9e12], shown, "that is no time")
    micros = seconds.astype("<i8") * _MICROS + np.rint((given - seconds) * _MICROS).astype("<i8")
    return pa.array(micros, pa.timestamp("us", tz="UTC"), mask=nan), after


def _refuse(wrong: np.ndarray[Any, Any], shown: str, why: str) -> None:
    if len(wrong):
        raise PipelineError(
            f"{shown} has {float(wrong[0])!r}: {why}.", hint="Mend it in the function."
        )


def _strings(data: memoryview, place: int, rows: int, shown: str) -> tuple[pa.Array, int]:
    import numpy as np
    import pyarrow as pa

    lengths = np.frombuffer(data, "<i4", rows, place)
    place += 4 * rows
    offsets = np.zeros(rows + 1, "<i8")
    np.cumsum(np.maximum(lengths, 0), out=offsets[1:])
    end = place + int(offsets[-1])
    valid = np.packbits(lengths >= 0, bitorder="little")
    buffers = [pa.py_buffer(valid), pa.py_buffer(offsets), pa.py_buffer(data[place:end])]
    array = pa.Array.from_buffers(pa.large_string(), rows, buffers)
    try:
        array.validate(full=True)
    except pa.ArrowInvalid as error:
        raise PipelineError(
            f"{shown} has text that is not UTF-8.", hint='Convert it: iconv(x, "latin1", "UTF-8")'
        ) from error
    return (array if end - place >= 2**31 else array.cast(pa.string())), end
