"""SQL sources: ``CREATE STREAMING TABLE``, ``MATERIALIZED VIEW``, ``TEMPORARY VIEW`` and ``FLOW``.

Grammar: Spark Declarative Pipelines SQL, with Databricks' ``CONSTRAINT ... EXPECT`` clause. Only
the frame of a statement is read here; the query itself goes to the engine as it is written.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from shoal.errors import PipelineError, ShoalError
from shoal.pipeline.definitions import Dataset, Flow, Kind
from shoal.pipeline.expectations import Action, Expectation

if TYPE_CHECKING:
    from sqlglot.tokenizer_core import Token

    from shoal.lake import Lake, TableName

__all__ = ["parse_file"]

_OPEN, _CLOSE = ("(", "["), (")", "]")


def parse_file(text: str, shown: str, lake: Lake) -> tuple[list[Dataset], list[Flow]]:
    """Reads the statements of a SQL file.

    Args:
        text: The file's text.
        shown: Its path for messages.
        lake: Gives names their schema.

    Raises:
        PipelineError: A statement is none of those that a pipeline may have.
    """
    import sqlglot
    from sqlglot.errors import SqlglotError

    try:
        tokens = sqlglot.tokenize(text, dialect="databricks")
    except SqlglotError as error:
        raise PipelineError(f"{shown}: {error}", hint=f"Mend {shown}.") from error
    statements: list[list[Token]] = [[]]
    for token in tokens:
        if token.token_type.name == "SEMICOLON":
            statements.append([])
        else:
            statements[-1].append(token)
    datasets: list[Dataset] = []
    flows: list[Flow] = []
    for statement in filter(None, statements):
        reader = _Statement(text, statement, f"{shown}:{statement[0].line}", lake)
        try:
            dataset, flow = reader.read()
        except ShoalError as error:
            if f"{shown}:" not in error.message:
                error.message = f"{reader.location}: {error.message}"
            raise
        datasets += [dataset] if dataset else []
        flows += [flow] if flow else []
    return datasets, flows


class _Statement:
    """Reads one statement from left to right."""

    def __init__(self, text: str, tokens: Sequence[Token], location: str, lake: Lake) -> None:
        self.text, self.tokens, self.location, self.lake = text, tokens, location, lake
        self.at = 0

    def word(self, ahead: int = 0) -> str:
        index = self.at + ahead
        return self.tokens[index].text.upper() if index < len(self.tokens) else ""

    def take(self, *words: str) -> bool:
        """Moves past these words if they are next."""
        flat = [part for word in words for part in word.split()]
        seen = " ".join(self.word(i) for i in range(len(flat))).split()[: len(flat)]
        if seen != flat:
            return False
        used = 0
        while used < len(flat):
            used += len(self.tokens[self.at].text.split())
            self.at += 1
        return True

    def error(self, expected: str) -> PipelineError:
        found = self.tokens[self.at].text if self.at < len(self.tokens) else "the end"
        return PipelineError(
            f"{self.location}: expected {expected}, found '{found}'.",
            hint="A pipeline's SQL file holds CREATE STREAMING TABLE, CREATE MATERIALIZED VIEW, "
            "CREATE TEMPORARY VIEW and CREATE FLOW statements.",
        )

    def read(self) -> tuple[Dataset | None, Flow | None]:
        if not self.take("CREATE"):
            raise self.error("CREATE")
        self.take("OR", "REFRESH") or self.take("OR", "REPLACE")
        if self.take("STREAMING", "TABLE") or self.take("STREAMING", "LIVE", "TABLE"):
            kind = Kind.STREAMING_TABLE
        elif self.take("MATERIALIZED", "VIEW"):
            kind = Kind.MATERIALIZED_VIEW
        elif self.take("TEMPORARY", "VIEW") or self.take("TEMP", "VIEW"):
            kind = Kind.TEMPORARY_VIEW
        elif self.take("FLOW"):
            return None, self.flow()
        else:
            raise self.error("STREAMING TABLE, MATERIALIZED VIEW, TEMPORARY VIEW or FLOW")
        self.take("IF", "NOT", "EXISTS")
        return self.dataset(kind)

    def name(self) -> TableName:
        parts = []
        while True:
            if self.at >= len(self.tokens):
                raise self.error("a name")
            parts.append(self.tokens[self.at].text)
            self.at += 1
            if self.word() != ".":
                break
            self.at += 1
        return self.lake.name(".".join(f"`{part}`" for part in parts))

    def flow(self) -> Flow:
        name = self.tokens[self.at].text if self.at < len(self.tokens) else ""
        self.at += 1
        if not self.take("AS", "INSERT", "INTO"):
            raise self.error("AS INSERT INTO")
        target = self.name()
        self.take("BY", "NAME")
        return Flow(name=name, target=target, query=self.rest(), location=self.location)

    def dataset(self, kind: Kind) -> tuple[Dataset, Flow | None]:
        name = self.name()
        columns: list[str] = []
        expectations: list[Expectation] = []
        partition_by: list[str] = []
        properties: dict[str, str] = {}
        comment: str | None = None
        while self.at < len(self.tokens) and not self.take("AS"):
            if self.word() == "(" and not columns and not expectations:
                columns, expectations = self.columns()
            elif self.take("PARTITIONED BY"):
                partition_by = self.list_()
            elif self.take("CLUSTER BY"):
                self.list_()
            elif self.take("COMMENT"):
                comment = self.tokens[self.at].text
                self.at += 1
            elif self.take("TBLPROPERTIES"):
                properties = dict(pair.split("=", 1) for pair in self.list_())
            elif self.take("USING", "DELTA"):
                continue
            else:
                raise self.error("AS, PARTITIONED BY, CLUSTER BY, COMMENT or TBLPROPERTIES")
        dataset = Dataset(
            name=name,
            kind=kind,
            location=self.location,
            comment=comment,
            partition_by=tuple(partition_by),
            schema=", ".join(columns) or None,
            properties=properties,
            expectations=tuple(expectations),
        )
        if self.at >= len(self.tokens):
            if kind is not Kind.STREAMING_TABLE:
                raise self.error("AS and a query")
            return dataset, None
        flow = Flow(name=str(name), target=name, query=self.rest(), location=self.location)
        return dataset, flow

    def rest(self) -> str:
        """The query: everything that is left."""
        if self.at >= len(self.tokens):
            raise self.error("a query")
        return self.text[self.tokens[self.at].start : self.tokens[-1].end + 1]

    def group(self) -> list[list[Token]]:
        """A parenthesised list: the tokens of each item."""
        if self.word() != "(":
            raise self.error("'('")
        items: list[list[Token]] = [[]]
        depth = 0
        while self.at < len(self.tokens):
            token = self.tokens[self.at]
            self.at += 1
            sign = "" if token.token_type.name == "STRING" else token.text
            depth += (sign in _OPEN) - (sign in _CLOSE)
            if depth == 0:
                return items if items[0] else []
            if sign == "," and depth == 1:
                items.append([])
            elif not (sign == "(" and depth == 1 and not items[-1] and len(items) == 1):
                items[-1].append(token)
        raise self.error("')'")

    def list_(self) -> list[str]:
        return ["".join(token.text for token in item) for item in self.group()]

    def columns(self) -> tuple[list[str], list[Expectation]]:
        columns, expectations = [], []
        for item in self.group():
            words = [token.text.upper() for token in item]
            text = self.text[item[0].start : item[-1].end + 1]
            if words[0] != "CONSTRAINT":
                columns.append(text)
                continue
            if len(words) < 5 or words[2] != "EXPECT" or words[3] != "(":
                raise PipelineError(
                    f"{self.location}: expected CONSTRAINT name EXPECT (...), found '{text}'.",
                    hint="Write: CONSTRAINT positive EXPECT (amount > 0) ON VIOLATION DROP ROW",
                )
            close = max(
                index
                for index, token in enumerate(item)
                if token.text == ")" and token.token_type.name != "STRING"
            )
            tail = " ".join(words[close + 1 :])
            actions: dict[str, Action] = {
                "": "warn",
                "ON VIOLATION DROP ROW": "drop",
                "ON VIOLATION FAIL UPDATE": "fail",
            }
            if tail not in actions:
                raise PipelineError(
                    f"{self.location}: expected ON VIOLATION DROP ROW or ON VIOLATION FAIL UPDATE, "
                    f"found '{tail}'.",
                    hint=f"Mend constraint '{item[1].text}'.",
                )
            condition = self.text[item[4].start : item[close - 1].end + 1]
            expectations.append(
                Expectation(name=item[1].text, condition=condition, action=actions[tail])
            )
        return columns, expectations
