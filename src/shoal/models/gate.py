"""Gates: conditions on metrics that a version must meet to be promoted, such as ``mae < 3``."""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from shoal.errors import ModelError, nearest

__all__ = ["Gate", "GateResult"]

_COMPARE: dict[type[ast.cmpop], tuple[str, Callable[[float, float], bool]]] = {
    ast.Lt: ("<", operator.lt),
    ast.LtE: ("<=", operator.le),
    ast.Gt: (">", operator.gt),
    ast.GtE: (">=", operator.ge),
    ast.Eq: ("==", operator.eq),
    ast.NotEq: ("!=", operator.ne),
}
_ARITHMETIC: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_LONGEST = 1_000


@dataclass(frozen=True, kw_only=True)
class GateResult:
    """Whether a gate let a version pass.

    Attributes:
        passed: It did.
        said: Each comparison that was made, with its numbers: ``mae < champion.mae * 0.99: 3.2 <
            3.1 is false``.
        values: The metrics that were compared, by name.
    """

    passed: bool
    said: tuple[str, ...]
    values: Mapping[str, float]


class Gate:
    """A condition over a candidate's metrics and the champion's.

    Comparisons, ``+ - * /``, ``and``, ``or``, ``not``, parentheses and numbers; a name is a metric
    of the candidate, ``champion.<name>`` is the champion's. Nothing else is understood, and nothing
    of it is run as Python.

    Args:
        text: The condition, such as ``mae < champion.mae * 0.99 and failed_share < 0.01``.

    Raises:
        ModelError: It is no such condition; the message points at the place.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        if len(text) > _LONGEST:
            raise ModelError(f"The gate has {len(text):,} characters; at most {_LONGEST:,} count.")
        try:
            self._tree = ast.parse(text.strip(), mode="eval").body
        except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
            column = (getattr(error, "offset", None) or len(text.strip()) + 1) - 1
            raise self._wrong("is no condition", column) from None
        try:
            self._check(self._tree)
        except RecursionError:
            raise self._wrong("is nested too deeply", 0) from None
        if not isinstance(self._tree, ast.Compare | ast.BoolOp | ast.UnaryOp) or (
            isinstance(self._tree, ast.UnaryOp) and not isinstance(self._tree.op, ast.Not)
        ):
            raise self._wrong("compares nothing", 0)

    @property
    def needs_champion(self) -> bool:
        """Whether it compares with the champion."""
        return any(isinstance(node, ast.Attribute) for node in ast.walk(self._tree))

    def judge(
        self, candidate: Mapping[str, float], champion: Mapping[str, float] | None
    ) -> GateResult:
        """Whether a candidate passes.

        Args:
            candidate: Its metrics.
            champion: The champion's; None while there is none.

        Raises:
            ModelError: The gate names a metric that was not measured.
        """
        judging = _Judging(gate=self.text, candidate=candidate, champion=champion or {})
        passed = judging.value(self._tree)
        return GateResult(
            passed=bool(passed), said=tuple(judging.said), values=dict(judging.values)
        )

    def _wrong(self, what: str, column: int) -> ModelError:
        text = self.text.strip()
        return ModelError(
            f"promote_if {what} at character {column + 1}: {text!r}\n  {text}\n  {' ' * column}^",
            hint='Compare metrics: promote_if="mae < champion.mae * 0.99 and failed_share < 0.01"',
        )

    def _check(self, node: ast.expr) -> None:
        match node:
            case ast.BoolOp():
                parts = node.values
            case ast.UnaryOp(op=ast.Not() | ast.USub()):
                parts = [node.operand]
            case ast.Compare() if all(type(op) in _COMPARE for op in node.ops):
                parts = [node.left, *node.comparators]
            case ast.BinOp() if type(node.op) in _ARITHMETIC:
                parts = [node.left, node.right]
            case ast.Name() | ast.Attribute(value=ast.Name(id="champion")):
                if isinstance(node, ast.Name) and node.id == "champion":
                    raise self._wrong("names no metric of the champion", node.col_offset)
                return
            case ast.Constant(value=int() | float()) if not isinstance(node.value, bool):
                return
            case _:
                raise self._wrong("has what no gate may have", node.col_offset)
        for part in parts:
            self._check(part)


@dataclass(frozen=True, kw_only=True)
class _Judging:
    """One walk over a checked gate, and what was compared on the way."""

    gate: str
    candidate: Mapping[str, float]
    champion: Mapping[str, float]
    said: list[str] = field(default_factory=list)
    values: dict[str, float] = field(default_factory=dict)

    def value(self, node: Any) -> Any:
        match node:
            case ast.Constant():
                return float(str(node.value))
            case ast.Name():
                return self._metric(node.id, node.id, self.candidate, "the candidate")
            case ast.Attribute():
                text = f"champion.{node.attr}"
                return self._metric(text, node.attr, self.champion, "the champion")
            case ast.BoolOp():
                parts = [self.value(part) for part in node.values]  # all are told
                return all(parts) if isinstance(node.op, ast.And) else any(parts)
            case ast.UnaryOp(op=ast.Not()):
                return not self.value(node.operand)
            case ast.UnaryOp():
                return -self.value(node.operand)
            case ast.BinOp():
                try:
                    compute = _ARITHMETIC[type(node.op)]
                    return compute(self.value(node.left), self.value(node.right))
                except ZeroDivisionError:
                    return math.nan
        return self._compared(node)

    def _metric(self, text: str, name: str, metrics: Mapping[str, float], whose: str) -> float:
        if name not in metrics:
            close = nearest(name, metrics)
            raise ModelError(
                f"The gate {self.gate!r} needs {text}, which was not measured of {whose}.",
                hint=f"Did you mean {close}?" if close else None,
            )
        self.values[text] = metrics[name]
        return metrics[name]

    def _compared(self, node: ast.Compare) -> bool:
        numbers = [self.value(part) for part in (node.left, *node.comparators)]
        held = True
        for op, left, right in zip(node.ops, numbers[:-1], numbers[1:], strict=True):
            sign, compare = _COMPARE[type(op)]
            held = held and compare(left, right)
            word = "true" if compare(left, right) else "false"
            self.said.append(f"{ast.unparse(node)}: {left:.6g} {sign} {right:.6g} is {word}")
        return held
