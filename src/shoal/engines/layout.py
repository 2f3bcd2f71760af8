"""How the rows of a file source are laid out, and how one block of a text file becomes them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from shoal.errors import PipelineError
from shoal.store import is_url

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql.types import StructType

__all__ = ["FileInfo", "Layout", "Parsed", "finish", "json_text", "layout_of"]

_MODES = ("PERMISSIVE", "DROPMALFORMED", "FAILFAST")


@dataclass(frozen=True, kw_only=True)
class FileInfo:
    """One listed file, as the function that reads it is told.

    Args:
        path: Absolute path, or URL.
        size: Bytes.
        modified: Modification time, microseconds since 1970.
        partition: Values of the partition columns, as text.
    """

    path: str
    size: int
    modified: int
    partition: Mapping[str, str | None] = field(default_factory=dict)

    @property
    def uri(self) -> str:
        """Where it is, as Spark tells it."""
        return self.path if is_url(self.path) else f"file://{self.path}"


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The columns that a read gives.

    Args:
        names: All columns, in their order.
        types: Their Arrow types.
        data: Those that the files hold; the others are made.
        corrupt: The column for lines that do not parse, if there is one.
        rescued: The column for data that does not fit, if there is one.
        partitions: Columns whose values are in the files' paths.
        metadata: Whether ``_metadata`` is asked for.
        mode: Spark's ``mode``.
        options: Reader options, names in lower case.
    """

    names: tuple[str, ...]
    types: Mapping[str, pa.DataType]
    data: tuple[str, ...]
    corrupt: str | None
    rescued: str | None
    partitions: tuple[str, ...]
    metadata: bool
    mode: str
    options: Mapping[str, str]

    def flag(self, name: str, *, default: bool = False) -> bool:
        """A reader option that is true or false."""
        return self.options.get(name, str(default)).lower() == "true"


def layout_of(
    schema: StructType,
    options: Mapping[str, str],
    *,
    partitions: Sequence[str] = (),
    rescued: str | None = None,
    metadata: bool = False,
) -> Layout:
    """The layout of a read's columns.

    Raises:
        PipelineError: ``mode`` is none of Spark's.
    """
    from pyspark.sql.pandas.types import to_arrow_schema

    mode = options.get("mode", "PERMISSIVE").upper()
    if mode not in _MODES:
        raise PipelineError(
            f"The reader's mode is '{options['mode']}'.", hint=f"Use one of {', '.join(_MODES)}."
        )
    corrupt = options.get("columnnameofcorruptrecord", "_corrupt_record")
    arrow = to_arrow_schema(schema, timezone="UTC")
    made = {corrupt, rescued, *partitions}
    return Layout(
        names=tuple(arrow.names),
        types={one.name: one.type for one in arrow},
        data=tuple(name for name in arrow.names if name not in made),
        corrupt=corrupt if corrupt in arrow.names else None,
        rescued=rescued,
        partitions=tuple(partitions),
        metadata=metadata,
        mode=mode,
        options=dict(options),
    )


@dataclass(kw_only=True)
class Parsed:
    """A block of a file as columns, and what is wrong with it.

    Args:
        rows: Number of rows.
        columns: Values by column; a column that is missing is null.
        bad: Rows that do not parse.
        misfits: By row, the values that do not fit their column.
        extra: By row, the values that no column takes.
        lines: Gives the text of all rows.
    """

    rows: int
    columns: dict[str, Any]
    bad: set[int] = field(default_factory=set)
    misfits: dict[int, dict[str, Any]] = field(default_factory=dict)
    extra: dict[int, dict[str, Any]] = field(default_factory=dict)
    lines: Callable[[], Sequence[str]] = lambda: ()

    def misfit(self, name: str, texts: pa.Array, values: pa.Array) -> None:
        """Notes the rows of a column that have a text but no value."""
        import pyarrow.compute as pc

        wrong = pc.and_(texts.is_valid(), values.is_null())
        for row in pc.indices_nonzero(wrong).to_pylist():
            self.misfits.setdefault(row, {})[name] = texts[row].as_py()


