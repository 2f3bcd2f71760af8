"""A declared model: what it learns from, how it is measured, and its unfitted estimator."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from shoal.errors import ModelError, nearest
from shoal.models.deep import seeded, wrapped
from shoal.models.gate import Gate
from shoal.models.metrics import metric_names, metric_task
from shoal.models.search import Search, source_text

__all__ = ["ModelDeclaration"]


@dataclass(frozen=True, kw_only=True)
class ModelDeclaration:
    """One declared model.

    Attributes:
        name: The model's name, also of its registered model and its ``shoal.fleet_<name>`` table.
        table: The table it learns from, such as ``gold.delay_features``.
        pin: The version it learns from: ``v12``, ``2026-01-01`` or a snapshot's name; None for the
            newest. It is no part of the definition: another version is other data.
        target: The column it predicts.
        by: The columns whose distinct values are the segments; empty for one model.
        time: The column that orders rows in time; the holdout is the last share by it.
        weight: The column that says how much a row counts in fits, from 0 up. Metrics, baselines
            and intervals count all rows alike.
        metric: The metric that names winners; see `metric_names`.
        metrics: More metrics to measure.
        features: The columns it predicts from; None for every numeric or boolean column that is
            not otherwise named here.
        key: The columns that identify a row; copied to predictions.
        baseline: What a model must beat: ``mean`` (the training mean, or the most frequent
            class), ``last`` (the last training target) or ``seasonal_naive:<feature column>``
            (that column is the forecast).
        params: Arguments for the function.
        holdout: The share of each segment that is held out to measure it; 0 measures nothing.
            The kept model is fitted on all rows, after it was measured on the holdout.
        backtest: How many windows of time the holdout is measured in, each predicted by a model
            that was fitted on all rows before it: rolling-origin evaluation (Tashman, 2000).
        interval: The share of future targets that prediction intervals are to cover, such as 0.9;
            None makes no intervals.
        min_rows: A segment with fewer training rows uses a fallback.
        seed: Seeds the split (without ``time``) and the fallback groups' samples.
        timeout: Seconds that one segment may take, its measuring included; then it has failed.
        batched: Segments of linear models and forecasters are fitted many at once; False fits one
            after the other.
        trust_pickle: Pickle estimators that cannot be stored otherwise, and open them again.
        promote_if: A gate that a new version must pass to become the champion; see
            `shoal.models.gate`.
        search: How the function's parameters are searched for; None takes ``params``.
        tuned: What a search found instead of ``params``, by the key of a segment or of its first
            key columns, such as ``["UA"]``, or by a cluster such as ``{"region":"north"}``.
        workers: How many processes fit the model together; None fits it in one, by itself.
        function: Returns the unfitted estimator.
        location: Where the function was declared, as ``file.py:12``.
    """

    name: str
    table: str
    target: str
    by: tuple[str, ...] = ()
    time: str | None = None
    weight: str | None = None
    metric: str = "mae"
    metrics: tuple[str, ...] = ()
    features: tuple[str, ...] | None = None
    key: tuple[str, ...] = ()
    baseline: str = "mean"
    params: Mapping[str, object] = field(default_factory=dict)
    holdout: float = 0.2
    backtest: int = 1
    interval: float | None = None
    min_rows: int = 30
    seed: int = 0
    timeout: float | None = None
    batched: bool = True
    trust_pickle: bool = False
    promote_if: str | None = None
    pin: str | None = None
    search: Search | None = None
    tuned: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    workers: int | None = None
    function: Callable[..., Any]
    location: str

    def __post_init__(self) -> None:
        where = f"Model {self.name!r} ({self.location})"
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", self.name):
            raise ModelError(
                f"{where}: a name is letters, digits and underscores, not starting with a digit.",
                hint='give one: @shoal.model(name="delay", ...)',
            )
        for metric in (self.metric, *self.metrics):
            if metric_task(metric) is None:
                near = nearest(metric, metric_names())
                raise ModelError(
                    f"{where}: unknown metric {metric!r}; known: {', '.join(metric_names())}.",
                    hint=f'did you mean metric="{near}"?' if near else None,
                )
        self._check_evaluation(where)
        if self.min_rows < 1:
            raise ModelError(f"{where}: min_rows is {self.min_rows}; expected 1 or more.")
        if self.timeout is not None and (self.timeout <= 0 or not self.by):
            raise ModelError(
                f"{where}: timeout is {self.timeout}; expected seconds above 0, and by=."
            )
        kind, _, column = self.baseline.partition(":")
        plain = kind in ("mean", "last") and not column
        if not plain and not (kind == "seasonal_naive" and column):
            raise ModelError(
                f"{where}: unknown baseline {self.baseline!r}; expected mean, last or "
                "seasonal_naive:<feature column>."
            )
        self._check_roles(where)
        self._check_workers(where)
        if self.promote_if is not None:
            try:
                Gate(self.promote_if)
            except ModelError as error:
                raise ModelError(f"{where}: {error.message}", hint=error.hint) from None
        if self.search is not None:
            self.search.check(where, self.function, self.by)

    def _check_evaluation(self, where: str) -> None:
        if not 0 <= self.holdout < 1:
            raise ModelError(f"{where}: holdout is {self.holdout}; expected 0 <= holdout < 1.")
        if self.backtest < 1:
            raise ModelError(f"{where}: backtest is {self.backtest}; expected 1 or more windows.")
        if self.backtest > 1 and not (self.time and self.holdout):
            raise ModelError(
                f"{where}: backtest={self.backtest} needs time= and a holdout: its windows are "
                "the holdout's, one after the other."
            )
        if self.interval is not None and not (0 < self.interval < 1 and self.holdout):
            raise ModelError(
                f"{where}: interval is {self.interval}; expected 0 < interval < 1, and a holdout, "
                "whose errors tell its width."
            )
        if "mase" in (self.metric, *self.metrics) and not (
            self.time or self.baseline.startswith("seasonal_naive:")
        ):
            raise ModelError(
                f"{where}: mase compares with the naive forecast of the training rows.",
                hint='give time="..." or baseline="seasonal_naive:<feature column>"',
            )

    def _check_workers(self, where: str) -> None:
        if self.workers is None:
            return
        if self.workers < 1:
            raise ModelError(f"{where}: workers is {self.workers}; expected 1 or more.")
        if self.by:
            raise ModelError(
                f"{where}: workers={self.workers} fits one model in several processes, but by= "
                "makes many models, which are fitted side by side anyway.",
                hint="leave workers out; how many processes fit a fleet is the profile's: "
                "[profiles.default] workers = 8 in shoal.toml",
            )
        if self.weight:
            raise ModelError(f"{where}: workers= does not take weights of rows yet.")

    def _check_roles(self, where: str) -> None:
        one = {"time": self.time, "weight": self.weight}
        roles: dict[str, tuple[str, ...]] = {"by": self.by, "key": self.key}
        roles |= {name: (column,) for name, column in one.items() if column}
        for role, columns in roles.items():
            if self.target in columns:
                raise ModelError(f"{where}: column {self.target!r} is both target and {role}.")
        if self.features is not None:
            if not self.features:
                raise ModelError(f"{where}: features is empty; leave it out to use all columns.")
            if self.target in self.features:
                raise ModelError(f"{where}: the target {self.target!r} is also a feature.")
        for role, column in one.items():
            if column and column in self.by:
                raise ModelError(f"{where}: column {column!r} is both {role} and by.")
        if self.weight and self.weight == self.time:
            raise ModelError(f"{where}: column {self.weight!r} is both weight and time.")

    @property
    def clusters(self) -> tuple[str, ...]:
        """The columns whose values have parameters of their own, by a search; mostly none."""
        if self.search is not None:
            return self.search.clusters(self.by)
        scope = next(iter(self.tuned), "[]")
        return tuple(json.loads(scope)) if scope.startswith("{") else ()

    def build(self) -> Any:
        """A new unfitted estimator.

        Raises:
            ModelError: The function failed, or returned something without ``fit`` and
                ``predict``.
        """
        where = f"Model {self.name!r} ({self.location})"
        try:
            estimator = seeded(lambda: self.function(**self.params), self.seed)
        except Exception as error:
            raise ModelError(
                f"{where}: the function raised {type(error).__name__}: {error}",
                hint=_pip_line(error),
            ) from error
        if "statsforecast" in sys.modules:
            estimator = _wrapped(estimator, where)
        estimator = wrapped(estimator, self.seed)
        missing = [a for a in ("fit", "predict") if not callable(getattr(estimator, a, None))]
        if missing or isinstance(estimator, type):
            found = (
                f"the class {estimator.__name__}, not an instance"
                if isinstance(estimator, type)
                else f"a {type(estimator).__name__} without {' and '.join(missing)}"
            )
            raise ModelError(
                f"{where}: the function returned {found}; expected an unfitted estimator.",
                hint=_example(estimator),
            )
        return estimator

    def fingerprint(self) -> str:
        """SHA-256 over the declared fields and the function's source text."""
        source = source_text(self.function)
        if self.pin:
            source = source.replace(f"{self.table}@{self.pin}", self.table)
        fields = {
            "name": self.name,
            "table": self.table,
            "target": self.target,
            "by": self.by,
            "time": self.time,
            "metric": self.metric,
            "features": self.features,
            "key": self.key,
            "baseline": self.baseline,
            "params": {k: repr(v) for k, v in sorted(self.params.items())},
            "holdout": self.holdout,
            **self._measured(),
            "min_rows": self.min_rows,
            "seed": self.seed,
            "source": source,
            **self._searched(),
        }
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()

    def _measured(self) -> dict[str, object]:
        # Only what was declared: members of before there were these stay what they are.
        given: dict[str, object] = {"metrics": self.metrics, "interval": self.interval}
        if self.backtest > 1:
            given["backtest"] = self.backtest
        given["trust_pickle"] = self.trust_pickle
        given["weight"] = self.weight
        given["workers"] = self.workers
        return {name: value for name, value in given.items() if value}

    def _searched(self) -> dict[str, object]:
        # Only what was declared: members of before there were searches stay what they are.
        found: dict[str, object] = {}
        if self.search is not None:
            found["search"] = {**self.search.description(), "trials": self.search.trials}
        if self.tuned:
            scopes = sorted(self.tuned.items())
            found["tuned"] = [[key, {n: repr(v) for n, v in p.items()}] for key, p in scopes]
        return found


