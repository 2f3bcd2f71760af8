"""Declaring a search for a model's parameters: which values, how many trials, for whom."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shoal.errors import ModelError, nearest

__all__ = ["Search", "source_text"]


@dataclass(frozen=True, kw_only=True)
class Search:
    """A search for the parameters of a model's function.

    Trials are measured on the last share of each segment's training rows; the rows that the
    declaration holds out are never seen by a search.

    Example::

        @shoal.model(table="gold.x", target="y", by=["carrier"], time="day", search=shoal.Search(
            space={"alpha": FloatDistribution(1e-3, 1e3, log=True), "degree": [1, 2, 3]}, trials=30
        ))
        def delay(alpha=1.0, degree=1): ...

    Attributes:
        space: The values to choose from: a dict of parameter names to Optuna distributions or
            lists of choices; a function of an Optuna trial that suggests and returns such a dict;
            or a Hyperopt space, a dict of ``hp.*`` expressions.
        trials: How many trials are made, of each segment or group where it is not one search.
        per: ``fleet``: all segments share the best parameters. ``segment``: each has its own. The
            first of the ``by`` columns, such as ``["carrier"]``: each of their values has its own.
            Other columns, such as ``"region"``: clusters of segments, each of which has one value
            of them in all its rows; they are no features unless they are named as such.
        sampler: An Optuna sampler, or a function of a seed that returns one; for a Hyperopt space
            an algorithm such as ``tpe.suggest``. Default Optuna's ``TPESampler``, and per segment
            random candidates that all segments share.
        pruner: An Optuna pruner; default ``MedianPruner``. It is told the metric after growing
            shares of 16 and more segments; of a single model after 12, 25 and 50% of the trees of
            XGBoost or LightGBM, or of a net's epochs. Other models are measured in one piece, and
            Hyperopt prunes nothing.
        validation: The share of the training rows that trials are measured on.
        parallel: Trials of a model without segments that are chosen at once and measured side by
            side, each in a process of one thread. What is found depends on this number, and on no
            other. Trials of a fleet take all processes anyway.
    """

    space: Any
    trials: int = 30
    per: str | Sequence[str] = "fleet"
    sampler: Any = None
    pruner: Any = None
    validation: float = 0.2
    parallel: int = 1

    @property
    def is_hyperopt(self) -> bool:
        """Whether the space is made of Hyperopt's expressions."""
        return any(_library(part) == "hyperopt" for part in _parts(self.space))

    @property
    def names(self) -> tuple[str, ...] | None:
        """The parameters that a dict names; None where only a trial tells."""
        return tuple(self.space) if isinstance(self.space, Mapping) else None

    def columns(self, by: Sequence[str]) -> tuple[str, ...]:
        """The key columns whose values each have a search of their own."""
        if isinstance(self.per, str) and self.per in ("fleet", "segment"):
            return tuple(by) if self.per == "segment" else ()
        return (self.per,) if isinstance(self.per, str) else tuple(self.per)

    def clusters(self, by: Sequence[str]) -> tuple[str, ...]:
        """The columns that put segments into clusters; none where ``per`` says otherwise."""
        columns = self.columns(by)
        return () if columns == tuple(by)[: len(columns)] else columns

    def check(self, where: str, function: Callable[..., Any], by: Sequence[str]) -> None:
        """Checks the search of one model.

        Raises:
            ModelError: The space is empty or names no parameter of the function, or another
                setting is wrong.
        """
        if self.trials < 1:
            raise ModelError(f"{where}: search trials is {self.trials}; expected 1 or more.")
        if not 0 < self.validation < 1:
            raise ModelError(
                f"{where}: search validation is {self.validation}; expected 0 < validation < 1."
            )
        if self.parallel < 1 or (self.parallel > 1 and by):
            raise ModelError(
                f"{where}: search parallel is {self.parallel}; expected 1 or more, and 1 with by=: "
                "a fleet's trial is measured on its segments side by side."
            )
        if self.per != "fleet" and not by:
            raise ModelError(
                f"{where}: search per={self.per!r}, but the model has no segments: it declares no "
                "by; expected 'fleet'."
            )
        self._check_space(where)
        for name in self.names or ():
            check_parameter(where, function, name)

    def _check_space(self, where: str) -> None:
        space = self.space
        if callable(space) or (_library(space) == "hyperopt"):
            return
        if not isinstance(space, Mapping):
            raise ModelError(
                f"{where}: search space is a {type(space).__name__}; expected a dict of parameters "
                "or a function of an Optuna trial."
            )
        if not space:
            raise ModelError(f"{where}: search space is empty: there is nothing to choose from.")
        for name, values in space.items():
            if _library(values) in ("optuna", "hyperopt"):
                if _library(values) == "optuna" and self.is_hyperopt:
                    raise ModelError(
                        f"{where}: search space mixes Optuna's distributions and Hyperopt's."
                    )
                continue
            if not isinstance(values, list | tuple) or not values:
                raise ModelError(
                    f"{where}: search space of {name!r} is {values!r}; expected a list of choices "
                    "or a distribution.",
                    hint=f'"{name}": optuna.distributions.FloatDistribution(0.01, 100, log=True)',
                )

    def description(self) -> dict[str, object]:
        """What makes two searches the same, whatever their number of trials; plain values."""
        space: object
        if callable(self.space) and _library(self.space) != "hyperopt":
            space = source_text(self.space)
        elif isinstance(self.space, Mapping):
            space = {name: str(values) for name, values in self.space.items()}
        else:
            space = str(self.space)
        return {
            "space": space,
            "per": list(self.per) if not isinstance(self.per, str) else self.per,
            "sampler": _named(self.sampler),
            "pruner": _named(self.pruner),
            "validation": self.validation,
            # Only what was declared: searches of before there were rounds stay what they are.
            **({"parallel": self.parallel} if self.parallel > 1 else {}),
        }


def check_parameter(where: str, function: Callable[..., Any], name: str) -> None:
    """Checks that a function takes a parameter.

    Raises:
        ModelError: It does not; names the nearest that it does take.
    """
    parameters = inspect.signature(function).parameters
    kinds = {p.kind for p in parameters.values()}
    if name in parameters or inspect.Parameter.VAR_KEYWORD in kinds:
        return
    near = nearest(name, parameters)
    raise ModelError(
        f"{where}: search space names {name!r}, which is no parameter of the function; it takes "
        f"{', '.join(parameters) or 'none'}.",
        hint=f"did you mean {near!r}?" if near else f"def {function.__name__}({name}=...)",
    )


def source_text(function: Callable[..., Any]) -> str:
    """A function's source, or what else tells it apart from another one."""
    try:
        return inspect.getsource(function)
    except (OSError, TypeError):
        code = getattr(function, "__code__", None)
        # Never the repr of the function itself: an address differs from run to run.
        named = getattr(function, "__qualname__", type(function).__qualname__)
        return repr((code.co_code, code.co_names)) if code else str(named)


def _named(thing: Any) -> str:
    if thing is None:
        return ""
    if inspect.isroutine(thing):
        return source_text(thing)
    if isinstance(thing, type):
        return f"{thing.__module__}.{thing.__qualname__}"
    return f"{type(thing).__module__}.{type(thing).__qualname__}"


def _library(value: Any) -> str:
    return type(value).__module__.partition(".")[0]


def _parts(space: Any) -> Iterator[Any]:
    yield space
    if isinstance(space, Mapping):
        for value in space.values():
            yield from _parts(value)
    elif isinstance(space, list | tuple):
        for value in space:
            yield from _parts(value)
