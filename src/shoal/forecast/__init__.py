"""Estimators of series: what a moment of a segment will be, from the moments before it.

*A forecaster is an estimator whose one feature is the time.* So it is fitted, measured, stored and
served as every other member of a fleet: ``fit(times, targets)``, ``predict(times)``. Rows come in
any order and with gaps; many series are fitted at once by the same arithmetic as one.
"""

from __future__ import annotations

from shoal.forecast.base import Forecaster
from shoal.forecast.fourier import Fourier
from shoal.forecast.holt_winters import HoltWinters
from shoal.forecast.lags import Lags
from shoal.forecast.naive import SeasonalNaive
from shoal.forecast.statsforecast import StatsForecastModel, wrap

__all__ = [
    "Forecaster",
    "Fourier",
    "HoltWinters",
    "Lags",
    "SeasonalNaive",
    "StatsForecastModel",
    "wrap",
]
