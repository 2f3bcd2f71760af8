"""What all forecasters have: times in, and the same arithmetic for one series as for many."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin

from shoal.forecast.series import Grid, Step, count_moments, grid_of, grids_of

__all__ = ["Forecaster"]

Array = np.ndarray[Any, Any]


class Forecaster(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """A scikit-learn regressor whose one feature is the time.

    Times are numbers: seconds since 1970 (UTC) for dates and timestamps, or any number that rises
    by equal steps. Rows may come in any order and may be missing; rows of one moment are averaged.
    A moment after training is forecast from the end of training. One up to it is answered as if
    it came again: by its place in the season, as the season was at the end. For what would have
    been said of it at the time, ask a backtest.

    Attributes:
        needs_time: Tells `@shoal.model` to give the time column as the one feature.
        at_once: Whether many series are fitted faster together.
        takes_features: Whether other features may follow the time.
    """

    needs_time = True
    at_once = True
    takes_features = False
    step: Step

    start_: Any
    step_: Any
    last_: Any

    def fit(self, X: Any, y: Any) -> Forecaster:  # noqa: N803
        """Learn one series.

        Args:
            X: Times, shape (rows, 1).
            y: Targets, shape (rows,).

        Raises:
            ValueError: The times are irregular, the series too short, or a setting is wrong.
        """
        times, values = self._times(X), np.asarray(y, dtype=np.float64).reshape(-1)
        if not len(times):
            raise ValueError(f"{type(self).__name__} was given no rows")
        grid = grid_of(times, values, self.step)
        self._check(grid.values)
        self.take({name: learned[0] for name, learned in self._placed([grid]).items()})
        return self

    def take(self, learned: Mapping[str, Any]) -> None:
        """Become a fitted forecaster.

        Args:
            learned: The fitted attributes, as `fit_many` gives them for one series.
        """
        for name, value in learned.items():
            setattr(self, name, value)
        self.n_features_in_ = 1

    def fit_many(
        self, times: Sequence[Array], values: Sequence[Array]
    ) -> tuple[dict[str, Array], Array]:
        """Learn many series at once; each to the same numbers as `fit` does.

        Args:
            times: Of each series.
            values: Its targets.

        Returns:
            The fitted attributes, the first axis of each being the series; and the numbers of
            the series that could be learned, which these are.
        """
        grids, at = grids_of(times, values, self.step)
        good = [i for i, grid in enumerate(grids) if self._is_good(grid.values)]
        if not good:
            return {}, at[:0]
        return self._placed([grids[i] for i in good]), at[good]

    def predict(self, X: Any) -> Array:  # noqa: N803
        """Forecast.

        Args:
            X: Times, shape (rows, 1); one between two steps counts for the nearer.

        Returns:
            Float64, shape (rows,).
        """
        from sklearn.utils.validation import check_is_fitted

        check_is_fitted(self, "start_")
        moments = count_moments(self._times(X), self.step)
        return self._say(np.rint((moments - self.start_) / self.step_))

    def _placed(self, grids: list[Grid]) -> dict[str, Array]:
        learned: dict[str, Array] = {
            "start_": np.array([grid.start for grid in grids]),
            "step_": np.array([grid.step for grid in grids]),
            "last_": np.array([len(grid.values) - 1 for grid in grids], dtype=np.int64),
        }
        return learned | dict(self._learn([grid.values for grid in grids]))

    def _times(self, given: Any) -> Array:
        if hasattr(given, "dtypes") or hasattr(given, "columns"):  # a data frame
            given = np.asarray(given)
        times = np.asarray(given)
        if times.dtype.kind == "M":
            times = times.astype("datetime64[us]").astype(np.int64) / 1e6
        times = np.asarray(times, dtype=np.float64)
        if times.ndim == 2 and times.shape[1] != 1:
            raise ValueError(
                f"{type(self).__name__} forecasts from the time alone; found {times.shape[1]} "
                "features: leave features= out, or name the time column only"
            )
        times = times.reshape(-1)
        if not np.isfinite(times).all():
            raise ValueError(f"{type(self).__name__}: a time is missing or infinite")
        return times

    def _is_good(self, values: Array) -> bool:
        try:
            self._check(values)
        except ValueError:
            return False
        return True

    def _check(self, values: Array) -> None:
        """Raise when the settings are wrong, or such a series cannot be learned."""
        raise NotImplementedError

    def _learn(self, series: list[Array]) -> Mapping[str, Array]:
        """Fitted attributes of series with NaN in the gaps; the first axis is the series."""
        raise NotImplementedError

    def _say(self, places: Array) -> Array:
        """Forecasts of places on the grid, counted from the first; the last known is ``last_``."""
        raise NotImplementedError


def check_season(name: str, season: Any) -> int:
    """A season's length in steps.

    Raises:
        ValueError: It is no whole number above 0.
    """
    if isinstance(season, bool) or not isinstance(season, int | np.integer) or season < 1:
        raise ValueError(f"{name}: season is {season!r}; expected a number of steps, 1 or more")
    return int(season)
