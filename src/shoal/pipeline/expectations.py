"""Expectations: conditions that rows of a table should meet.

The decorators are those of Databricks' ``dp.expect*``. They go *below* the table's decorator::

    @dp.table(name="silver.flights")
    @shoal.expect_or_drop("departed", "dep_time IS NOT NULL")
    def flights(): ...

A row meets a condition only if it is true; false and NULL both break it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from shoal.errors import PipelineError

__all__ = [
    "Action",
    "Expectation",
    "declared",
    "expect",
    "expect_all",
    "expect_all_or_drop",
    "expect_all_or_fail",
    "expect_or_drop",
    "expect_or_fail",
    "mark_registered",
    "registered",
]

Action = Literal["warn", "drop", "fail"]
Function = TypeVar("Function", bound=Callable[..., Any])
_ATTRIBUTE = "__shoal_expectations__"
_REGISTERED = "__shoal_registered__"


@dataclass(frozen=True, kw_only=True)
class Expectation:
    """One condition on a table's rows.

    Args:
        name: Its name, unique within the table.
        condition: A boolean SQL expression over the table's columns.
        action: What happens to a row that breaks it: it is kept and counted (``warn``), left out
            and counted (``drop``), or the whole update fails (``fail``).
    """

    name: str
    condition: str
    action: Action

    def __post_init__(self) -> None:
        from sqlglot import exp, parse_one
        from sqlglot.errors import SqlglotError

        try:
            tree = parse_one(f"SELECT 1 WHERE {self.condition}", dialect="databricks")
        except SqlglotError as error:
            raise PipelineError(
                f"Expectation '{self.name}' does not parse: {self.condition!r}.",
                hint="Write a boolean SQL expression, for example: amount > 0",
            ) from error
        if not isinstance(tree, exp.Select) or not tree.args.get("where"):
            raise PipelineError(
                f"Expectation '{self.name}' is no condition: {self.condition!r}.",
                hint="Write a boolean SQL expression, for example: amount > 0",
            )


def declared(function: Callable[..., Any]) -> tuple[Expectation, ...]:
    """The expectations that were declared on a function, topmost first."""
    return tuple(getattr(function, _ATTRIBUTE, ()))


def mark_registered(function: Callable[..., Any]) -> None:
    """Notes that a dataset's decorator took a function as it is: what comes later comes too late.

    What takes no attributes (a builtin, say) stays unmarked.
    """
    with contextlib.suppress(AttributeError):
        setattr(function, _REGISTERED, True)


def registered(function: object) -> bool:
    """True for what stands above a dataset's decorator: no function, or one that was taken."""
    return not callable(function) or getattr(function, _REGISTERED, False)


def _declare(conditions: Mapping[str, str], action: Action) -> Callable[[Function], Function]:
    new = tuple(
        Expectation(name=name, condition=condition, action=action)
        for name, condition in conditions.items()
    )

    def decorate(function: Function) -> Function:
        if registered(function):
            raise PipelineError(
                f"@expect ({', '.join(conditions)}) stands above the table's decorator.",
                hint="Put @dp.table or @dp.materialized_view on top, the expectations below it.",
            )
        setattr(function, _ATTRIBUTE, (*new, *declared(function)))
        return function

    return decorate


def expect(name: str, condition: str) -> Callable[[Function], Function]:
    """Counts the rows that break a condition, and keeps them.

    Args:
        name: Name of the expectation.
        condition: Boolean SQL expression, for example ``"dep_time IS NOT NULL"``.

    Raises:
        PipelineError: The condition does not parse.
    """
    return _declare({name: condition}, "warn")


def expect_or_drop(name: str, condition: str) -> Callable[[Function], Function]:
    """Leaves out the rows that break a condition, and counts them; see `expect`."""
    return _declare({name: condition}, "drop")


def expect_or_fail(name: str, condition: str) -> Callable[[Function], Function]:
    """Fails the table's update if a row breaks a condition: nothing is committed; see `expect`."""
    return _declare({name: condition}, "fail")


def expect_all(conditions: Mapping[str, str]) -> Callable[[Function], Function]:
    """Several `expect` at once: name to condition."""
    return _declare(conditions, "warn")


def expect_all_or_drop(conditions: Mapping[str, str]) -> Callable[[Function], Function]:
    """Several `expect_or_drop` at once: name to condition."""
    return _declare(conditions, "drop")


def expect_all_or_fail(conditions: Mapping[str, str]) -> Callable[[Function], Function]:
    """Several `expect_or_fail` at once: name to condition."""
    return _declare(conditions, "fail")
