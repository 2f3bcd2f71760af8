"""The forecast that every other must beat: as it was a season ago."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from shoal.forecast.base import Forecaster, check_season
from shoal.forecast.series import Step

__all__ = ["SeasonalNaive"]

Array = np.ndarray[Any, Any]


class SeasonalNaive(Forecaster):
    """Forecast each moment by the last known value at the same place of the season.

    Args:
        season: The season's length in steps; 1 forecasts the last value.
        step: From one moment to the next, in the unit of the times (seconds), or ``"month"``,
            ``"quarter"``, ``"year"``; None finds it.

    Attributes:
        season_: The last known value of each place of the season, from the first moment on; the
            mean of the others where none is known. Shape (season,).
    """

    season_: Any

    def __init__(self, season: int = 1, step: Step = None) -> None:
        self.season = season
        self.step = step

    def _check(self, values: Array) -> None:
        season, found = check_season("SeasonalNaive", self.season), len(values)
        if found < season:
            raise ValueError(f"SeasonalNaive needs a season, {season} steps; found {found}")

    def _learn(self, series: list[Array]) -> Mapping[str, Array]:
        season = int(self.season)
        found = np.full((len(series), season), np.nan)
        for known, values in zip(found, series, strict=True):
            # Newest first: seldom does anything lie further back than a season or two.
            for end in range(len(values), 0, -season):
                missing = np.isnan(known)
                if not missing.any():
                    break
                last = np.arange(max(end - season, 0), end)
                last = last[missing[last % season]]
                known[last % season] = values[last]
            missing = np.isnan(known)
            if missing.any():
                known[missing] = known[~missing].mean()
        return {"season_": found}

    def _say(self, places: Array) -> Array:
        found: Array = self.season_[places.astype(np.int64) % len(self.season_)]
        return found
