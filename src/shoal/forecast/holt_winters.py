"""Exponential smoothing with trend and season, after Holt and Winters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from shoal.forecast.base import Forecaster, check_season
from shoal.forecast.recursion import Shape
from shoal.forecast.series import Step
from shoal.forecast.smoothing import smooth

__all__ = ["HoltWinters"]

Array = np.ndarray[Any, Any]


class HoltWinters(Forecaster):
    """Exponential smoothing: a level, a trend and a season that follow the newest values.

    The equations are those of Hyndman and Athanasopoulos, *Forecasting: Principles and Practice*
    (3rd edition, chapter 8). Smoothing parameters that are not given minimise the sum of squared
    one-step errors, by a quasi-Newton method from the best of a few starts. Level,
    trend and season begin as the first (up to five) seasons say. A missing value changes nothing.

    Args:
        season: The season's length in steps; 1 means no season.
        trend: ``"add"`` or None.
        seasonal: ``"add"``, ``"mul"`` (the values must be positive) or None.
        damped: Whether the trend fades with the horizon.
        alpha: The level's smoothing, between 0 and 1; None finds it, as below.
        beta: The trend's, as a share of the change of level.
        gamma: The season's; at most ``1 - alpha`` when found.
        phi: The trend's damping; between 0.8 and 0.98 when found.
        step: From one moment to the next, in the unit of the times (seconds), or ``"month"``,
            ``"quarter"``, ``"year"``; None finds it.

    Attributes:
        level_: At the end of training.
        trend_: Its change per step; 0 without trend.
        season_: By place, from the first moment on; zeros (or ones) without season. Shape
            (season,).
        alpha_: The smoothing used; so ``beta_``, ``gamma_`` and ``phi_`` (1 when not damped).
    """

    level_: Any
    trend_: Any
    season_: Any
    phi_: Any

    def __init__(
        self,
        season: int = 1,
        *,
        trend: str | None = "add",
        seasonal: str | None = "add",
        damped: bool = False,
        alpha: float | None = None,
        beta: float | None = None,
        gamma: float | None = None,
        phi: float | None = None,
        step: Step = None,
    ) -> None:
        self.season = season
        self.trend = trend
        self.seasonal = seasonal
        self.damped = damped
        self.alpha = alpha
        self.beta = beta
        self.gamma = gamma
        self.phi = phi
        self.step = step

    def _shape(self) -> Shape:
        season = check_season("HoltWinters", self.season)
        if self.trend not in ("add", None):
            raise ValueError(f"HoltWinters: trend is {self.trend!r}; expected 'add' or None")
        if self.seasonal not in ("add", "mul", None):
            raise ValueError(
                f"HoltWinters: seasonal is {self.seasonal!r}; expected 'add', 'mul' or None"
            )
        if self.damped and self.trend is None:
            raise ValueError("HoltWinters: damped=True needs a trend to damp; found trend=None")
        given = {"alpha": self.alpha, "beta": self.beta, "gamma": self.gamma, "phi": self.phi}
        for name, value in given.items():
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"HoltWinters: {name} is {value!r}; expected from 0 to 1")
        seasonal = self.seasonal if season > 1 else None
        return Shape(
            season=season if seasonal else 1,
            trend=self.trend is not None,
            damped=bool(self.damped),
            times=seasonal == "mul",
            seasonal=seasonal is not None,
            given=given,
        )

    def _check(self, values: Array) -> None:
        shape = self._shape()
        needed, found = max(2 * shape.season, 3), len(values)
        if found < needed:
            raise ValueError(f"HoltWinters needs two seasons, {needed} steps; found {found}")
        least = float(np.nanmin(values))
        if shape.times and least <= 0:
            raise ValueError(
                f"HoltWinters: seasonal='mul' needs values above 0; found {least:g}; "
                "seasonal='add' takes all"
            )

    def _learn(self, series: list[Array]) -> Mapping[str, Array]:
        return smooth(series, self._shape())

    def _say(self, places: Array) -> Array:
        ahead = np.maximum(places - self.last_, 0.0)
        phi = float(self.phi_)
        steps = ahead if phi == 1.0 else phi * (1.0 - phi**ahead) / (1.0 - phi)
        level = self.level_ + steps * self.trend_
        season = self.season_[places.astype(np.int64) % len(self.season_)]
        times = self.seasonal == "mul" and self.season > 1
        found: Array = level * season if times else level + season
        return found
