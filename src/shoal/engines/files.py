"""Reading a given list of files through an engine, as Spark's file sources define it.

Apache Spark does all of this itself. The embedded engine stops at the first malformed line, has no
``_metadata`` column, reads a file twice where it splits a list (``binaryFile``, 0.7.2) and knows no
Auto Loader. So the plan is made here from what it has: an Arrow function reads the listed files.
Only plain Parquet goes to the engine's own reader.
A line that does not parse, or a value of another type than declared, follows Spark's ``mode``:
PERMISSIVE (nulls, and the line in ``columnNameOfCorruptRecord`` where the schema has that column),
DROPMALFORMED or FAILFAST. With a column for rescued data, values that do not fit go there instead.
"""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from shoal.engines.blocks import blocks, whole_text
from shoal.engines.containers import read_container, read_whole
from shoal.engines.csvlines import CsvBlocks, split_records
from shoal.engines.ddl import parse_columns
from shoal.engines.fileschema import rescue_column, resolve_schema, same_types
from shoal.engines.jsonlines import JsonBlocks, json_values
from shoal.engines.layout import FileInfo, Layout, Parsed, finish, json_text, layout_of
from shoal.engines.listed import InputFile
from shoal.engines.plan import FileRead, plan_of
from shoal.errors import PipelineError
from shoal.store import is_url, open_file

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql.connect.proto import Relation
    from pyspark.sql.connect.session import SparkSession
    from pyspark.sql.types import StructType

__all__ = ["InputFile", "file_reader", "read_files", "reads_here", "with_metadata"]

ArrowFunction = Callable[["Iterator[pa.RecordBatch]"], "Iterator[pa.RecordBatch]"]

_AHEAD = 2
_METADATA = (
    "_metadata STRUCT<file_path: STRING, file_name: STRING, file_size: BIGINT, "
    "file_block_start: BIGINT, file_block_length: BIGINT, file_modification_time: TIMESTAMP>"
)
_LISTED = "path STRING, size BIGINT, modified BIGINT, partition STRING"


def read_files(
    spark: SparkSession,
    read: FileRead,
    files: Sequence[InputFile],
    *,
    sail: bool,
    columns: str = "",
) -> Relation:
    """A batch relation over exactly these files.

    Args:
        spark: The session.
        read: What the user's query reads: format, schema, options.
        files: The files; may be empty if the schema is known.
        sail: The engine is Sail and needs Spark's line handling spelled out.
        columns: The columns as they were resolved before, as Spark's JSON; else they are found.

    Raises:
        PipelineError: The schema is neither declared nor to be found in the files, a file cannot
            be read, or an option means something that is not done.
    """
    if files and not reads_here(read, files, sail=sail):
        return _native(read, [_escaped(file.path) for file in files], columns or read.schema)
    schema = parse_columns(columns or resolve_schema(read, files).columns.json())
    by_path = {name: None for file in files for name, _ in file.partition}
    rescued = rescue_column(read)
    if not files:
        frame = spark.createDataFrame([], with_metadata(schema) if read.metadata else schema)
        return plan_of(frame).root
    kind = read.format.lower()
    plain = not (read.metadata or rescued or by_path or _odd(read, files))
    if kind == "parquet" and plain and same_types(files, schema):
        return _native(read, [_literal(file.path) for file in files], schema.json())
    layout = layout_of(
        schema,
        read.options,
        partitions=[name for name in by_path if name in schema.names],
        rescued=rescued,
        metadata=read.metadata,
    )
    return _by_function(spark, kind, files, layout, schema)


def reads_here(read: FileRead, files: Sequence[InputFile], *, sail: bool) -> bool:
    """Whether Shoal's own functions read files, not the engine's readers.

    Apache Spark's readers read all but Auto Loader's sources, rescued data, columns in the names of
    folders (Spark would look for them in all files together) and Avro, which needs a jar there.

    Args:
        read: What is read.
        files: The files.
        sail: The engine is Sail.
    """
    return (
        sail
        or "cloudfiles.format" in read.options
        or rescue_column(read) is not None
        or any(file.partition for file in files)
        or read.format.lower() == "avro"
    )


