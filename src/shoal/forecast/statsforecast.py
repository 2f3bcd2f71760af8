"""Nixtla's StatsForecast models as estimators of a fleet."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from shoal.forecast.base import Forecaster
from shoal.forecast.series import Step, grid_of

__all__ = ["StatsForecastModel", "wrap"]

Array = np.ndarray[Any, Any]

_PACKAGE = "statsforecast"
_CLASS = "class"
_PLAIN = (str, int, float, bool, type(None))


class StatsForecastModel(Forecaster):
    """A StatsForecast model, told apart from its data: what it is, and what it forecasts.

    A member keeps the forecasts of the next ``horizon`` steps, which is all that anyone asks of
    it; so it is stored without pickle and served without StatsForecast. Moments beyond the horizon
    have no forecast (NaN). Gaps are filled by straight lines, since StatsForecast takes none.

    Columns after the time are other features, such as a temperature, where the model takes them
    (ARIMA, AutoARIMA, AutoRegressive): their effect is kept beside the forecasts, which are those
    without it. So a moment is forecast with the values that the features have then.

    Args:
        model: The model's settings; see `wrap`, which reads them from one.
        horizon: Steps to forecast; None: half as many as there were in training, and a season at
            least.
        step: From one moment to the next, in the unit of the times (seconds), or ``"month"``,
            ``"quarter"``, ``"year"``; None finds it.

    Attributes:
        path_: The forecasts of the steps after training where all other features are 0, shape
            (horizon,).
        coef_: What each other feature adds for each unit of it, shape (other features,).
    """

    at_once = False
    takes_features = True
    path_: Any
    coef_: Any

    def __init__(
        self, model: Mapping[str, Any], *, horizon: int | None = None, step: Step = None
    ) -> None:
        self.model = model
        self.horizon = horizon
        self.step = step

    def fit(self, X: Any, y: Any) -> StatsForecastModel:  # noqa: N803
        """Learn one series.

        Args:
            X: Times and other features, shape (rows, 1 + other features).
            y: Targets, shape (rows,).

        Raises:
            ValueError: The times are irregular, the series too short, a setting is wrong, or the
                model cannot take other features.
        """
        times, others = _apart(X)
        when = self._times(times)
        self._others = [grid_of(when, column, self.step).values for column in others.T]
        super().fit(times, y)
        del self._others
        self.n_features_in_ = 1 + others.shape[1]
        return self

    def predict(self, X: Any) -> Array:  # noqa: N803
        """Forecast; see `Forecaster.predict`.

        Args:
            X: Times and other features, shape (rows, 1 + other features).
        """
        times, others = _apart(X)
        path: Array = super().predict(times)
        return path + others @ self.coef_ if others.shape[1] else path

    def _check(self, values: Array) -> None:
        if self.horizon is not None and self.horizon < 1:
            raise ValueError(f"horizon is {self.horizon!r}; expected a number of steps, 1 or more")
        if len(values) < 2:
            raise ValueError("a StatsForecast model needs 2 steps or more")

    def _learn(self, series: list[Array]) -> Mapping[str, Array]:
        (values,) = series
        path, coef = self._path(values)
        return {"path_": path[None], "coef_": coef[None]}

    def _path(self, values: Array) -> tuple[Array, Array]:
        values = _without_gaps(values)
        horizon = max(self.horizon or max(len(values) // 2, 1), self._season())
        model = _made(self.model)
        if not self._others:
            path = model.fit(values).predict(h=horizon)["mean"]
            return np.asarray(path, dtype=np.float64), np.empty(0)
        name = type(model).__name__
        if not getattr(model, "uses_exog", False):
            raise ValueError(
                f"{name} forecasts from the time alone; leave features= out, or use ARIMA, "
                "AutoARIMA or AutoRegressive"
            )
        others = np.column_stack([_without_gaps(column) for column in self._others])
        fitted = model.fit(values, X=others)

        def forecast(row: Array) -> Array:
            asked = np.repeat(row[None], horizon, axis=0)
            return np.asarray(fitted.predict(h=horizon, X=asked)["mean"], dtype=np.float64)

        path = forecast(np.zeros(others.shape[1]))
        coef = np.array([(forecast(unit) - path)[0] for unit in np.eye(others.shape[1])])
        # What is stored is a line in the other features, so the model must be one.
        for row in (others[-1], others.mean(axis=0), np.eye(others.shape[1]).sum(axis=0)):
            said, kept = forecast(row), path + row @ coef
            if np.abs(said - kept).max() > 1e-6 * max(np.abs(said).max(), 1.0):
                raise ValueError(
                    f"{name}'s forecasts are no straight line in the other features, so they "
                    "cannot be kept; leave features= out, or use ARIMA, AutoARIMA or "
                    "AutoRegressive"
                )
        return path, coef

    def _season(self) -> int:
        found = self.model.get("season_length", 1)
        return int(max(found) if isinstance(found, list | tuple) else found or 1)

    def _say(self, places: Array) -> Array:
        ahead = (places - self.last_).astype(np.int64) - 1
        at = np.where(ahead < 0, ahead % self._season(), ahead)
        found: Array = self.path_[np.minimum(at, len(self.path_) - 1)]
        return np.where(at < len(self.path_), found, np.nan)


def _apart(given: Any) -> tuple[Any, Array]:
    """The times, and the other features."""
    if np.ndim(given) < 2 or np.shape(given)[1] == 1:
        return given, np.empty((len(given), 0))
    rows = np.asarray(given, dtype=np.float64)
    return rows[:, :1], rows[:, 1:]


def _without_gaps(values: Array) -> Array:
    gaps = np.isnan(values)
    if gaps.any():
        at = np.arange(len(values))
        values = np.interp(at, at[~gaps], values[~gaps])
    return np.ascontiguousarray(values)


def wrap(model: Any, *, horizon: int | None = None, step: Step = None) -> StatsForecastModel:
    """A StatsForecast model as a scikit-learn estimator.

    A function under `@shoal.model` may return the StatsForecast model itself; this gives it a
    horizon or a step.

    Args:
        model: Such as ``AutoETS(season_length=24)``.
        horizon: Steps to forecast; see `StatsForecastModel`.
        step: From one moment to the next.

    Raises:
        ValueError: It is none of StatsForecast's, or holds what cannot be written down.
    """
    return StatsForecastModel(_described(model, type(model).__name__), horizon=horizon, step=step)


def is_statsforecast(model: Any) -> bool:
    """Whether it is one of StatsForecast's models."""
    return type(model).__module__.partition(".")[0] == _PACKAGE


