"""Declaring a model: a decorated function that returns an unfitted estimator."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TypeVar

from shoal.lake import split_pin
from shoal.models.declaration import ModelDeclaration
from shoal.models.search import Search

__all__ = ["collecting_models", "model"]

F = TypeVar("F", bound=Callable[..., Any])

_collected: ContextVar[list[ModelDeclaration] | None] = ContextVar(
    "shoal_collected_models", default=None
)


def model(
    *,
    table: str,
    target: str,
    by: Sequence[str] = (),
    time: str | None = None,
    weight: str | None = None,
    metric: str = "mae",
    metrics: Sequence[str] = (),
    features: Sequence[str] | None = None,
    key: Sequence[str] = (),
    baseline: str = "mean",
    params: Mapping[str, object] | None = None,
    holdout: float = 0.2,
    backtest: int = 1,
    interval: float | None = None,
    min_rows: int = 30,
    seed: int = 0,
    timeout: float | None = None,
    batched: bool = True,
    trust_pickle: bool = False,
    promote_if: str | None = None,
    search: Search | None = None,
    workers: int | None = None,
    name: str | None = None,
) -> Callable[[F], F]:
    """Declare a model over a function that returns an unfitted scikit-learn estimator.

    Example::

        @shoal.model(table="gold.delay_features", target="arr_delay", by=["carrier", "dest"])
        def delay(alpha: float = 1.0):
            return make_pipeline(StandardScaler(), Ridge(alpha=alpha))

    Args:
        table: The table it learns from, as it is when it is trained; ``gold.features@v12``,
            ``gold.features@2026-01-01`` or ``gold.features@my_snapshot`` is one version for good.
        target: The column it predicts.
        by: Columns whose distinct values are the segments: one model each. Empty: one model.
        time: Column that orders rows in time.
        weight: Column of numbers from 0 up: how much a row counts in fits, as ``sample_weight`` of
            the last step of a pipeline. Metrics count all rows alike; rows whose weight is
            missing, infinite or negative are left out.
        metric: One of `metric_names`.
        metrics: More metrics to measure.
        features: Columns it predicts from; default every other numeric or boolean column, or for a
            forecaster the time. A date or timestamp that is named counts its seconds since 1970.
        key: Columns that identify a row.
        baseline: ``mean``, ``last`` or ``seasonal_naive:<feature column>``.
        params: Arguments for the function.
        holdout: Share of each segment held out to measure it.
        backtest: Windows of time that the holdout is measured in, each by a model of all earlier
            rows.
        interval: Share of future targets that prediction intervals are to cover, such as 0.9.
        min_rows: Segments with fewer training rows use a fallback.
        seed: Seeds everything random in the training.
        timeout: Seconds that one segment may take; one that takes longer has failed.
        batched: Fit many segments at once where the maths allows: linear models, forecasters.
        trust_pickle: Pickle estimators that cannot be stored otherwise. Whoever opens a pickled
            model runs whatever code is in it; a server refuses it until it is told to trust it.
        promote_if: What a new version must meet to become the champion, in metrics of its own and
            of the champion: ``mae < champion.mae * 0.99 and failed_share < 0.01``.
        search: A search for the function's parameters, instead of ``params``.
        workers: Processes that fit the model together, each with its rows of every batch: nets of
            skorch, Keras's wrappers, XGBoost, or an estimator's own ``fit_shard``.
        name: The model's name; default the function's.

    Returns:
        A decorator that registers the declaration and returns the function unchanged.

    Raises:
        ModelError: An argument is wrong.
    """

    def declare(function: F) -> F:
        declared = ModelDeclaration(
            name=name or str(getattr(function, "__name__", "")),
            table=split_pin(table)[0],
            pin=split_pin(table)[1],
            target=target,
            by=_names(by),
            time=time,
            weight=weight,
            metric=metric,
            metrics=_names(metrics),
            features=None if features is None else _names(features),
            key=_names(key),
            baseline=baseline,
            params=dict(params or {}),
            holdout=holdout,
            backtest=backtest,
            interval=interval,
            min_rows=min_rows,
            seed=seed,
            timeout=timeout,
            batched=batched,
            trust_pickle=trust_pickle,
            promote_if=promote_if,
            search=search,
            workers=workers,
            function=function,
            location=_location(function),
        )
        active = _collected.get()
        if active is not None:
            active.append(declared)
        return function

    return declare


@contextmanager
def collecting_models() -> Iterator[list[ModelDeclaration]]:
    """Collect the models declared inside the ``with`` block, in the order of declaration."""
    found: list[ModelDeclaration] = []
    token = _collected.set(found)
    try:
        yield found
    finally:
        _collected.reset(token)


def _location(function: Callable[..., Any]) -> str:
    code = getattr(inspect.unwrap(function), "__code__", None)
    if code is None:  # a class, or a partial: no line of its own
        return str(getattr(function, "__module__", "unknown"))
    return f"{Path(code.co_filename).name}:{code.co_firstlineno}"


def _names(columns: Sequence[str]) -> tuple[str, ...]:
    # A bare string is one column: by="carrier" must not mean seven one-letter columns.
    return (columns,) if isinstance(columns, str) else tuple(columns)