def finish(parsed: Parsed, layout: Layout, file: FileInfo) -> pa.RecordBatch:
    """The rows of a block with all their columns, malformed ones as ``mode`` says.

    Raises:
        ValueError: ``mode`` is FAILFAST and a row is malformed.
    """
    import pyarrow as pa

    malformed = parsed.bad if layout.rescued else parsed.bad | parsed.misfits.keys()
    if malformed and layout.mode == "FAILFAST":
        line = parsed.lines()[min(malformed)]
        raise ValueError(f"Malformed record (mode FAILFAST) in {file.path}: {line}")
    columns = dict(parsed.columns)
    if layout.corrupt:
        columns[layout.corrupt] = _sparse(parsed, dict.fromkeys(malformed, parsed.lines))
    if layout.rescued:
        columns[layout.rescued] = _rescued(parsed, layout, file)
    for name in layout.partitions:
        value = pa.scalar(file.partition.get(name), pa.string())
        columns[name] = pa.repeat(value, parsed.rows).cast(layout.types[name])
    arrays = [
        columns[name].cast(layout.types[name])
        if name in columns
        else pa.nulls(parsed.rows, layout.types[name])
        for name in layout.names
    ]
    names = list(layout.names)
    if layout.metadata:
        names.append("_metadata")
        arrays.append(_metadata(file, parsed.rows))
    batch = pa.RecordBatch.from_arrays(arrays, names)
    if malformed and layout.mode == "DROPMALFORMED":
        batch = batch.filter(pa.array([row not in malformed for row in range(parsed.rows)]))
    return batch


def _sparse(parsed: Parsed, rows: Mapping[int, Any]) -> pa.Array:
    import pyarrow as pa

    if not rows:
        return pa.nulls(parsed.rows, pa.string())
    lines = parsed.lines()
    return pa.array([lines[row] if row in rows else None for row in range(parsed.rows)])


def _rescued(parsed: Parsed, layout: Layout, file: FileInfo) -> pa.Array:
    import pyarrow as pa

    kept: dict[int, dict[str, Any]] = {}
    for part in (parsed.extra, parsed.misfits):
        for row, values in part.items():
            kept.setdefault(row, {}).update(values)
    if parsed.bad and not layout.corrupt:
        lines = parsed.lines()
        for row in parsed.bad:
            kept[row] = {"_corrupt_record": lines[row]}
    texts: list[str | None] = [None] * parsed.rows
    for row, values in kept.items():
        texts[row] = json_text({**values, "_file_path": file.uri})
    return pa.array(texts, pa.string())


def _metadata(file: FileInfo, rows: int) -> pa.Array:
    import pyarrow as pa

    kind = pa.struct(
        [
            ("file_path", pa.string()),
            ("file_name", pa.string()),
            ("file_size", pa.int64()),
            ("file_block_start", pa.int64()),
            ("file_block_length", pa.int64()),
            ("file_modification_time", pa.timestamp("us", "UTC")),
        ]
    )
    path = _encoded(file.path)
    value = {
        "file_path": path if is_url(path) else f"file://{path}",
        "file_name": path.rsplit("/", 1)[-1],
        "file_size": file.size,
        "file_block_start": 0,
        "file_block_length": file.size,
        "file_modification_time": file.modified,
    }
    return pa.repeat(pa.scalar(value, kind), rows)


def _encoded(path: str) -> str:
    """A path as Spark's ``_metadata`` has it: as in a URI, letters of all languages as they are."""
    return re.sub(r"[\x00-\x20\x7f\"#%<>?\[\\\]^`{|}]", lambda found: f"%{ord(found[0]):02X}", path)


class Number(str):
    """A JSON number as it is written."""

    __slots__ = ()


def json_text(value: Any) -> str:
    """A value read from JSON as JSON again, numbers as they were written."""
    if isinstance(value, Number):
        return str(value)
    if isinstance(value, dict):
        inner = (f"{json.dumps(k, ensure_ascii=False)}:{json_text(v)}" for k, v in value.items())
        return "{" + ",".join(inner) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(json_text, value)) + "]"
    return json.dumps(value, ensure_ascii=False, default=str)
