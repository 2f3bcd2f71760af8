"""Regression on a series' own earlier values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from shoal.forecast.base import Forecaster
from shoal.forecast.fourier import Fourier
from shoal.forecast.series import Grid, Step

__all__ = ["Lags"]

Array = np.ndarray[Any, Any]

# Steps after which a forecast stays as it is: by then nothing is left of the last values.
_FARTHEST = 10_000


class Lags(Forecaster):
    """Forecast by a regression on earlier values, their means, and waves of the time.

    A row's features are the values ``lags`` steps before it, the means of the last ``means``
    values before it, and the waves, in this order. A member keeps the last values of its training
    rows, and a moment h steps after them is forecast by h steps, each from the values and the
    forecasts before it. So it is measured as it is used: a holdout is forecast from its first row
    on, without a look at the others. Where the true earlier values are known when a row is scored,
    make them columns in the pipeline instead (``lag(y) OVER (...)``) and fit any regression.

    Rows whose value, or one of whose lags, is missing are left out of the fit; means are those of
    the values that are there. Gaps among the last values are taken for the value before them. A
    moment up to the end of training is answered by the mean of the training values: what was
    forecast of it then, a backtest tells.

    Args:
        lags: How many steps back; a number n is the same as 1, 2, ..., n.
        means: Over how many of the last values.
        waves: Seasons of the time, as `Fourier` makes them of the one time column.
        regressor: An unfitted scikit-learn regressor; None is ridge regression of standardised
            features, fitted for many series at once.
        alpha: The penalty of that ridge regression, above 0.
        step: From one moment to the next, in the unit of the times (seconds), or ``"month"``,
            ``"quarter"``, ``"year"``; None finds it.

    Attributes:
        tail_: The last values, as many as the farthest lag needs; shape (reach,).
        mean_: The mean of the training values.
        coef_: Of each feature; shape (features,). Of the ridge regression alone.
        intercept_: Likewise.
        regressor_: The fitted regressor, where one was given.
    """

    tail_: Any
    mean_: Any
    coef_: Any
    intercept_: Any

    def __init__(
        self,
        lags: int | Sequence[int] = 1,
        *,
        means: Sequence[int] = (),
        waves: Fourier | None = None,
        regressor: Any = None,
        alpha: float = 1.0,
        step: Step = None,
    ) -> None:
        self.lags = lags
        self.means = means
        self.waves = waves
        self.regressor = regressor
        self.alpha = alpha
        self.step = step

    @property
    def at_once(self) -> bool:  # type: ignore[override]
        """Whether many series are fitted faster together."""
        return self.regressor is None

    def fit(self, X: Any, y: Any) -> Lags:  # noqa: N803
        """Learn one series; see `Forecaster.fit`."""
        from sklearn.base import clone

        super().fit(X, y)
        if self.regressor is not None:
            rows, target = self._table(self._grid)
            self.regressor_ = clone(self.regressor).fit(rows, target)
            del self._grid
        return self

    def table(self, X: Any, y: Any) -> tuple[Array, Array]:  # noqa: N803
        """What the regression is fitted on.

        Args:
            X: Times, shape (rows, 1).
            y: Targets, shape (rows,).

        Returns:
            Features, shape (rows, features), and targets, of the rows that have all of them.
        """
        from shoal.forecast.series import grid_of

        times, values = self._times(X), np.asarray(y, dtype=np.float64).reshape(-1)
        grid = grid_of(times, values, self.step)
        self._check(grid.values)
        return self._table(grid)

    def _placed(self, grids: list[Grid]) -> dict[str, Array]:
        learned = {
            "start_": np.array([grid.start for grid in grids]),
            "step_": np.array([grid.step for grid in grids]),
            "last_": np.array([len(grid.values) - 1 for grid in grids], dtype=np.int64),
            "tail_": np.array([_filled(grid.values)[-self._reach() :] for grid in grids]),
            "mean_": np.array([np.nanmean(grid.values) for grid in grids]),
        }
        if self.regressor is not None:
            (self._grid,) = grids
            return learned
        return learned | self._solved([self._table(grid) for grid in grids])

    def _solved(self, tables: list[tuple[Array, Array]]) -> dict[str, Array]:
        """Ridge regressions of standardised features; each to the same numbers as alone."""
        width = tables[0][0].shape[1]
        gram, cross = np.empty((len(tables), width, width)), np.empty((len(tables), width, 1))
        middle, scale = np.empty((2, len(tables), width))
        level = np.empty(len(tables))
        for i, (rows, target) in enumerate(tables):
            middle[i], level[i] = rows.mean(axis=0), target.mean()
            apart = rows - middle[i]
            spread = np.sqrt((apart * apart).mean(axis=0))
            # What is constant but for rounding tells nothing.
            scale[i] = np.where(spread > 1e-12 * np.abs(middle[i]), spread, 1.0)
            apart /= scale[i]
            gram[i] = apart.T @ apart + float(self.alpha) * np.eye(width)
            cross[i, :, 0] = apart.T @ (target - level[i])
        found = np.linalg.solve(gram, cross)[:, :, 0] / scale
        return {"coef_": found, "intercept_": level - (middle * found).sum(axis=1)}

    def _table(self, grid: Grid) -> tuple[Array, Array]:
        values, reach = grid.values, self._reach()
        count = len(values) - reach
        columns = [values[reach - lag : reach - lag + count] for lag in self._lags()]
        known = ~np.isnan(values)
        plain = np.where(known, values, 0.0)
        for size in self.means:
            part = slice(reach - size, reach + count - 1)
            sums = sliding_window_view(plain[part], size).sum(axis=1)
            there = sliding_window_view(known[part], size).sum(axis=1)
            columns.append(np.where(there > 0, sums / np.maximum(there, 1), np.nan))
        rows = np.column_stack(columns)
        if self.waves is not None:
            times = grid.start + grid.step * np.arange(reach, len(values))
            rows = np.column_stack([rows, self._waves(times)])
        target = values[reach:]
        whole = ~np.isnan(target) & ~np.isnan(rows).any(axis=1)
        return np.ascontiguousarray(rows[whole]), target[whole]

    def _waves(self, times: Array) -> Array:
        assert self.waves is not None
        found: Array = self.waves.fit(times[:, None]).transform(times[:, None])
        return found

    def _lags(self) -> list[int]:
        return list(range(1, self.lags + 1)) if isinstance(self.lags, int) else list(self.lags)

    def _reach(self) -> int:
        return max(*self._lags(), *self.means, 1)

    def _check(self, values: Array) -> None:
        for name, steps in (("lags", self._lags()), ("means", list(self.means))):
            wrong = [s for s in steps if isinstance(s, bool) or not isinstance(s, int) or s < 1]
            if wrong or (name == "lags" and not steps):
                raise ValueError(
                    f"Lags: {name} is {getattr(self, name)!r}; expected steps back, 1 or more"
                )
        if not self.alpha > 0:
            raise ValueError(f"Lags: alpha is {self.alpha!r}; expected more than 0")
        if self.waves is not None and isinstance(self.step, str):
            raise ValueError(
                f"Lags: step is {self.step!r}, and waves need times that can be counted in "
                "seconds; leave waves out, and name a lag of a season"
            )
        needed = self._reach() + 2
        if len(values) < needed:
            raise ValueError(f"Lags needs {needed} steps or more; found {len(values)}")
        if len(self._table(Grid(start=0.0, step=1.0, values=values))[1]) < 2:
            raise ValueError("Lags: fewer than 2 rows have all their lags: the gaps are too many")

    def _say(self, places: Array) -> Array:
        ahead = np.minimum((places - self.last_).astype(np.int64), _FARTHEST)
        most = int(ahead.max(initial=0))
        path = np.full(most + 1, float(self.mean_))
        if most > 0:
            path[1:] = self._path(most)
        found: Array = path[np.maximum(ahead, 0)]
        return found

    def _path(self, steps: int) -> Array:
        """The forecasts of so many steps after training."""
        reach = len(self.tail_)
        known = np.concatenate([self.tail_, np.empty(steps)])
        back = np.array(self._lags())
        waves = np.empty((steps, 0))
        if self.waves is not None:
            moments = self.last_ + 1 + np.arange(steps)
            waves = self._waves(float(self.start_) + float(self.step_) * moments)
        row = np.empty(len(back) + len(self.means) + waves.shape[1])
        for i in range(steps):
            at = reach + i
            row[: len(back)] = known[at - back]
            for k, size in enumerate(self.means, len(back)):
                row[k] = known[at - size : at].mean()
            row[len(row) - waves.shape[1] :] = waves[i]
            if self.regressor is None:
                known[at] = row @ self.coef_ + self.intercept_
            else:
                known[at] = self.regressor_.predict(row[None])[0]
        return known[reach:]

    def _learn(self, series: list[Array]) -> Mapping[str, Array]:
        raise NotImplementedError  # the waves need the times, so `_placed` does it


def _filled(values: Array) -> Array:
    """Values with the one before in each gap; the first is known."""
    at = np.maximum.accumulate(np.where(np.isnan(values), 0, np.arange(len(values))))
    found: Array = values[at]
    return found
