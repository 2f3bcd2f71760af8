"""Reading a given list of files through an engine, as Spark's file sources define it.

Apache Spark does all of this itself. The embedded engine has no ``_metadata`` column and stops at
the first malformed line, so for JSON lines, CSV and text the plan is made here from what it has: an
Arrow function reads the listed files line by line, and each value is parsed and cast on its own.
(Its ``binaryFile`` source is no help: 0.7.2 reads a file twice where it splits the list.)
A line that does not parse, or a value of another type than declared, follows Spark's ``mode``:
PERMISSIVE (nulls, and the line in ``columnNameOfCorruptRecord`` where the schema has that column),
DROPMALFORMED or FAILFAST.
"""

from __future__ import annotations

import codecs
import csv
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from shoal.engines.inference import infer
from shoal.engines.plan import FileRead, plan_of
from shoal.errors import PipelineError

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import Column, DataFrame
    from pyspark.sql.connect.proto import Relation
    from pyspark.sql.connect.session import SparkSession
    from pyspark.sql.types import StructType

__all__ = ["InputFile", "read_files"]

ArrowFunction = Callable[["Iterator[pa.RecordBatch]"], "Iterator[pa.RecordBatch]"]

_BLOCK = 8 * 1024 * 1024
_LINES = {"json", "csv", "text"}


@dataclass(frozen=True, kw_only=True, order=True)
class InputFile:
    """One input file as it was listed.

    Args:
        path: Absolute path.
        size: Bytes.
        modified: Modification time, nanoseconds since 1970.
    """

    path: str
    size: int
    modified: int


def read_files(
    spark: SparkSession, read: FileRead, files: Sequence[InputFile], *, embedded: bool
) -> Relation:
    """A batch relation over exactly these files.

    Args:
        spark: The session.
        read: What the user's query reads: format, schema, options.
        files: The files; may be empty if the schema is known.
        embedded: The engine is Sail and needs Spark's line handling spelled out.

    Raises:
        PipelineError: The schema is neither declared nor to be found in the files.
    """
    if not embedded:
        return _native(read, [file.path for file in files])
    lines = read.format.lower() in _LINES and read.options.get("multiline", "false") != "true"
    if not files or lines:
        schema = _schema(spark, read, files)
    if not files:
        frame = spark.createDataFrame([], schema)
        frame = _with_metadata(frame, None) if read.metadata else frame
        return plan_of(frame).root
    if lines:
        return plan_of(_parsed(spark, read, files, schema)).root
    if not read.metadata:
        return _native(read, [_literal(file.path) for file in files])
    frames = [_with_metadata(_frame(spark, read, file), file) for file in files]
    while len(frames) > 1:  # a balanced tree: plans may nest only about a hundred levels
        pairs = zip(frames[::2], frames[1::2], strict=False)
        odd = frames[-1:] if len(frames) % 2 else []
        frames = [a.unionByName(b, allowMissingColumns=True) for a, b in pairs] + odd
    return plan_of(frames[0]).root


def _native(read: FileRead, paths: Sequence[str]) -> Relation:
    from pyspark.sql.connect.proto import Read as ReadRelation
    from pyspark.sql.connect.proto import Relation

    source = ReadRelation.DataSource(
        format=read.format,
        schema=read.schema or None,
        paths=list(paths),
        options={k: v for k, v in read.options.items() if not k.startswith("cloudfiles.")},
    )
    return Relation(read=ReadRelation(data_source=source))


def _frame(spark: SparkSession, read: FileRead, file: InputFile) -> DataFrame:
    from pyspark.sql.connect.proto import Plan

    from shoal.engines.plan import dataframe

    return dataframe(Plan(root=_native(read, [_literal(file.path)])), spark)


def _literal(path: str) -> str:
    """A path in which Sail finds no pattern.

    Raises:
        PipelineError: Sail 0.7.2 would find nothing there, and say nothing.
    """
    if re.search(r"[*?\[{}]", path) and re.search(r"[^\x21-\x7e]|%", path):
        raise PipelineError(
            f"The engine cannot read '{path}': its name has pattern characters (*?[]{{}}) beside "
            "spaces, '%' or letters that are not ASCII.",
            hint="Rename the file or its folder.",
        )
    return re.sub(r"([*?\[{}])", r"[\1]", path)


def _schema(spark: SparkSession, read: FileRead, files: Sequence[InputFile]) -> StructType:
    from pyspark.sql.types import StructType

    if read.schema.lstrip().startswith("{"):
        return StructType.fromJson(json.loads(read.schema))
    ddl = read.schema or infer(read.format, read.options, [file.path for file in files])
    if not ddl:
        raise PipelineError(
            f"The columns of {', '.join(read.paths)} are not declared, and there is no file yet "
            "to find them in.",
            hint='Declare them: spark.readStream.format(...).schema("id BIGINT, name STRING")',
        )
    found = spark._parse_ddl(ddl)
    assert isinstance(found, StructType)
    return found