def _described(value: Any, where: str) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if type(value) in _PLAIN:
        return value
    if isinstance(value, list | tuple):
        return [_described(each, where) for each in value]
    if isinstance(value, dict) and all(isinstance(k, str) and k != _CLASS for k in value):
        return {key: _described(each, f"{where}[{key!r}]") for key, each in value.items()}
    if is_statsforecast(value) and callable(getattr(value, "forecast", None)):
        settings = {k: v for k, v in vars(value).items() if k != "model_"}
        found = {k: _described(v, f"{where}.{k}") for k, v in settings.items()}
        return {_CLASS: f"{type(value).__module__}.{type(value).__qualname__}", **found}
    hint = ""
    if where.endswith(".prediction_intervals"):
        hint = ": leave prediction_intervals out, and declare @shoal.model(..., interval=0.9)"
    raise ValueError(f"{where} is {value!r:.80}, which cannot be written down{hint}")


def _made(settings: Any) -> Any:
    if isinstance(settings, list):
        return [_made(each) for each in settings]
    if not isinstance(settings, Mapping):
        return settings
    content = {key: _made(value) for key, value in settings.items()}
    path = content.pop(_CLASS, None)
    if path is None:
        return content
    module, _, name = str(path).rpartition(".")
    if module.partition(".")[0] != _PACKAGE:
        raise ValueError(f"{path} is none of StatsForecast's models")
    cls = getattr(importlib.import_module(module), name)
    made = cls.__new__(cls)
    vars(made).update(content)
    return made