def _by_function(
    spark: SparkSession,
    kind: str,
    files: Sequence[InputFile],
    layout: Layout,
    schema: StructType,
) -> Relation:
    rows = [
        (file.path, file.size, file.modified // 1000, json.dumps(dict(file.partition)))
        for file in files
    ]
    given = with_metadata(schema) if layout.metadata else schema
    listed = spark.createDataFrame(rows, _LISTED)
    return plan_of(listed.mapInArrow(file_reader(kind, layout), given)).root


def with_metadata(schema: StructType) -> StructType:
    """The columns with ``_metadata`` as one of them, which Spark's readers hide."""
    from pyspark.sql.types import StructType

    return StructType([*schema.fields, *parse_columns(_METADATA).fields])


def _odd(read: FileRead, files: Sequence[InputFile]) -> bool:
    """Whether Sail's own Parquet reader would fail on a name, or at a file to be passed over."""
    skips = any(
        read.options.get(name, "false").lower() == "true"
        for name in ("ignorecorruptfiles", "ignoremissingfiles")
    )
    return skips or any(
        re.search(r"[^A-Za-z0-9_./:+&=,@~-]", file.path)
        if is_url(file.path)  # which it would take apart
        else re.search(r"[*?\[{}]", file.path) and re.search(r"[^\x21-\x7e]|%", file.path)
        for file in files
    )


def _native(read: FileRead, paths: Sequence[str], schema: str) -> Relation:
    from pyspark.sql.connect.proto import Read as ReadRelation
    from pyspark.sql.connect.proto import Relation

    source = ReadRelation.DataSource(
        format=read.format,
        schema=schema or None,
        paths=list(paths),
        options={k: v for k, v in read.options.items() if not k.startswith("cloudfiles.")},
    )
    return Relation(read=ReadRelation(data_source=source))


def _literal(path: str) -> str:
    """A path in which Sail finds no pattern."""
    return re.sub(r"([*?\[{}])", r"[\1]", path)


def _escaped(path: str) -> str:
    """A path in which Spark finds no pattern."""
    return re.sub(r"([*?\[\]{}\\])", r"\\\1", path)


def file_reader(kind: str, layout: Layout) -> ArrowFunction:
    """A function for ``mapInArrow`` from listed files to their rows.

    Args:
        kind: The files' format, in lower case.
        layout: The columns to give.
    """

    def read(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for row in batch.to_pylist():
                row["partition"] = json.loads(row["partition"])
                yield from _rows(kind, layout, FileInfo(**row))

    return read


def _rows(kind: str, layout: Layout, file: FileInfo) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa

    try:
        for parsed in _parsed(kind, layout, file):
            if parsed.rows:
                yield finish(parsed, layout, file)
    except Exception as error:  # each library has errors of its own for bytes that are not its
        if layout.flag("ignoremissingfiles") and _is_gone(file.path):
            return
        named = file.path in str(error)
        damaged = isinstance(error, (OSError, EOFError, pa.ArrowException, PipelineError))
        if layout.flag("ignorecorruptfiles") and (damaged or not named):
            return
        # One line: of more, the engine hands on the last.
        text = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            text if named else f"{file.path} cannot be read as {kind}: {text}"
        ) from error


def _is_gone(path: str) -> bool:
    try:
        open_file(path).close()
    except FileNotFoundError:
        return True
    return False


def _parsed(kind: str, layout: Layout, file: FileInfo) -> Iterator[Parsed]:
    path, options = file.path, layout.options
    if kind == "binaryfile":
        yield read_whole(file)
    elif kind == "text":
        yield from _text(path, layout)
    elif kind == "json":
        reader = JsonBlocks(layout)
        if layout.flag("multiline"):
            yield _json_file(path, reader)
        else:
            yield from _ahead(reader.parse, blocks(path, options))
    elif kind == "csv":
        by_name = "cloudfiles.format" in options or layout.options.get("enforceschema") == "false"
        csv = CsvBlocks(layout, by_name=by_name)
        if layout.flag("multiline"):
            yield _csv_file(path, csv)
        else:
            given = blocks(path, options)
            while csv.header and (first := next(given, None)) is not None:
                yield csv.parse(first)
            yield from _ahead(csv.parse, given)
    else:
        yield from read_container(kind, path, layout)


def _ahead(parse: Callable[[bytes], Parsed], given: Iterator[bytes]) -> Iterator[Parsed]:
    """Blocks parsed in order, the next ones while the engine takes the one before."""
    first = next(given, None)
    if first is None:
        return
    second = next(given, None)
    if second is None:  # most files are one block, and need no thread
        yield parse(first)
        return
    with ThreadPoolExecutor(_AHEAD) as pool:
        waiting = deque(pool.submit(parse, block) for block in (first, second))
        for block in given:
            yield waiting.popleft().result()
            waiting.append(pool.submit(parse, block))
        while waiting:
            yield waiting.popleft().result()


def _text(path: str, layout: Layout) -> Iterator[Parsed]:
    import pyarrow as pa

    if not layout.data:
        return
    name = layout.data[0]
    if layout.flag("wholetext"):
        yield Parsed(rows=1, columns={name: pa.array([whole_text(path, layout.options)])})
        return
    for block in blocks(path, layout.options):
        lines = block.decode().removesuffix("\n").split("\n")
        yield Parsed(rows=len(lines), columns={name: pa.array(lines, pa.string())})


def _json_file(path: str, reader: JsonBlocks) -> Parsed:
    text = whole_text(path, reader.layout.options)
    try:
        rows = json_values(text) if text.strip() else []
    except (ValueError, RecursionError):
        return reader.parse_rows([None], lambda: [text])
    return reader.parse_rows(rows, lambda: [json_text(row) for row in rows])


def _csv_file(path: str, reader: CsvBlocks) -> Parsed:
    text = whole_text(path, reader.layout.options)
    records = split_records(text, reader.dialect)
    if records is None:
        return reader.parse_records([None], [text])
    if reader.dialect.header and records:
        reader.start(records[0])
        records = records[1:]
    lines = [reader.dialect.separator.join(word for word, _ in record) for record in records]
    return reader.parse_records(records, lines)
