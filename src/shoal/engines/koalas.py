"""pandas-on-Spark's internal functions, said in functions that every engine has.

``pyspark.pandas`` calls functions that only Apache Spark's server knows. In a plan they are plain
unresolved functions, so each is replaced by an expression with the same values.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from shoal.engines.linear import children
from shoal.errors import EngineError

if TYPE_CHECKING:
    from google.protobuf.message import Message
    from pyspark.sql.connect.proto import Expression

__all__ = ["uses_internal_functions", "without_internal_functions"]


def uses_internal_functions(message: Message) -> bool:
    """True when the message may hold a function that `without_internal_functions` replaces."""
    text = message.SerializeToString()
    return any(name.encode() in text for name in (*_REPLACED, *_ABSENT))


def without_internal_functions(message: Message) -> None:
    """Replaces the internal functions inside a plan or request, in place.

    ``distributed_sequence_id`` counts all rows 0, 1, 2, ... in the order of the data.

    Raises:
        EngineError: One of them cannot be said otherwise.
    """
    for item in children(message):
        without_internal_functions(item)
    if message.DESCRIPTOR.name != "Expression":
        return
    expression: Any = message
    if expression.WhichOneof("expr_type") != "unresolved_function":
        return
    called = expression.unresolved_function
    name = called.function_name
    if name in _ABSENT:
        raise EngineError(
            f"pandas-on-Spark's {_ABSENT[name]} needs Spark's internal function '{name}', which "
            "the embedded engine does not have.",
            hint="Do this step with .to_spark() and Spark's functions, or in a @shoal.pandas "
            "function.",
        )
    replace = _REPLACED.get(name)
    if replace is not None:
        expression.CopyFrom(replace(list(called.arguments)))


def _call(name: str, *arguments: Expression) -> Expression:
    from pyspark.sql.connect.proto import Expression

    function = Expression.UnresolvedFunction(function_name=name, arguments=arguments)
    return Expression(unresolved_function=function)


def _number(value: float) -> Expression:
    from pyspark.sql.connect.proto import Expression

    literal = Expression.Literal(integer=value) if isinstance(value, int) else None
    return Expression(literal=literal or Expression.Literal(double=value))


def _value(literal: Expression) -> Any:
    inner = literal.literal
    return getattr(inner, str(inner.WhichOneof("literal_type")))


def _sequence(_: list[Expression]) -> Expression:
    from pyspark.sql.connect.proto import Expression

    order = Expression.SortOrder(
        child=_call("monotonically_increasing_id"),
        direction=Expression.SortOrder.SORT_DIRECTION_ASCENDING,
        null_ordering=Expression.SortOrder.SORT_NULLS_FIRST,
    )
    window = Expression.Window(window_function=_call("row_number"), order_spec=[order])
    counted = _call("-", Expression(window=window), _number(1))
    cast = Expression.Cast(expr=counted, type_str="bigint")
    return Expression(cast=cast)


def _spread(sample: str, population: str) -> Callable[[list[Expression]], Expression]:
    """A function of ``(..., ddof)``: n / (n - ddof) times the population's."""

    def replace(arguments: list[Expression]) -> Expression:
        *columns, ddof = arguments
        freedom = int(_value(ddof))
        if freedom in (0, 1):
            return _call(population if freedom == 0 else sample, *columns)
        rows = _call("count", *columns)
        scale = _call("/", rows, _call("nullif", _call("-", rows, ddof), _number(0)))
        if sample.startswith("stddev"):
            scale = _call("sqrt", scale)
        return _call("*", _call(population, *columns), scale)

    return replace


def _skew(arguments: list[Expression]) -> Expression:
    # pandas corrects the moment for bias: sqrt(n (n - 1)) / (n - 2).
    rows = _call("count", *arguments)
    less_two = _call("nullif", _call("-", rows, _number(2)), _number(0))
    scale = _call("sqrt", _call("*", rows, _call("-", rows, _number(1))))
    return _call("/", _call("*", _call("skewness", *arguments), scale), less_two)


def _kurt(arguments: list[Expression]) -> Expression:
    # (n - 1) / ((n - 2) (n - 3)) * ((n + 1) g + 6), g the excess kurtosis of the population.
    rows = _call("count", *arguments)
    less = [_call("-", rows, _number(number)) for number in (1, 2, 3)]
    inner = _call("*", _call("+", rows, _number(1)), _call("kurtosis", *arguments))
    below = _call("nullif", _call("*", less[1], less[2]), _number(0))
    return _call("/", _call("*", less[0], _call("+", inner, _number(6))), below)


def _try_divide(arguments: list[Expression]) -> Expression:
    # Sail 0.7.2 has it for whole numbers only.
    above, below = arguments
    return _call("/", above, _call("nullif", below, _number(0)))


_ABSENT = {
    "collect_top_k": "mode",
    "ewm": "ewm",
    "null_index": "interpolate",
    "pandas_mode": "mode",
    "timestamp_ntz_to_long": "timestamps as numbers",
}
_REPLACED: dict[str, Callable[[list[Any]], Any]] = {
    "distributed_id": lambda _: _call("monotonically_increasing_id"),
    "distributed_sequence_id": _sequence,
    "pandas_covar": _spread("covar_samp", "covar_pop"),
    "pandas_kurt": _kurt,
    "pandas_product": lambda arguments: _call("product", arguments[0]),
    "pandas_skew": _skew,
    "pandas_stddev": _spread("stddev_samp", "stddev_pop"),
    "pandas_var": _spread("var_samp", "var_pop"),
    "try_divide": _try_divide,
}