def _parsed(
    spark: SparkSession, read: FileRead, files: Sequence[InputFile], schema: StructType
) -> DataFrame:
    from pyspark.sql import functions as F

    if read.format.lower() == "text":
        lines = _lines(spark, files, line_reader(skip_blank=False), "")
        named = lines.select(F.col("line").alias(schema.fieldNames()[0]), "_metadata")
        return named if read.metadata else named.drop("_metadata")
    corrupt = read.options.get("columnnameofcorruptrecord", "_corrupt_record")
    wanted = [field for field in schema.fields if field.name != corrupt]
    if read.format.lower() == "json":
        texts = _json_texts(_lines(spark, files, line_reader(), ""), wanted)
    else:
        texts = _csv_texts(spark, read, len(wanted), files)

    atomic = {"struct", "array", "map", "variant"}
    cast: list[Column] = []
    wrong = F.col("shoal_bad")
    for position, field in enumerate(wanted):
        text = F.col(f"shoal_{position}")
        if field.dataType.typeName() in atomic or field.dataType.typeName() == "string":
            cast.append(text.alias(field.name))
            continue
        value = _cast(text, field.dataType.simpleString(), read.options)
        cast.append(value.alias(field.name))
        wrong = wrong | (text.isNotNull() & value.isNull())
    line = F.when(wrong, F.col("line"))
    mode = read.options.get("mode", "PERMISSIVE").upper()
    if mode == "DROPMALFORMED":
        texts = texts.filter(~wrong)
    elif mode == "FAILFAST":
        told = F.concat(F.lit("Malformed record (mode FAILFAST): "), F.col("line"))
        line = F.when(wrong, F.raise_error(told).cast("string"))
    columns = {field.name: column for field, column in zip(wanted, cast, strict=True)}
    columns[corrupt] = line.alias(corrupt)
    names = schema.fieldNames() + ([corrupt] if mode == "FAILFAST" else [])
    out = [columns[name] for name in dict.fromkeys(names)]
    return texts.select(*out, *(["_metadata"] if read.metadata else []))


def _cast(text: Column, kind: str, options: Any) -> Column:
    from pyspark.sql import functions as F

    pattern = options.get("timestampformat" if kind.startswith("timestamp") else "dateformat")
    if pattern and kind.startswith("timestamp"):
        return F.try_to_timestamp(text, F.lit(pattern)).cast(kind)
    if pattern and kind == "date":
        return F.try_to_timestamp(text, F.lit(pattern)).cast("date")
    # A JSON number may be written 5.0 where the schema says INT: whole values are kept.
    if kind in {"tinyint", "smallint", "int", "bigint"}:
        whole = F.regexp_replace(text, r"\.0+$", "")
        return whole.try_cast(kind)
    return text.try_cast(kind)


