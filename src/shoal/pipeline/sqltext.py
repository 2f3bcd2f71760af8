"""Reading SQL statements from left to right, and what is written for the engine to read."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from shoal.errors import PipelineError

if TYPE_CHECKING:
    from sqlglot.tokenizer_core import Token

    from shoal.lake import Lake, TableName

__all__ = ["Reader", "substituted"]

_OPEN, _CLOSE = ("(", "["), (")", "]")
_SET = re.compile(r"^[ \t]*SET\s+([\w.]+)\s*=\s*([^;]*?)\s*(?:;|\Z)", re.IGNORECASE | re.MULTILINE)
_KEY = re.compile(r"\$\{([\w.]+)\}")


def substituted(text: str, shown: str, configuration: Mapping[str, str]) -> str:
    """The text with ``${key}`` replaced by the pipeline's configuration and the file's ``SET``.

    Args:
        text: A SQL file's text.
        shown: Its path for messages.
        configuration: The pipeline's configuration; a ``SET key = value`` of the file goes first.

    Raises:
        PipelineError: A key has no value.
    """
    known = {**configuration, **{found[1]: found[2] for found in _SET.finditer(text)}}

    def value(found: re.Match[str]) -> str:
        before = text[: found.start()]
        if found[1] in known:
            return known[found[1]]
        if "--" in before.rpartition("\n")[2]:
            return found[0]
        raise PipelineError(
            f"{shown}:{before.count(chr(10)) + 1}: '{found[0]}' has no value.",
            hint=f"Add it to configuration: in spark-pipeline.yml, or write SET {found[1]} = ...;",
        )

    return _KEY.sub(value, text)


class Reader:
    """Reads one statement.

    Args:
        text: The file's text.
        tokens: The statement's tokens.
        location: ``file:line`` for messages.
        lake: Gives names their schema.
    """

    def __init__(self, text: str, tokens: Sequence[Token], location: str, lake: Lake) -> None:
        self.text, self.tokens, self.location, self.lake = text, tokens, location, lake
        self.at = 0

    @property
    def ended(self) -> bool:
        """Nothing is left."""
        return self.at >= len(self.tokens)

    def word(self, ahead: int = 0) -> str:
        """A word that comes next, in upper case; empty behind the end."""
        index = self.at + ahead
        return self.tokens[index].text.upper() if index < len(self.tokens) else ""

    def sees(self, *words: str) -> bool:
        """Whether these words are next."""
        flat = [part for word in words for part in word.split()]
        seen = " ".join(self.word(i) for i in range(len(flat))).split()[: len(flat)]
        return seen == flat

    def take(self, *words: str) -> bool:
        """Moves past these words if they are next."""
        if not self.sees(*words):
            return False
        used, wanted = 0, sum(len(word.split()) for word in words)
        while used < wanted:
            used += len(self.tokens[self.at].text.split())
            self.at += 1
        return True

    def error(self, expected: str) -> PipelineError:
        """The error for what stands here instead of what was expected."""
        found = "the end" if self.ended else self.tokens[self.at].text
        return PipelineError(
            f"{self.location}: expected {expected}, found '{found}'.",
            hint="A pipeline's SQL file holds CREATE STREAMING TABLE, CREATE MATERIALIZED VIEW, "
            "CREATE TEMPORARY VIEW, CREATE FLOW, APPLY CHANGES INTO and SET statements.",
        )

    def next(self, expected: str) -> str:
        """Moves past one token and gives its text."""
        if self.ended:
            raise self.error(expected)
        self.at += 1
        return self.tokens[self.at - 1].text

    def name(self) -> TableName:
        """A table's name; the old ``LIVE.`` before it means nothing."""
        parts = [self.next("a name")]
        while self.word() == ".":
            self.at += 1
            parts.append(self.next("a name"))
        if len(parts) > 1 and parts[0].upper() == "LIVE":
            parts = parts[1:]
        return self.lake.name(".".join(f"`{part}`" for part in parts))

    def rest(self) -> str:
        """The query: everything that is left."""
        if self.ended:
            raise self.error("a query")
        start, self.at = self.at, len(self.tokens)
        return self.written(self.tokens[start:])

    def written(self, tokens: Sequence[Token]) -> str:
        """These tokens as they are written, without ``LIVE.`` before names."""
        pieces: list[str] = []
        at = tokens[0].start
        for index, token in enumerate(tokens[:-2]):
            before = tokens[index - 1].text if index else ""
            live = token.text.upper() == "LIVE" and token.token_type.name != "STRING"
            if live and before != "." and tokens[index + 1].text == ".":
                pieces.append(self.text[at : token.start])
                at = tokens[index + 2].start
        return "".join([*pieces, self.text[at : tokens[-1].end + 1]])

    def group(self) -> list[list[Token]]:
        """A parenthesised list: the tokens of each item."""
        if self.word() != "(":
            raise self.error("'('")
        items: list[list[Token]] = [[]]
        depth = 0
        while not self.ended:
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
        """A parenthesised list: the text of each item, without spaces."""
        return ["".join(token.text for token in item) for item in self.group()]

    def until(self, *clauses: str) -> list[Token]:
        """Moves to the next of these clauses outside brackets, or to the end; what was passed."""
        start, depth = self.at, 0
        while not self.ended:
            token = self.tokens[self.at]
            if depth == 0 and any(self.sees(clause) for clause in clauses):
                break
            sign = "" if token.token_type.name == "STRING" else token.text
            depth += (sign in _OPEN) - (sign in _CLOSE)
            self.at += 1
        if self.at == start:
            raise self.error("an expression")
        return list(self.tokens[start : self.at])
