"""A plan as text that people can compare: one line per operator, inputs indented below it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from shoal.engines.plan import function_text

if TYPE_CHECKING:
    from pyspark.sql.connect.proto import Plan

__all__ = ["outline"]

_UNSAID = {"common", "plan_id", "is_user_defined_function", "source_info"}


def outline(plan: Plan) -> str:
    """What a plan says, the same in every process and for equal plans.

    Args:
        plan: An unresolved Spark Connect plan.
    """
    return "\n".join(_relation(plan.root, ""))


def _relation(relation: Any, indent: str) -> Iterator[str]:
    kind = relation.WhichOneof("rel_type") or "nothing"
    said: list[str] = []
    below: list[Any] = []
    if kind != "nothing":
        for field, value in getattr(relation, kind).ListFields():
            if field.message_type is not None and field.message_type.name == "Relation":
                below += value if field.is_repeated else [value]
            elif field.name not in _UNSAID:
                said.append(_field(field, value))
    first, *rest = f"{kind} {', '.join(said)}".rstrip().splitlines()
    yield indent + first
    yield from (f"{indent}  {line.strip()}" for line in rest)
    for inner in below:
        yield from _relation(inner, indent + "  ")


def _field(field: Any, value: Any) -> str:
    """One field: an expression as it is, anything else with its name."""
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return ", ".join(f"{key}={_plain(value[key])}" for key in sorted(value))
    items = list(value) if field.is_repeated else [value]
    if field.enum_type is not None:
        names = field.enum_type.values_by_number
        items = [names[item].name if item in names else item for item in items]
    text = ", ".join(map(_plain, items))
    spoken = field.message_type is not None and field.message_type.name == "Expression"
    return text if spoken or field.name in {"query", "sql"} else f"{field.name}={text}"


def _plain(value: Any) -> str:
    if not hasattr(value, "DESCRIPTOR"):
        return value.hex() if isinstance(value, bytes) else str(value)
    if value.DESCRIPTOR.name == "Expression":
        return _expression(value)
    if value.DESCRIPTOR.name == "Alias":
        return f"{_expression(value.expr)} AS {'.'.join(value.name)}"
    fields = [(f, v) for f, v in value.ListFields() if f.name not in _UNSAID]
    if len(fields) == 1 and isinstance(fields[0][1], str):
        return str(fields[0][1])
    said = [_field(*field) for field in fields]
    return f"{value.DESCRIPTOR.name}({', '.join(said)})"


def _expression(value: Any) -> str:
    kind = value.WhichOneof("expr_type") or ""
    inner: Any = getattr(value, kind) if kind else None
    if kind == "literal":
        literal = inner.WhichOneof("literal_type")
        held = getattr(inner, literal) if literal else None
        return repr(held) if isinstance(held, str | int | float) else _plain(held or inner)
    if kind == "unresolved_attribute":
        return str(inner.unparsed_identifier)
    if kind == "expression_string":
        return str(inner.expression)
    if kind == "unresolved_function":
        return f"{inner.function_name}({', '.join(map(_expression, inner.arguments))})"
    if kind == "common_inline_user_defined_function":
        command = inner.python_udf.command
        code = hashlib.sha256(function_text(command).encode()).hexdigest()[:8] if command else ""
        return f"{inner.function_name}[{code}]({', '.join(map(_expression, inner.arguments))})"
    return _plain(inner) if inner is not None else ""