def _lines(spark: SparkSession, files: Sequence[InputFile], reader: Any, texts: str) -> DataFrame:
    """Non-empty lines with ``texts`` columns, ``line`` string and ``_metadata`` struct."""
    from pyspark.sql import functions as F

    listed = spark.createDataFrame(
        [(file.path, file.size, file.modified // 1000) for file in files],
        "path string, size bigint, modified bigint",
    )
    read = listed.mapInArrow(
        reader, f"{texts}line string, path string, size bigint, modified bigint"
    )
    metadata = _metadata(F.col("path"), F.col("size"), F.timestamp_micros("modified"))
    return read.select(*read.columns[:-3], metadata)


def _metadata(path: Column, size: Column, modified: Column) -> Column:
    from pyspark.sql import functions as F

    return F.struct(
        F.concat(F.lit("file://"), path).alias("file_path"),
        F.substring_index(path, "/", -1).alias("file_name"),
        size.alias("file_size"),
        modified.alias("file_modification_time"),
    ).alias("_metadata")


def _with_metadata(frame: DataFrame, file: InputFile | None) -> DataFrame:
    from pyspark.sql import functions as F

    if file is None:
        values = (F.lit(""), F.lit(0), F.current_timestamp())
    else:
        seconds = F.timestamp_micros(F.lit(file.modified // 1000))
        values = (F.lit(file.path), F.lit(file.size), seconds)
    path, size, modified = values
    return frame.withColumn("_metadata", _metadata(path, size.cast("bigint"), modified))


def _json_texts(lines: DataFrame, wanted: Sequence[Any]) -> DataFrame:
    from pyspark.sql import functions as F

    nested = {"struct", "array", "map"}
    fields = ", ".join(
        f"`{f.name}` {f.dataType.simpleString() if f.dataType.typeName() in nested else 'string'}"
        for f in wanted
    )
    parsed = lines.withColumn("shoal_row", F.from_json("line", fields))
    nothing = F.lit(True)
    for field in wanted:
        nothing = nothing & F.col("shoal_row").getField(field.name).isNull()
    # A line without any of the columns may still be an object: only then is it looked at twice.
    bad = nothing & F.from_json("line", "map<string,string>").isNull()
    return parsed.select(
        *(F.col("shoal_row").getField(f.name).alias(f"shoal_{i}") for i, f in enumerate(wanted)),
        bad.alias("shoal_bad"),
        "line",
        "_metadata",
    )


def _csv_texts(
    spark: SparkSession, read: FileRead, width: int, files: Sequence[InputFile]
) -> DataFrame:
    reader = csv_reader(
        width,
        header=read.options.get("header", "false").lower() == "true",
        delimiter=read.options.get("sep", read.options.get("delimiter", ",")),
        quote=read.options.get("quote", '"'),
        null=read.options.get("nullvalue", ""),
    )
    texts = "".join(f"shoal_{index} string, " for index in range(width))
    return _lines(spark, files, reader, f"{texts}shoal_bad boolean, ")


def _blocks(path: str, *, skip_blank: bool = True) -> Iterator[list[str]]:
    """Lines of a text file, block by block; compressed files are read by their ending."""
    import pyarrow as pa

    with pa.input_stream(path, compression="detect") as stream:
        decoder = codecs.getincrementaldecoder("utf-8-sig")(errors="replace")
        rest = ""
        while block := stream.read(_BLOCK):
            *lines, rest = (rest + decoder.decode(block)).split("\n")
            yield _clean(lines, skip_blank)
        rest += decoder.decode(b"", final=True)
        if rest:
            yield _clean([rest], skip_blank)


def _clean(lines: list[str], skip_blank: bool) -> list[str]:
    return [line.rstrip("\r") for line in lines if not skip_blank or line.strip()]


def _listed(batches: Iterator[pa.RecordBatch]) -> Iterator[tuple[str, int, int]]:
    for batch in batches:
        for row in batch.to_pylist():
            yield row["path"], row["size"], row["modified"]


def _batch(columns: dict[str, Any], file: tuple[str, int, int]) -> pa.RecordBatch:
    import pyarrow as pa

    path, size, modified = file
    rows = len(columns["line"])
    columns["path"] = pa.repeat(pa.scalar(path, pa.string()), rows)
    columns["size"] = pa.repeat(pa.scalar(size, pa.int64()), rows)
    columns["modified"] = pa.repeat(pa.scalar(modified, pa.int64()), rows)
    return pa.RecordBatch.from_pydict(columns)


def line_reader(*, skip_blank: bool = True) -> ArrowFunction:
    """A function for ``mapInArrow`` from listed files to their lines.

    Args:
        skip_blank: Leave out lines of white space.
    """

    def read(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        import pyarrow as pa

        for file in _listed(batches):
            for lines in _blocks(file[0], skip_blank=skip_blank):
                yield _batch({"line": pa.array(lines, pa.string())}, file)

    return read


def csv_reader(width: int, *, header: bool, delimiter: str, quote: str, null: str) -> ArrowFunction:
    """A function for ``mapInArrow`` from listed CSV files to ``width`` text columns and the line.

    Each line stands alone, so a broken quote costs its own line only. A line with another number
    of fields is marked in ``shoal_bad``; fields that it lacks are null, and those too many are
    left out.

    Args:
        width: Number of columns expected.
        header: Skip each file's first line.
        delimiter: Field separator.
        quote: Quote character.
        null: Text that means null, besides the empty field.
    """

    def fields(line: str) -> list[str]:
        try:
            return next(csv.reader([line], delimiter=delimiter, quotechar=quote, strict=True))
        except (csv.Error, StopIteration):
            return []

    def read(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        import pyarrow as pa

        for file in _listed(batches):
            header_left = header
            for block in _blocks(file[0]):
                lines = block[1:] if header_left else block
                header_left = header_left and not block
                rows = [fields(line) for line in lines]
                bad = [len(row) != width for row in rows]
                nothing = [None] * width
                # As in Spark: fields that are there are kept, and the line counts as malformed.
                kept = [(row + nothing)[:width] for row in rows]
                texts = zip(*kept, strict=True) if kept else ([] for _ in range(width))
                columns = {
                    f"shoal_{index}": pa.array(
                        [None if text in ("", null) else text for text in column], pa.string()
                    )
                    for index, column in enumerate(texts)
                }
                columns["shoal_bad"] = pa.array(bad, pa.bool_())
                columns["line"] = pa.array(lines, pa.string())
                yield _batch(columns, file)

    return read
