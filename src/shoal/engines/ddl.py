"""Column declarations as text, read without an engine.

Source: Spark SQL reference, "Data Types": ``name TYPE [NOT NULL] [COMMENT 'text']``, with commas
between; a struct's fields take a colon too.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from shoal.errors import PipelineError

if TYPE_CHECKING:
    from pyspark.sql.types import DataType, StructType

__all__ = ["parse_columns"]

_TOKEN = re.compile(r"\s*(`(?:[^`]|``)*`|'(?:[^']|'')*'|\"[^\"]*\"|[\w]+|[<>(),:.])")
_ATOMS = {
    "bool": "boolean",
    "byte": "tinyint",
    "short": "smallint",
    "integer": "int",
    "long": "bigint",
    "real": "float",
    "dec": "decimal",
    "numeric": "decimal",
    "timestamp_ltz": "timestamp",
}


def parse_columns(text: str) -> StructType:
    """The columns of a schema given as DDL or as Spark's JSON.

    A name may be a path (``address.zip INT``); it stays one name with dots.

    Raises:
        PipelineError: The text is neither; the message has the place.
    """
    from pyspark.sql.types import StructType

    if text.lstrip().startswith("{"):
        return StructType.fromJson(json.loads(text))
    return _Reader(text).columns()


class _Reader:
    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens: list[str] = []
        at = 0
        while text[at:].strip():
            found = _TOKEN.match(text, at)
            if found is None:
                raise self.wrong(text[at:].split(maxsplit=1)[0])
            self.tokens.append(found.group(1))
            at = found.end()
        self.at = 0

    def wrong(self, found: str) -> PipelineError:
        return PipelineError(
            f"The schema '{self.text}' does not parse at '{found}'.",
            hint='Write it like "id BIGINT, name STRING, tags ARRAY<STRING>".',
        )

    def peek(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def take(self, *wanted: str) -> str:
        token = self.peek()
        if not token or (wanted and token.lower() not in wanted):
            raise self.wrong(token or "its end")
        self.at += 1
        return token

    def skip(self, word: str) -> bool:
        if self.peek().lower() != word:
            return False
        self.at += 1
        return True

    def columns(self, end: str = "") -> StructType:
        from pyspark.sql.types import StructField, StructType

        fields: list[StructField] = []
        while self.peek() != end or not fields:
            names = [self.name()]
            while self.skip("."):
                names.append(self.name())
            self.skip(":")
            kind = self.type()
            nullable = True
            if self.skip("not"):
                self.take("null")
                nullable = False
            metadata = {}
            if self.skip("comment"):
                metadata["comment"] = self.take()[1:-1].replace("''", "'")
            fields.append(StructField(".".join(names), kind, nullable, metadata))
            if not self.skip(","):
                break
        if self.peek() != end:
            raise self.wrong(self.peek() or "its end")
        return StructType(fields)

    def name(self) -> str:
        token = self.take()
        if token.startswith("`"):
            return token[1:-1].replace("``", "`")
        if not token[0].isalnum() and token[0] != "_":
            raise self.wrong(token)
        return token

    def type(self) -> DataType:
        from pyspark.sql.types import ArrayType, MapType, StructType

        word = self.take().lower()
        if word == "struct":
            self.take("<")
            found = self.columns(">") if self.peek() != ">" else StructType([])
            self.take(">")
            return found
        if word == "array":
            self.take("<")
            element = self.type()
            self.take(">")
            return ArrayType(element)
        if word == "map":
            self.take("<")
            key = self.type()
            self.take(",")
            value = self.type()
            self.take(">")
            return MapType(key, value)
        return self.atom(word)

    def atom(self, word: str) -> DataType:
        from pyspark.sql import types as T

        name = _ATOMS.get(word, word)
        numbers: list[int] = []
        if self.skip("("):
            numbers.append(int(self.take()))
            if self.skip(","):
                numbers.append(int(self.take()))
            self.take(")")
        if name == "decimal":
            return T.DecimalType(*(numbers or [10, 0]))
        if name in {"char", "varchar"}:
            return T.StringType()
        if name == "interval":
            raise self.wrong(word)
        atoms: dict[str, type[DataType]] = {
            "string": T.StringType,
            "boolean": T.BooleanType,
            "tinyint": T.ByteType,
            "smallint": T.ShortType,
            "int": T.IntegerType,
            "bigint": T.LongType,
            "float": T.FloatType,
            "double": T.DoubleType,
            "date": T.DateType,
            "timestamp": T.TimestampType,
            "timestamp_ntz": T.TimestampNTZType,
            "binary": T.BinaryType,
            "void": T.NullType,
        }
        if name not in atoms:
            raise self.wrong(word)
        return atoms[name]()
