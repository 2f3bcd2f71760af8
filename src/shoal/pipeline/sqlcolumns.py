"""What stands in the brackets behind a table's name in SQL: columns and expectations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from shoal.errors import PipelineError
from shoal.pipeline.expectations import Action, Expectation

if TYPE_CHECKING:
    from sqlglot.tokenizer_core import Token

    from shoal.pipeline.sqltext import Reader

__all__ = ["read_columns"]

_INFORMATIVE = ("PRIMARY KEY", "FOREIGN KEY")
_REFUSED = ("GENERATED", "DEFAULT", "MASK")
_ACTIONS: dict[str, Action] = {
    "": "warn",
    "ON VIOLATION DROP ROW": "drop",
    "ON VIOLATION FAIL UPDATE": "fail",
}


def read_columns(reader: Reader) -> tuple[list[str], list[Expectation]]:
    """Reads column definitions and constraints.

    Primary and foreign keys are information only, as they are in Databricks: they are left out.

    Returns:
        The columns as DDL, and the expectations.

    Raises:
        PipelineError: An item is neither a column nor ``CONSTRAINT name EXPECT (...)``.
    """
    columns: list[tuple[str, bool]] = []
    expectations: list[Expectation] = []
    for item in reader.group():
        if not item:
            raise PipelineError(
                f"{reader.location}: a column's name is missing between two commas.",
                hint="Remove the comma.",
            )
        words = " ".join(token.text.upper() for token in item)
        key = " ".join(words.split()[2:]) if words.startswith("CONSTRAINT") else words
        if key.startswith(_INFORMATIVE):
            continue
        if words.startswith("CONSTRAINT"):
            expectations.append(_expectation(reader, item))
        else:
            columns.append(_column(reader, item))
    if len({typed for _, typed in columns}) > 1:
        one = next(text for text, typed in columns if not typed)
        raise PipelineError(
            f"{reader.location}: some columns have a type, and {one} has none.",
            hint="Give all of them types, or none.",
        )
    return [text for text, _ in columns], expectations


def _column(reader: Reader, item: Sequence[Token]) -> tuple[str, bool]:
    """A column as DDL, without keys, and without a comment if untyped; whether it has a type."""
    end = len(item)
    for index in range(1, len(item)):
        word = item[index].text.upper()
        string = item[index].token_type.name == "STRING"
        if word in _REFUSED and not string:
            raise PipelineError(
                f"{reader.location}: column '{item[0].text}' has a {word} clause, which is not "
                "supported.",
                hint="Compute the value in the query.",
            )
        if word.startswith(("PRIMARY", "REFERENCES")) and not string:
            end = min(end, index)
    kept = item[:end]
    if len(kept) > 1 and kept[1].text.upper() == "COMMENT":
        kept = kept[:1]
    return reader.text[kept[0].start : kept[-1].end + 1], len(kept) > 1


def _expectation(reader: Reader, item: Sequence[Token]) -> Expectation:
    words = [token.text.upper() for token in item]
    if len(words) < 5 or words[2] != "EXPECT" or words[3] != "(":
        text = reader.text[item[0].start : item[-1].end + 1]
        raise PipelineError(
            f"{reader.location}: expected CONSTRAINT name EXPECT (...), found '{text}'.",
            hint="Write: CONSTRAINT positive EXPECT (amount > 0) ON VIOLATION DROP ROW",
        )
    close = max(
        index
        for index, token in enumerate(item)
        if token.text == ")" and token.token_type.name != "STRING"
    )
    tail = " ".join(words[close + 1 :])
    if tail not in _ACTIONS:
        raise PipelineError(
            f"{reader.location}: expected ON VIOLATION DROP ROW or ON VIOLATION FAIL UPDATE, "
            f"found '{tail}'.",
            hint=f"Mend constraint '{item[1].text}'.",
        )
    condition = reader.written(item[4:close])
    return Expectation(name=item[1].text, condition=condition, action=_ACTIONS[tail])
