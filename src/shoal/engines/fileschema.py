"""The columns of a file source: declared, or found in the files and kept from run to run.

Source: Databricks, "Configure schema inference and evolution in Auto Loader".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shoal.engines.containers import BINARY_FILE, file_schema
from shoal.engines.ddl import parse_columns
from shoal.engines.fileoptions import MODES, check_options, loader_option
from shoal.engines.inference import infer, text_type
from shoal.engines.listed import InputFile
from shoal.engines.plan import FileRead
from shoal.errors import PipelineError

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql.types import DataType, StructField, StructType

__all__ = ["FileSchema", "rescue_column", "resolve_schema", "same_types"]

_CONTAINERS = {"parquet", "orc", "avro"}
_SAMPLED = 1000
_AT_ONCE = 4


@dataclass(frozen=True, kw_only=True)
class FileSchema:
    """The columns of a file source in one run.

    Args:
        columns: All of them: of the files, of their paths, and the one for rescued data.
        found: They, or some, were found in the files: the next run goes on from them.
        notes: What a person should know about them.
    """

    columns: StructType
    found: bool
    notes: tuple[str, ...] = ()


def rescue_column(read: FileRead) -> str | None:
    """The column for data that does not fit the others, if the read has one.

    Auto Loader has it of its own accord where it finds the columns, but for the mode ``none``.
    """
    named = loader_option(read.options, "rescuedDataColumn")
    if named is not None:
        return named
    inferred = "cloudfiles.format" in read.options and not read.schema
    return "_rescued_data" if inferred and _mode(read) != "none" else None


def _mode(read: FileRead) -> str:
    loader = "cloudfiles.format" in read.options
    default = "addNewColumns" if loader and not read.schema else "none"
    given = (loader_option(read.options, "schemaEvolutionMode") or default).lower()
    return next(mode for mode in MODES if mode.lower() == given)


def resolve_schema(
    read: FileRead, files: Sequence[InputFile], *, known: str = "", embedded: bool = True
) -> FileSchema:
    """The columns to read some files with.

    Args:
        read: What the user's query reads.
        files: The files to read; new ones where ``known`` is given.
        known: The columns of the run before, as Spark's JSON.
        embedded: The engine's own readers do not do the reading.

    Raises:
        PipelineError: The options are wrong, the columns are neither declared nor to be found, or
            there are new ones and the mode is ``failOnNewColumns``.
    """
    from pyspark.sql.types import StringType, StructField, StructType

    check_options(read.format, read.options, embedded=embedded)
    mode, rescued = _mode(read), rescue_column(read)
    before = parse_columns(known) if known else StructType([])
    partitions = _partition_fields(files, before)
    names = {one.name for one in partitions}
    made = names | ({rescued} if rescued else set())
    notes: list[str] = []
    inferring = not read.schema and read.format.lower() not in {"text", "binaryfile"}
    if not inferring:
        data = list(parse_columns(read.schema or _fixed(read.format)).fields)
        if mode == "failOnNewColumns":
            news = _new_fields(StructType(data), _found(read, files))
            _refuse_new([n for n in news if n.split(".")[0] not in made], files)
        elif mode == "addNewColumns" and read.schema:
            raise PipelineError(
                "cloudFiles.schemaEvolutionMode addNewColumns does not go with a declared schema.",
                hint='Give the types as cloudFiles.schemaHints, or use the mode "none".',
            )
    else:
        found = StructType([one for one in _found(read, files) if one.name not in made])
        kept = StructType([one for one in before if one.name not in made])
        hinted = _hinted(kept if known else found, read)
        data, notes = _evolved(hinted, _hinted(found, read), mode, files, known=bool(known))
        if not data and not files:
            raise PipelineError(
                f"The columns of {', '.join(read.paths)} are not declared, and there is no file "
                "yet to find them in.",
                hint='Declare them: spark.readStream.format(...).schema("id BIGINT, name STRING")',
            )
    declared = {one.name.lower() for one in data}
    data += [one for one in partitions if one.name.lower() not in declared]
    if rescued and rescued.lower() not in declared:
        data.append(StructField(rescued, StringType()))
    return FileSchema(
        columns=StructType(data), found=inferring or bool(partitions), notes=tuple(notes)
    )


def _fixed(kind: str) -> str:
    return BINARY_FILE if kind.lower() == "binaryfile" else "value STRING"


def _found(read: FileRead, files: Sequence[InputFile]) -> StructType:
    """The columns that are in the files."""
    from pyspark.sql.types import StructType

    kind = read.format.lower()
    paths = [file.path for file in files[:_SAMPLED]]
    if kind not in _CONTAINERS:
        text = infer(kind, read.options, paths) if paths else ""
        return parse_columns(text) if text else StructType([])
    fields: dict[str, StructField] = {}
    for path in paths:
        for field in _container_fields(kind, path, read.options):
            fields.setdefault(field.name.lower(), field)
    return StructType(list(fields.values()))


def same_types(files: Sequence[InputFile], columns: StructType) -> bool:
    """Whether Parquet files are whole, and have no column with another type than is wanted.

    Sail's own reader fails on the others with a message that does not say which file it is.

    Raises:
        PipelineError: A file is no Parquet file, or cannot be read.
    """
    from pyspark.sql.pandas.types import to_arrow_schema

    wanted = {
        field.name.lower(): field.type.id for field in to_arrow_schema(columns, timezone="UTC")
    }
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return all(
            field.type.id == wanted.get(field.name.lower(), field.type.id)
            for footer in pool.map(lambda file: _footer("parquet", file.path), files)
            for field in footer
        )


def _footer(kind: str, path: str) -> pa.Schema:
    try:
        return file_schema(kind, path)
    except Exception as error:  # each library has errors of its own for bytes that are not its
        raise PipelineError(
            f"{path} cannot be read as {kind}: {(str(error) or repr(error)).splitlines()[0]}",
            hint="Replace or remove it, then run again; the other files are read then.",
        ) from error


def _container_fields(kind: str, path: str, options: Mapping[str, str]) -> list[StructField]:
    from pyspark.sql.pandas.types import from_arrow_schema

    try:
        return list(from_arrow_schema(file_schema(kind, path)).fields)
    except PipelineError:
        raise
    except Exception as error:  # each library has errors of its own for bytes that are not its
        if options.get("ignorecorruptfiles", "false").lower() == "true":
            return []
        raise PipelineError(
            f"{path} cannot be read as {kind}: {(str(error) or repr(error)).splitlines()[0]}",
            hint="Replace or remove it, then run again; the other files are read then.",
        ) from error


def _hinted(found: StructType, read: FileRead) -> StructType:
    """The columns with the types that ``schemaHints`` gives; a hint may also add one."""
    hints = loader_option(read.options, "schemaHints")
    if not hints:
        return found
    for hint in parse_columns(hints).fields:
        found = _with_type(found, hint.name.split("."), hint.dataType)
    return found


def _with_type(columns: StructType, path: Sequence[str], kind: DataType) -> StructType:
    from pyspark.sql.types import StructField, StructType

    fields = list(columns.fields)
    at = next((i for i, f in enumerate(fields) if f.name.lower() == path[0].lower()), None)
    name = path[0] if at is None else fields[at].name
    if len(path) > 1:
        inner = fields[at].dataType if at is not None else None
        below = inner if isinstance(inner, StructType) else StructType([])
        kind = _with_type(below, path[1:], kind)
    if at is None:
        fields.append(StructField(name, kind))
    else:
        fields[at] = StructField(name, kind)
    return StructType(fields)


def _evolved(
    kept: StructType, found: StructType, mode: str, files: Sequence[InputFile], *, known: bool
) -> tuple[list[StructField], list[str]]:
    news = _new_fields(kept, found) if known else []
    if mode == "failOnNewColumns":
        _refuse_new(news, files)
    where = "in " + (files[0].path if files else "no file")
    where += f" and {len(files) - 1} more" if len(files) > 1 else ""
    have = {field.name.lower() for field in kept}
    # Delta tables take no new fields inside of a column by a mere commit of files.
    added = [field for field in found if known and field.name.lower() not in have]
    added = added if mode == "addNewColumns" else []
    left = [name for name in news if name not in {field.name for field in added}]
    what = "left out (--full-refresh finds the columns again)" if mode == "none" else "rescued"
    notes = [f"new columns {where}: {', '.join(f.name for f in added)}; added"] if added else []
    notes += [f"new columns {where}: {', '.join(left)}; {what}"] if left else []
    return [*kept.fields, *added], notes


def _refuse_new(news: Sequence[str], files: Sequence[InputFile]) -> None:
    if news:
        raise PipelineError(
            f"{files[0].path}, or a file that came with it, has the new column "
            f"{', '.join(repr(name) for name in news)}, and schemaEvolutionMode is "
            "failOnNewColumns; nothing was read.",
            hint="Add it to the schema or to cloudFiles.schemaHints, or use the mode "
            "addNewColumns or rescue.",
        )


def _new_fields(kept: StructType, found: StructType, prefix: str = "") -> list[str]:
    """Names in ``found`` that ``kept`` lacks; another spelling of one is no new one."""
    from pyspark.sql.types import StructType

    have = {field.name.lower(): field for field in kept}
    names: list[str] = []
    for field in found:
        old = have.get(field.name.lower())
        if old is None:
            names.append(prefix + field.name)
        elif isinstance(old.dataType, StructType) and isinstance(field.dataType, StructType):
            names += _new_fields(old.dataType, field.dataType, f"{prefix}{field.name}.")
    return names


def _partition_fields(files: Sequence[InputFile], before: StructType) -> list[StructField]:
    """The columns in the files' paths, with the narrowest type that takes all values."""
    from pyspark.sql.types import StructField

    values: dict[str, list[str | None]] = {}
    for file in files:
        for name, text in file.partition:
            values.setdefault(name, []).append(text)
    known = {field.name: field for field in before}
    return [
        known.get(name) or StructField(name, parse_columns(f"x {_narrowest(texts)}")[0].dataType)
        for name, texts in values.items()
    ]


def _narrowest(texts: Sequence[str | None]) -> str:
    kinds = {text_type(text) for text in texts if text is not None}
    if kinds == {"bigint"} and all(len(text or "") < 10 for text in texts):
        return "int"
    if kinds <= {"bigint", "double"} and kinds:
        return "double" if "double" in kinds else "bigint"
    return kinds.pop() if len(kinds) == 1 else "string"
