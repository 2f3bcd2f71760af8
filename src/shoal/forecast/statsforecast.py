"""Nixtla's StatsForecast models as estimators of a fleet."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from shoal.forecast.base import Forecaster
from shoal.forecast.series import Step

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

    Args:
        model: The model's settings; see `wrap`, which reads them from one.
        horizon: Steps to forecast; None: half as many as there were in training, and a season at
            least.
        step: From one moment to the next, in the unit of the times (seconds), or ``"month"``,
            ``"quarter"``, ``"year"``; None finds it.

    Attributes:
        path_: The forecasts of the steps after training, shape (horizon,).
    """

    at_once = False
    path_: Any

    def __init__(
        self, model: Mapping[str, Any], *, horizon: int | None = None, step: Step = None
    ) -> None:
        self.model = model
        self.horizon = horizon
        self.step = step

    def _check(self, values: Array) -> None:
        if self.horizon is not None and self.horizon < 1:
            raise ValueError(f"horizon is {self.horizon!r}; expected a number of steps, 1 or more")
        if len(values) < 2:
            raise ValueError("a StatsForecast model needs 2 steps or more")

    def _learn(self, series: list[Array]) -> Mapping[str, Array]:
        return {"path_": np.array([self._path(values) for values in series])}

    def _path(self, values: Array) -> Array:
        gaps = np.isnan(values)
        if gaps.any():
            at = np.arange(len(values))
            values = np.interp(at, at[~gaps], values[~gaps])
        horizon = self.horizon or max(len(values) // 2, 1)
        fitted = _made(self.model).fit(np.ascontiguousarray(values))
        path = fitted.predict(h=max(horizon, self._season()))["mean"]
        return np.asarray(path, dtype=np.float64)

    def _season(self) -> int:
        found = self.model.get("season_length", 1)
        return int(max(found) if isinstance(found, list | tuple) else found or 1)

    def _say(self, places: Array) -> Array:
        ahead = (places - self.last_).astype(np.int64) - 1
        at = np.where(ahead < 0, ahead % self._season(), ahead)
        found: Array = self.path_[np.minimum(at, len(self.path_) - 1)]
        return np.where(at < len(self.path_), found, np.nan)


def wrap(model: Any, *, horizon: int | None = None, step: Step = None) -> StatsForecastModel:
    """A StatsForecast model as a scikit-learn estimator.

    A function under `@shoal.model` may return the StatsForecast model itself; this gives it a
    horizon or a step.

    Args:
        model: Such as ``AutoETS(season_length=24)``; one that needs no other columns.
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