# The extras that bring what a model's function may import.
_EXTRAS = {
    "keras": "tensorflow",
    "lightgbm": "lightgbm",
    "safetensors": "torch",
    "skorch": "torch",
    "statsforecast": "forecast",
    "tensorflow": "tensorflow",
    "torch": "torch",
    "xgboost": "xgboost",
}


def _pip_line(error: Exception) -> str | None:
    top = (getattr(error, "name", None) or "").partition(".")[0]
    found = isinstance(error, ImportError) and _EXTRAS.get(top)
    return f"install it: pip install 'shoal[{found}]'" if found else None


def _example(estimator: Any) -> str:
    if hasattr(estimator, "named_parameters"):
        return "give the module a loop: return skorch.NeuralNetRegressor(module, max_epochs=20)"
    if type(estimator).__module__.startswith("keras."):
        return "return keras.wrappers.SKLearnRegressor(model, fit_kwargs={'epochs': 20})"
    return "return one, for example: return Ridge(alpha=1.0)"


def _wrapped(estimator: Any, where: str) -> Any:
    from shoal.forecast import wrap
    from shoal.forecast.statsforecast import is_statsforecast

    if isinstance(estimator, type) or not is_statsforecast(estimator):
        return estimator
    try:
        return wrap(estimator)
    except ValueError as error:
        raise ModelError(f"{where}: {error}.") from error
